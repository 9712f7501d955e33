"""`difffake enroll` and `difffake anchors` on real clips."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import run
from tiny import write_tiny_bundle

from difffake.anchors import Origin
from difffake.anchors.file import load_anchors, read_anchors
from difffake.bundle import Bundle
from difffake.video import open_video


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def base(tiny_bundle: Bundle, tmp_path: Path) -> list[str]:
    target = ["--out", str(tmp_path / "anchors.msgpack"), "--stream", "news-1"]
    # The tiny bundle's calibrations are random numbers: what it calls suspicious says nothing.
    return [*target, "--bundle", str(tiny_bundle.path), "--threads", "1", "--trust"]


def write_video(path: Path, frames: list[np.ndarray], fps: float = 10) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def frames_of(clip: Path, seconds: float = 2.4, fps: float = 10) -> list[np.ndarray]:
    with open_video(clip, fps=fps, stop_s=seconds) as video:
        return [frame.image for frame in video]


def test_a_person_is_enrolled_shown_and_added_to(
    clips: dict[str, Path],
    base: list[str],
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "anchors.msgpack"
    assert run("enroll", clips["man"], "--person", "Jan", *base) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("Jan on news-1", "single_face.mp4", "8 of 12 good ones", "2.2 s", "Did this face change unnaturally"):
        assert text in out
    assert "identity  not answered by this anchor" in " ".join(out.split("\n")).replace("    ", "  ")
    assert run("enroll", clips["woman"], "--person", "Ann", "--duration", 3, "-q", *base) == 0
    assert run("anchors", path, "--bundle", tiny_bundle.path) == 0
    out = capsys.readouterr().out
    for text in ("stream news-1", "Jan", "Ann", "WolfgangLanger_Pexels.mp4"):
        assert text in out
    jan = load_anchors(path, tiny_bundle).people[0]
    assert (jan.name, jan.fps, jan.pool.origin, len(jan.pool)) == ("Jan", 5.0, Origin.ENROLLED, 8)
    (footage,) = jan.footage
    assert footage.name == "single_face.mp4"
    assert len(footage.sha256) == 64
    assert footage.duration_s == pytest.approx(2.4, abs=0.2)


def test_what_is_refused(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    man = frames_of(clips["man"])
    twice = write_video(tmp_path / "twice.mp4", [np.concatenate([f, f], axis=1) for f in man])
    blurred = write_video(tmp_path / "blurred.mp4", [cv2.GaussianBlur(f, (0, 0), 14) for f in man])
    small = write_video(tmp_path / "small.mp4", [cv2.resize(f, (96, 54)) for f in man])
    still = tmp_path / "still.png"
    cv2.imwrite(str(still), cv2.cvtColor(man[0], cv2.COLOR_RGB2BGR))
    told = {
        clips["no_face"]: (17, "no_face.mp4: no face in 20 analysed frames"),
        twice: (24, "two or more people at once in 12 of 12 frames"),
        blurred: (24, "mostly unfit (blurred)"),
        small: (24, "unfit (too small)"),
        still: (24, "this bundle has no identity network"),
        tmp_path / "nothing.mp4": (10, "no such file"),
    }
    for clip, (code, text) in told.items():
        assert run("enroll", clip, "--person", "Jan", *base, "--analysis-side", 640) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert text in err
        assert err.count("\n") == 1
    assert run("enroll", clips["man"], "--person", "Jan", "--duration", 1, *base) == 24
    assert "too short" in capsys.readouterr().err
    assert not (tmp_path / "anchors.msgpack").exists()


def test_another_stream_needs_overwrite(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "anchors.msgpack"
    again = ["enroll", str(clips["man"]), "--person", "Jan", "-q", *base]
    assert run(*again) == 0
    assert run(*again, "--stream", "news-2") == 24
    assert "of the stream news-1, not news-2" in capsys.readouterr().err
    assert run(*again, "--stream", "news-2", "--overwrite") == 0
    assert read_anchors(path).stream == "news-2"


def test_photos_and_the_identity_of_footage(
    clips: dict[str, Path], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    knows = write_tiny_bundle(tmp_path / "bundle", identity=True)
    base[base.index("--bundle") + 1] = str(knows.path)
    photos = []
    for number, frame in enumerate(frames_of(clips["man"])[::8]):
        photos.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(photos[-1]), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert run("enroll", *photos, "--person", "Jan", *base) == 0
    out = capsys.readouterr().out
    assert "Is this still the person of the anchor?" in out
    assert "of their centre" in out
    jan = load_anchors(tmp_path / "anchors.msgpack", knows).people[0]
    assert (len(jan.pool), jan.pool.has_artifact, jan.pool.has_identity) == (3, False, True)
    assert [f.duration_s for f in jan.footage] == [None] * 3
    assert run("enroll", photos[0], "--person", "Jan", *base) == 24
    assert "1 photo: too few" in capsys.readouterr().err
    assert run("enroll", clips["man"], clips["woman"], "--duration", 3, "--person", "Jan", *base) == 24
    told = capsys.readouterr().err
    assert "more than one person: another face in" in told
    assert "WolfgangLanger_Pexels.mp4 from" in told
    twice = [np.concatenate([f, f], axis=1) for f in frames_of(clips["man"])]
    assert run("enroll", write_video(tmp_path / "twice.mp4", twice), "--person", "Jan", *base) == 24
    assert "the same face twice in one picture in 12 of 12 frames" in capsys.readouterr().err


def test_wrong_usage(clips: dict[str, Path], base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("enroll", clips["man"], *base) == 2
    assert run("enroll", clips["man"], "--person", "Jan", "--fps", 0, *base) == 2
    assert run("enroll", *[clips["man"]] * 65, "--person", "Jan", *base) == 2
    assert run("enroll", clips["man"], "--person", "\x1b[31m", *base) == 24
    assert run("anchors", clips["man"]) == 24
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[bold]Jan[/bold]", "Jan [link=x]"])
def test_names_are_not_markup(
    text: str,
    clips: dict[str, Path],
    base: list[str],
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("enroll", clips["man"], "--person", text, *base) == 0
    assert run("anchors", tmp_path / "anchors.msgpack", "--bundle", tiny_bundle.path) == 0
    assert capsys.readouterr().out.count(text) == 2
