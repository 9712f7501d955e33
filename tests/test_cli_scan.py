"""`difffake scan` as people and scripts use it."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import cv2
import msgspec
import pytest
from command_line import run
from media_files import write_video
from tiny import write_tiny_bundle

from difffake.bundle import Bundle
from difffake.detector import Detector
from difffake.files import not_written, write_whole
from difffake.results import ScanResult
from stream.commands_scan import ScanDocument
from stream.scan_table import COLUMNS, ScoreTable


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def base(tiny_bundle: Bundle) -> list[str]:
    return ["--bundle", str(tiny_bundle.path), "--threads", "1"]


def test_a_table_per_person_and_window(
    clips: dict[str, Path], base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scan", clips["woman"], *base, "--window", 10) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in (
        "WolfgangLanger_Pexels.mp4",
        "100% of",
        "model tiny-",
        "person 1",
        "0 to 10 s",
        "10 to 20 s",
        "artifact",
    ):
        assert text in out
    assert "identity: not available in this bundle" in out
    # What nobody knows who reads it for the first time: what p is, and what a self-anchor cannot see.
    assert "p: how often real footage" in out
    assert "a face that was false from the start on passes" in " ".join(out.split())


def test_json_on_stdout_is_all_there_is_on_stdout(
    clips: dict[str, Path], base: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run("scan", clips["man"], clips["face_noface"], *base, "--json", "-") == 0
    out, err = capfdbinary.readouterr()
    document = msgspec.json.decode(out, type=ScanDocument)
    assert [r.source.name for r in document.results] == ["single_face.mp4", "face_noface.mov"]
    assert document.failures == []
    assert b"person 1" in err


def test_the_command_and_the_python_api_say_the_same(
    clips: dict[str, Path], base: list[str], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    target = tmp_path / "deep" / "out.json"
    assert run("scan", clips["man"], *base, "--json", target, "-q") == 0
    document = msgspec.json.decode(target.read_bytes(), type=ScanDocument)
    settings = document.results[0].settings
    with Detector.load(tiny_bundle.path, settings) as detector:
        assert document.results[0] == detector.scan(clips["man"])


def test_settings_reach_the_scan(clips: dict[str, Path], base: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ["--fps", 2, "--duration", 1.4, "--window", 0.5, "--faces", 3, "--set", "suspicious_p=0.2"]
    assert run("scan", clips["man"], *base, *options, "--json", target, "-q") == 0
    result: ScanResult = msgspec.json.decode(target.read_bytes(), type=ScanDocument).results[0]
    assert result.frames_analysed == 3
    assert [w.start_s for w in result.people[0].windows] == [0, 0.5, 1.0]
    assert (result.settings.max_faces, result.settings.suspicious_p) == (3, 0.2)


def test_folders_are_walked_and_reports_written_for_each(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    for name in ("a/clip.mp4", "b/clip.mp4", "b/[bold]x\x1b[31m.MP4", ".hidden/clip.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(clips["man"].read_bytes())
    (folder / "notes.txt").write_text("no video")
    reports = tmp_path / "reports"
    assert run("scan", folder, *base, "--duration", 1, "--report", reports) == 0
    out, err = capsys.readouterr()
    assert err.startswith("note: ")  # what is left out is told: it might have been a video
    assert err.endswith(": notes.txt. To have one scanned, name it itself\n")
    assert sorted(p.name for p in reports.iterdir()) == ["bold_x_31m.MP4.html", "clip.mp4-2.html", "clip.mp4.html"]
    assert "[bold]x\N{REPLACEMENT CHARACTER}[31m.MP4" in out
    assert "\x1b" not in out
    assert all("<!doctype html>" in p.read_text() for p in reports.iterdir())


def test_one_report_by_name(clips: dict[str, Path], base: list[str], tmp_path: Path) -> None:
    target = tmp_path / "one.html"
    assert run("scan", clips["man"], *base, "--report", target, "-q") == 0
    assert "single_face.mp4" in target.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["one.html"]


def test_an_empty_folder_is_an_error(base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scan", tmp_path, *base) == 10
    assert "no video or image in this folder" in capsys.readouterr().err


def test_fail_on(clips: dict[str, Path], base: list[str]) -> None:
    always = ["--set", "suspicious_p=0.9999", "--set", "strong_p=1e-9", "--duration", "1", "-q"]
    assert run("scan", clips["man"], *base, *always, "--fail-on", "suspicious") == 3
    assert run("scan", clips["man"], *base, *always, "--fail-on", "strong") == 0
    assert run("scan", clips["man"], *base, *always) == 0


@pytest.mark.parametrize(
    "wrong",
    [["--fps", "0"], ["--set", "nonsense=1"], ["--set", "fps"], ["--set", "max_faces=many"], ["--fail-on", "x"]],
)
def test_wrong_usage(
    wrong: list[str], clips: dict[str, Path], base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scan", clips["man"], *base, *wrong) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_two_sources_do_not_fit_into_one_report(clips: dict[str, Path], base: list[str], tmp_path: Path) -> None:
    assert run("scan", clips["man"], clips["woman"], *base, "--report", tmp_path / "a.html") == 2


def test_a_report_that_cannot_be_written(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run("scan", clips["man"], *base, "-q", "--report", tmp_path / "file" / "a.html") == 18
    err = capsys.readouterr().err
    assert "cannot be written" in err
    assert err.count("\n") == 1


def test_a_disk_that_is_full_in_the_end_costs_the_report_alone(
    clips: dict[str, Path],
    base: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, _: bytes) -> None:
        raise not_written(str(path), OSError(28, "No space left on device"))

    monkeypatch.setattr(
        "stream.commands_scan.write_whole", lambda p, d: (full if p.suffix == ".html" else write_whole)(p, d)
    )
    target, report = tmp_path / "out.json", tmp_path / "a.html"
    assert run("scan", clips["man"], *base, "--fps", 1, "--report", report, "--json", target) == 18
    out, err = capsys.readouterr()
    assert "a.html: cannot be written (no space left on device)" in err
    assert "person 1" in out
    assert "report:" not in out
    document = msgspec.json.decode(target.read_bytes(), type=ScanDocument)
    assert [len(document.results), document.failures[0].exit_code] == [1, 18]


def test_a_bug_costs_one_line_and_not_the_other_files(
    clips: dict[str, Path],
    base: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    real = Detector.scan

    def scan(self: Detector, source: str, *_: object, **__: object) -> ScanResult:
        if "single_face" in source:
            raise ZeroDivisionError("division by zero")
        return real(self, source)

    monkeypatch.setattr(Detector, "scan", scan)
    target = tmp_path / "out.json"
    assert run("scan", clips["man"], clips["face_noface"], *base, "-q", "--json", target) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected ZeroDivisionError: division by zero. Please report this")
    assert err.count("\n") == 1
    assert len(msgspec.json.decode(target.read_bytes(), type=ScanDocument).results) == 1
    assert run("--debug", "scan", clips["man"], *base, "-q") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_empty_name_is_not_the_folder_that_one_is_in(
    base: list[str], clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").symlink_to(clips["man"].resolve())
    monkeypatch.chdir(tmp_path)
    assert run("scan", "", *base, "-q", "--json", "out.json") == 10
    document = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=ScanDocument)
    assert (document.results, document.failures[0].message) == ([], "an empty name")


def test_files_of_one_name_are_told_apart(
    base: list[str], clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("fake", "real", "torn"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for folder in ("fake", "real"):
        (tmp_path / "in" / folder / "1.mp4").symlink_to(clips["man"].resolve())
    (tmp_path / "in" / "torn" / "1.mp4").touch()
    (tmp_path / "in" / "other.mp4").touch()
    assert run("scan", tmp_path / "in", *base, "--duration", 1, "--json", tmp_path / "out.json") == 11
    document = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=ScanDocument)
    paths = [str(tmp_path / "in" / folder / "1.mp4") for folder in ("fake", "real", "torn")]
    assert [r.source.path for r in document.results] == paths[:2]
    assert [f.path for f in document.failures] == [str(tmp_path / "in" / "other.mp4"), *paths[2:]]
    told = capsys.readouterr()
    assert [line for line in told.out.splitlines() if line.endswith(".mp4")] == paths[:2]
    assert f"error: {paths[2]}: the file is empty" in told.err
    assert "error: other.mp4: the file is empty" in told.err


def test_a_table_of_scores_has_a_line_for_each_file_as_soon_as_it_is_done(
    clips: dict[str, Path],
    recognising: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, target = tmp_path / "new" / "scores.csv", tmp_path / "out.json"
    seen: list[int] = []
    real = Detector.scan

    def scan(self: Detector, source: str, *_: object, **__: object) -> ScanResult:
        seen.append(len(table.read_text().splitlines()))
        return real(self, source)

    monkeypatch.setattr(Detector, "scan", scan)
    options = ["--bundle", recognising, "--threads", "1", "-q", "--fps", 2, "--json", target]
    options += ["--scores", table, "--duration", 4, "--set", "anchor_gap_s=0.05"]
    assert run("scan", clips["man"], clips["no_face"], clips["face_noface"], *options) == 17
    assert seen == [1, 2, 3]
    with table.open(newline="") as file:
        man, no_face, _ = csv.DictReader(file)
    assert [man["path"], no_face["path"]] == [str(clips["man"]), str(clips["no_face"])]
    # Nobody was looked at: that is no score, and so no low one.
    assert (no_face["error"], no_face["artifact_score"], no_face["people"]) == ("NoFaceError", "", "")
    (person,) = msgspec.json.decode(target.read_bytes(), type=ScanDocument).results[0].people
    for evidence, verdict in person.verdicts.items():
        assert float(man[f"{evidence}_score"]) == pytest.approx(verdict.score, rel=1e-5)
        assert man[f"{evidence}_by"] == person.scores[evidence]
    windows = [w.artifact for w in person.windows if w.artifact is not None]
    assert person.verdicts["artifact"].frames == sum(w.frames for w in windows) == person.faces_scored
    means = sum(w.score * w.frames for w in windows) / person.faces_scored
    assert person.verdicts["artifact"].score == pytest.approx(means)


def test_a_damaged_video_without_a_face_is_told_as_damaged(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(write_video(tmp_path / "whole.mp4", frames=50).read_bytes())
    begin, end = data.index(b"mdat"), data.index(b"moov")
    for place in range((begin + end) // 2, end - 8, 200):
        data[place] ^= 0xFF
    (tmp_path / "damaged.mp4").write_bytes(bytes(data))
    assert run("scan", tmp_path / "damaged.mp4", *base) == 17
    said = capsys.readouterr().err
    # Where the damage ends the picture, "truncated" follows: x264 packs the clip otherwise on another processor.
    assert "could not be decoded" in said
    assert "Copy or download it again, or play it: what is damaged shows no face" in said


@pytest.mark.parametrize("name", ["a.tiff", "a.bmp", "a.avif"])
def test_pictures_that_ffmpeg_reads_are_pictures(
    name: str, clips: dict[str, Path], base: list[str], tmp_path: Path
) -> None:
    with av.open(str(clips["man"])) as video:
        picture = next(video.decode(video=0)).to_ndarray(format="bgr24")
    try:
        assert cv2.imwrite(str(tmp_path / name), picture)
    except cv2.error:
        pytest.skip("this OpenCV writes no AVIF")
    assert run("scan", tmp_path, *base, "-q", "--json", tmp_path / "out.json") == 0
    (result,) = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=ScanDocument).results
    assert result.source.kind == "image"


@pytest.fixture(scope="module")
def recognising(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with an identity network."""
    return write_tiny_bundle(tmp_path_factory.mktemp("recognising") / "tiny", identity=True).path


def test_a_video_is_held_against_enrolled_people(
    clips: dict[str, Path], recognising: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors, target = tmp_path / "anchors.msgpack", tmp_path / "out.json"
    options = ["--bundle", recognising, "--threads", "1"]
    enrol = ["enroll", "--stream", "news", "--person", "Jane Doe", "--out", anchors, "--trust", "-q", *options]
    assert run(*enrol, clips["man"]) == 0
    assert run("scan", clips["man"], "--anchor", anchors, *options, "--json", target) == 0
    told = capsys.readouterr().out
    assert "Jane Doe, footage enrolled as trusted (8 frames from single_face.mp4" in " ".join(told.split())
    assert "Is this still the person of the anchor?" in " ".join(told.split())
    (person,) = msgspec.json.decode(target.read_bytes())["results"][0]["people"]
    assert (person["label"], person["name"]) == ("Jane Doe", "Jane Doe")
    assert person["anchors"]["identity"]["origin"] == "enrolled"
    assert None not in person["frames"]["identity_p"]


def test_anchors_that_cannot_be_used_stop_the_scan(
    clips: dict[str, Path], recognising: Path, base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scan", clips["man"], *base, "--anchor", tmp_path / "none.msgpack") == 24
    assert "no such file" in capsys.readouterr().err
    broken = tmp_path / "broken.msgpack"
    broken.write_bytes(b"not anchors")
    assert run("scan", clips["man"], *base, "--anchor", broken) == 24
    assert "Traceback" not in capsys.readouterr().err
    other = tmp_path / "other.msgpack"
    options = ["--bundle", write_tiny_bundle(tmp_path / "b", seed=7, identity=True).path, "--threads", "1", "-q"]
    enrol = ["enroll", "--stream", "s", "--person", "P", "--out", other, "--trust", *options]
    assert run(*enrol, clips["man"]) == 0
    capsys.readouterr()
    assert run("scan", clips["man"], "--bundle", recognising, "--threads", "1", "--anchor", other) == 24
    assert "other networks" in capsys.readouterr().err


def test_lines_are_whole_in_a_pipe_and_indented_on_a_terminal(
    clips: dict[str, Path], base: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run("scan", clips["man"], *base, "--fps", 2) == 0
    told = capsys.readouterr().out.split("  person 1,")[1].split("who")[0].splitlines()[1:]
    assert len(told) > 3
    assert all(line.startswith("    ") and len(line) <= 60 for line in told if line.strip())
    monkeypatch.delenv("COLUMNS")
    assert run("scan", clips["man"], *base, "--fps", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("    artifact: Does this face") and "(p = " in line]) == 1


def test_a_narrow_terminal_loses_no_figure(
    clips: dict[str, Path], base: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert run("scan", clips["man"], *base, "--fps", 2) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if " s  " in line and "p=" in line]
    monkeypatch.setenv("COLUMNS", "40")
    assert run("scan", clips["man"], *base, "--fps", 2) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 40
    told = " ".join(out.split("by logit")[-1].split())
    assert re.findall(r"p=[\d.]+", told) == re.findall(r"p=[\d.]+", row)
    assert "who person 1, window 0 to 5 s, artifact " in told


def test_letters_that_the_terminal_lacks_end_nothing(clips: dict[str, Path], base: list[str], tmp_path: Path) -> None:
    path = tmp_path / "ümläut.mp4"
    path.symlink_to(clips["man"])
    command = [sys.executable, "-c", "from stream.entry import main; main()", "scan", str(path), *base, "--fps", "1"]
    found = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.startswith(b"?ml?ut.mp4\n")


@pytest.mark.usefixtures("hangup_by_default")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_scan_keeps_what_it_found_and_names_the_rest(
    signum: signal.Signals,
    clips: dict[str, Path],
    base: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    real = Detector.scan

    def scan(self: Detector, source: str, *_: object, **__: object) -> ScanResult:
        if "single_face" not in source:
            signal.raise_signal(signum)
        return real(self, source)

    monkeypatch.setattr(Detector, "scan", scan)
    sources, target = [clips[name] for name in ("man", "woman", "no_face")], tmp_path / "out.json"
    assert run("scan", *sources, *base, "--fps", 1, "-q", "--json", target) == 130
    document = msgspec.json.decode(target.read_bytes(), type=ScanDocument)
    assert [r.source.name for r in document.results] == [sources[0].name]
    assert [(f.name, f.exit_code) for f in document.failures] == [(s.name, 130) for s in sources[1:]]
    assert capsys.readouterr().err == "interrupted\n"


def test_a_picture_has_no_windows(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with av.open(str(clips["man"])) as video:
        next(video.decode(video=0)).to_image().save(tmp_path / "a.png")
    assert run("scan", tmp_path / "a.png", *base) == 0
    out = capsys.readouterr().out
    assert "100% of 1 frame scored" in out
    assert "window" not in out


def test_output_that_nobody_takes(clips: dict[str, Path], base: list[str]) -> None:
    command = [sys.executable, "-m", "stream.cli", "scan", str(clips["man"]), str(clips["man"]), "--fps", "1", *base]
    with subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize(
    "outputs",
    [
        ["--json", "{video}"],
        ["--scores", "{video}"],
        ["--scores", "{linked}"],
        ["--json", "{other}"],
        ["--json", "{tmp}/x", "--scores", "{tmp}/x"],
        ["--json", "{tmp}/x.html", "--report", "{tmp}/x.html"],
        ["--scores", "{notes}"],
    ],
)
def test_a_result_takes_no_place_of_a_video_of_notes_or_of_another_result(
    outputs: list[str], clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"video": tmp_path / "a.mp4", "other": tmp_path / "b.mp4", "notes": tmp_path / "notes.txt"}
    for name in ("video", "other"):
        names[name].write_bytes(clips["woman"].read_bytes())
    names["notes"].write_text("years of work\n")
    names |= {"linked": tmp_path / "linked.csv", "tmp": tmp_path}
    names["linked"].symlink_to(names["video"])
    before = {name: path.read_bytes() for name, path in names.items() if path.is_file()}
    assert run("scan", names["video"], *base, "-q", *(text.format(**names) for text in outputs)) == 18
    assert "error:" in capsys.readouterr().err
    assert {name: path.read_bytes() for name, path in names.items() if path.is_file()} == before
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("wrong", [["--anchor", "typo.msgpack"], ["--bundle", "nowhere"]])
def test_a_scan_that_cannot_begin_costs_no_table(
    wrong: list[str], clips: dict[str, Path], base: list[str], tmp_path: Path
) -> None:
    table = tmp_path / "s.csv"
    assert run("scan", clips["woman"], *base, "--duration", 1, "-q", "--scores", table) == 0
    before = table.read_bytes()
    assert run("scan", clips["woman"], *base, "-q", "--scores", table, *wrong) >= 20
    assert table.read_bytes() == before


def test_two_scans_do_not_write_one_table(clips: dict[str, Path], base: list[str], tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    with ScoreTable(table) as first:
        assert run("scan", clips["woman"], *base, "-q", "--scores", table) == 18
        first.add(["x"] * len(COLUMNS))
    assert len(table.read_text().splitlines()) == 2


def test_a_pipe_that_only_the_shell_knows_is_written(clips: dict[str, Path], base: list[str]) -> None:
    reading, writing = os.pipe()
    told: list[bytes] = []
    reader = threading.Thread(target=lambda: told.append(Path(f"/dev/fd/{reading}").read_bytes()))
    reader.start()
    assert run("scan", clips["woman"], *base, "--duration", 1, "-q", "--json", f"/dev/fd/{writing}") == 0
    os.close(writing)
    reader.join(30)
    os.close(reading)
    assert msgspec.json.decode(told[0], type=ScanDocument).results


@pytest.mark.parametrize(
    "wrong",
    [
        ["--fps", "inf"],
        ["--window", "inf"],
        ["--analysis-side", "1"],
        ["--analysis-side", "100000"],
        ["--set", "max_megapixels=inf"],
        ["--scores", "-"],
        ["--scores", "s.csv", "--resume", "--fail-on", "strong"],
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(wrong: list[str], clips: dict[str, Path], base: list[str]) -> None:
    assert run("scan", clips["woman"], *base, *wrong) == 2
