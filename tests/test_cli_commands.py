"""The commands from faces to a bundle, and the demonstration, run as a user runs them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
import torch
from command_line import run

sys.path.insert(0, str(Path(__file__).parent / "training"))

from faces_on_disk import drawn_store

from difffake.bundle import Bundle
from difffake.errors import DataError, OutputError
from difffake.extractor import load_checkpoint, save_checkpoint
from difffake.training import loop
from stream import commands_train

NETWORK = ["--backbone", "mobilenetv3_small_050", "--no-pretrained"]
SMALL = ["--set", "batch_pairs=2", "--set", "workers=0", "--set", "validate_crops=6", "--set", "precision=fp32"]
SHARES = ["--clip-shares", "0.3", "0.1", "0.6"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, exported and fitted by the commands."""
    folder = tmp_path_factory.mktemp("trained")
    drawn_store(folder / "store", people=40, photos=2, clips=14, frames=24)
    assert run("train", folder / "store", "--out", folder / "run", "--images", "8", *NETWORK, *SMALL, *SHARES) == 0
    assert run("fit", folder / "store", folder / "run", "--out", folder / "bundle", "--name", "small", *SHARES) == 0
    return folder / "bundle"


def test_training_and_fitting_end_in_a_bundle_that_says_how_it_was_made(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    training = loaded.manifest.training
    assert loaded.model_id.startswith("small-")
    assert loaded.manifest.backbone == "mobilenetv3_small_050"
    assert training["images"] == 8
    assert training["onnx_against_torch"]["embedding_cosine_min"] > 0.999
    assert training["fitted_on"]["clips"] > 1


def test_a_bundle_that_is_there_is_replaced_only_when_asked(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", bundle.parent / "store", bundle.parent / "run", "--out", bundle, "--name", "small", *SHARES]
    before = (bundle / "manifest.json").stat().st_mtime_ns
    assert run(*fit) == OutputError.exit_code
    assert "a bundle is there already. Name a new folder with --out, or replace it with --overwrite" in (
        capsys.readouterr().err
    )
    assert (bundle / "manifest.json").stat().st_mtime_ns == before
    assert run(*fit, "--overwrite") == 0
    assert Bundle.load(bundle).model_id.startswith("small-")


def test_people_who_trained_are_never_taken_for_people_who_did_not(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, trained, others = bundle.parent / "store", bundle.parent / "run", ("--clip-shares", "0.1", "0.1", "0.8")
    assert run("fit", store, trained, "--out", tmp_path / "told") == 0
    fitted_on = [Bundle.load(one).manifest.training["fitted_on"] for one in (bundle, tmp_path / "told")]
    assert fitted_on[0] == fitted_on[1]
    capsys.readouterr()
    assert run("fit", store, trained, "--out", tmp_path / "other", *others) == DataError.exit_code
    assert "was trained with --clip-shares 0.3 0.1 0.6, not 0.1 0.1 0.8" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    more = ["--images", "12", *NETWORK, *SMALL]
    assert run("train", store, "--out", trained, *more, *others) == DataError.exit_code
    assert "was trained with another clip_shares" in capsys.readouterr().err


def test_a_run_that_is_not_whole_is_refused_and_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "run"
    shutil.copytree(bundle.parent / "run", trained)
    fit = ["fit", bundle.parent / "store", trained, "--out", tmp_path / "bundle"]
    # As a run that went on, and was stopped before it exported: the newer network beside the older file.
    checkpoint = load_checkpoint(trained / "model.pt")
    with torch.no_grad():
        for weight in checkpoint.extractor.parameters():
            weight.mul_(1.5)
    save_checkpoint(trained / "model.pt", checkpoint.extractor, side_px=checkpoint.side_px, step=checkpoint.step)
    assert run(*fit) == DataError.exit_code
    assert "is not what" in capsys.readouterr().err
    (trained / "settings.json").write_text("{")
    assert run(*fit) == DataError.exit_code
    assert "settings.json is missing or damaged" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_revision_is_that_of_this_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = commands_train._revision()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)  # noqa: S607
    as_somebody = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*as_somebody, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    monkeypatch.chdir(tmp_path)
    assert commands_train._revision() == here
    monkeypatch.setenv("PATH", "")
    assert commands_train._revision() == "unknown"


@pytest.mark.parametrize("setting", ["families={", "clip_shares=[1"])
def test_a_setting_that_is_torn_is_wrong_usage(tmp_path: Path, setting: str) -> None:
    assert run("train", tmp_path, "--out", tmp_path / "run", "--images", "8", "--set", setting) == 2


def test_an_interrupted_training_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn_store(tmp_path / "store", people=24, photos=1, clips=0, frames=0)
    stopped = loop.TrainResult(tmp_path / "model.pt", tmp_path / "best.pt", 16, 1.0, 1.0, True, None)
    monkeypatch.setattr(loop, "train", lambda *_, **__: stopped)
    assert run("train", tmp_path / "store", "--out", tmp_path / "run", "--images", "8") == 130
    assert capsys.readouterr().err == "stopped at step 16; the same command goes on from there\ninterrupted\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["crops", "{tmp}", "--out", "{tmp}/file/store"],
        ["evaluate", "{tmp}", "--layout", "folders", "--cache", "{tmp}/file"],
        ["robustness", "{tmp}", "--layout", "folders", "--out", "{tmp}/out", "--cache", "{tmp}/file"],
    ],
)
def test_a_folder_that_cannot_be_made_is_no_fault_to_report(
    arguments: list[str], clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("real", "fake"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.mp4").symlink_to(clips["man"].resolve())
    (tmp_path / "file").touch()
    assert run(*[a.replace("{tmp}", str(tmp_path)) for a in arguments]) == 18
    told = capsys.readouterr().err
    assert re.search(
        rf"^error: {tmp_path}/file\S*: (cannot be written \()?not a directory\)?\. Check the folder", told, re.MULTILINE
    )
    assert "report this" not in told


def test_a_training_without_an_end_says_what_ends_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", tmp_path / "store", "--out", tmp_path / "run") == 2
    assert "Give --minutes, --images, or --set steps=N" in capsys.readouterr().err


def test_a_bundle_of_our_own_scans_and_evaluates(bundle: Path, clips: dict[str, Path], tmp_path: Path) -> None:
    assert run("scan", clips["man"], "--bundle", bundle, "--json", tmp_path / "scan.json", "--quiet") == 0
    document = msgspec.json.decode((tmp_path / "scan.json").read_bytes())
    assert document["results"][0]["model_id"] == Bundle.load(bundle).model_id
    for label, name in (("real", "woman"), ("fake", "man")):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / f"{name}.mp4").symlink_to(clips[name].resolve())
    report = tmp_path / "report.json"
    options = ["--layout", "folders", "--cache", tmp_path / "cache", "--fps", "2", "--draws", "20"]
    assert (
        run(
            "evaluate",
            tmp_path / "set",
            *options,
            "--bundle",
            bundle,
            "--json",
            report,
            "--markdown",
            tmp_path / "r.md",
        )
        == 0
    )
    figures = msgspec.json.decode(report.read_bytes())
    assert figures["counts"]["videos_scored"] == {"real": 1, "fake": 1}
    assert 0 <= figures["scores"]["logit"]["frame"]["auc"] <= 1
    assert run("compare", report, report) == 0


def test_the_demonstration_of_files_writes_three_reports(
    clips: dict[str, Path], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    options = ["--source", clips["face_noface"], "--donor", clips["woman"], "--bundle", tiny_bundle.path]
    # The face leaves this clip before that half ends: the swap must cope with frames without a face.
    assert run("demo", "--files", "--out", out, *options) == 0
    for name in ("genuine", "swapped", "broadcast"):
        result = msgspec.json.decode((out / f"{name}.json").read_bytes())
        assert result["frames_analysed"] > 10
        assert "<html" in (out / f"{name}.html").read_text(encoding="utf-8")


def test_the_demonstration_takes_two_streams_through_a_worker(
    clips: dict[str, Path], tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, threads = tmp_path / "demo", threading.active_count()
    options = ["--source", clips["face_noface"], "--donor", clips["woman"], "--bundle", tiny_bundle.path]
    assert run("demo", "--out", out, "--speed", "50", *options) == 0
    assert threading.active_count() == threads
    printed = capsys.readouterr().out
    for stream, file in (("studio-1", "genuine"), ("studio-2", "swapped")):
        frames = msgspec.json.decode((out / f"{file}.json").read_bytes())["frames_analysed"]
        assert re.search(rf"^{stream} +{frames} ", printed, re.MULTILINE)
        assert f"{stream}: " in printed
        assert f"{file}.html" in printed
        assert "<html" in (out / f"{file}.html").read_text(encoding="utf-8")
    # A line across the terminal was 400 letters long where there is none.
    assert "\u2500" not in printed


def test_an_interrupted_demonstration_leaves_nothing_behind(
    clips: dict[str, Path], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out, scratch = tmp_path / "demo", tmp_path / "scratch"
    scratch.mkdir()
    options = ["--source", clips["face_noface"], "--donor", clips["woman"], "--bundle", tiny_bundle.path]
    command = [sys.executable, "-m", "stream.cli", "demo", "--out", out, "--speed", "1", *options]
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
        # A background job of a shell inherits that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        # Five of six seconds have come through the worker: both threads are at work.
        assert any("5.0 s  studio-" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "error" not in errors
    assert sorted(path.name for path in out.iterdir()) == ["genuine.mp4", "swapped.mp4"]
    # ONNX Runtime's own, from the moment when it is imported.
    assert {path.name for path in scratch.iterdir()} <= {".ses"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{tmp}/none", "--out", "{tmp}/run", "--minutes", "1"], "is no crop store"),
        (["fit", "{tmp}/none", "{tmp}/run", "--out", "{tmp}/b"], "no finished training run"),
        (["crops", "{tmp}/none", "--out", "{tmp}/store"], "none"),
        (["evaluate", "{tmp}", "--layout", "ffpp"], "{tmp}"),
        (["demo", "--source", "{tmp}/none.mp4", "--donor", "{tmp}/none.mp4", "--out", "{tmp}/o"], "none.mp4"),
    ],
)
def test_wrong_input_gets_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill = {"{tmp}": str(tmp_path)}
    filled = [a.replace("{tmp}", fill["{tmp}"]) for a in arguments]
    assert run(*filled) >= 10
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert message.replace("{tmp}", tmp_path.name) in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "{tmp}", "--layout", "folders", "--json", "{tmp}"],
        ["evaluate", "{tmp}", "--layout", "folders", "--markdown", "{tmp}"],
        ["robustness", "{tmp}", "--layout", "folders", "--out", "{tmp}"],
        ["adapt", "--real", "{tmp}", "--fake", "{tmp}", "--out", "{tmp}/b", "--json", "{tmp}"],
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The folder holds nothing to work on: that would be the other error.
    assert run(*[a.replace("{tmp}", str(tmp_path)) for a in arguments]) == 18
    assert "cannot be written (is a directory)" in capsys.readouterr().err


def test_a_demonstration_whose_folder_cannot_be_made_begins_no_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    nothing = tmp_path / "none.mp4"
    assert run("demo", "--out", tmp_path / "file" / "out", "--source", nothing, "--donor", nothing) == 18
    assert "cannot be written (not a directory)" in capsys.readouterr().err


def test_an_interrupt_before_the_command_has_begun_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_typer: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)
    assert run("scan", "clip.mp4") == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--layout", "folders", "--markdown", "{tmp}/report", "--json", "{tmp}/report"], "two results"),
        (["evaluate", "--layout", "ffpp", "--split", "{tmp}/split", "--json", "{tmp}/split"], "it is read"),
        (["robustness", "--layout", "folders", "--out", "{tmp}/report", "--json", "{tmp}/report"], "two results"),
    ],
)
def test_a_report_takes_no_place_of_another_or_of_what_is_read(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*[a.replace("{tmp}", str(tmp_path)) for a in arguments], tmp_path) == OutputError.exit_code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", "clip.mp4", "--json", "--threads", "1"],
        ["scan", "clip.mp4", "--json", "-q"],
        ["scan", "clip.mp4", "--report", "--faces=2"],
        ["alerts", "budget", "1", "--stream", "--evidence", "identity"],
        ["work", "--bootstrap-servers", "--topic", "video.in"],
    ],
)
def test_an_option_without_its_value_does_not_take_the_next_option_for_one(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert "needs a value" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["scan", "clip.mp4"], ["work"], ["bench", "clip.mp4"], ["doctor"]])
@pytest.mark.parametrize("threads", ["-1", "100000"])
def test_more_threads_than_any_machine_has_are_refused(command: list[str], threads: str) -> None:
    assert run(*command, "--threads", threads) == 2


@pytest.mark.parametrize("side", ["1", "100000"])
def test_a_side_at_which_no_face_can_be_found_is_wrong_usage(side: str) -> None:
    assert run("work", "--bootstrap-servers", "localhost:1", "--analysis-side", side) == 2


def test_a_value_may_begin_with_dashes_where_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("scan", "--json=--threads", "--quiet", "--", "--clip.mp4") == 10
    assert "--clip.mp4" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["--threads"]


def test_the_commands_load_without_torch() -> None:
    code = """
import sys, typer.main, stream.cli
dict(typer.main.get_group(stream.cli.app).commands)
sys.exit(any(m in sys.modules for m in ("torch", "sklearn", "onnx", "tensorrt")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    version = subprocess.run(
        [sys.executable, "-m", "stream.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("difffake ")
