"""A short version of `make chaos` on a real Apache Kafka: workers killed, the broker restarted, every frame once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import chaos
import pytest
from apache_kafka import KafkaMissing, class_path
from tiny import write_tiny_bundle

CHAOS = Path(__file__).parents[1] / "chaos.py"


def test_clips_are_files_or_the_videos_of_a_folder(tmp_path: Path) -> None:
    named = tmp_path / "named"
    for name in ("b.mp4", "a.mov", "c.jpg", "notes.txt"):
        (tmp_path / name).touch()
    named.touch()
    assert chaos.clips_of([named, tmp_path]) == [named, tmp_path / "a.mov", tmp_path / "b.mp4"]


@pytest.mark.parametrize(("there", "told"), [(True, "no video in this folder"), (False, "no such file")])
def test_what_holds_no_clip_is_told_before_anything_is_started(tmp_path: Path, there: bool, told: str) -> None:
    empty = tmp_path / "empty"
    if there:
        empty.mkdir()
    run = subprocess.run([sys.executable, str(CHAOS), str(empty)], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert told in run.stderr
    assert "fetch_clips.py" in run.stderr


@pytest.mark.kafka
@pytest.mark.slow
def test_every_frame_appears_once_whoever_is_killed(clips: dict[str, Path], tmp_path: Path) -> None:
    try:
        class_path()
    except KafkaMissing as missing:
        pytest.skip(str(missing))
    bundle = write_tiny_bundle(tmp_path / "tiny", identity=True).path
    options = [
        "--kills",
        "3",
        "--broker-kills",
        "1",
        "--streams",
        "6",
        "--loops",
        "1",
        "--pause",
        "2",
        "--timeout",
        "240",
        "--seed",
        "1",
    ]
    command = [sys.executable, str(CHAOS), *(str(clips[c]) for c in ("woman", "man", "face_noface")), *options]
    # A process of its own: what kafka-python leaves open when its broker dies is not this test's.
    run = subprocess.run(
        [*command, "--bundle", str(bundle), "--keep", str(tmp_path / "logs")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.stdout, run.stderr[-3000:]
    last = dict(item.split("=") for item in run.stdout.splitlines()[-1].split())
    assert {name: last[name] for name in ("kills", "lost", "doubled", "extra", "deadletters")} == {
        "kills": "3",
        "lost": "0",
        "doubled": "0",
        "extra": "0",
        "deadletters": "0",
    }
    assert int(last["frames"]) > 50
    assert float(last["max_score_diff"]) <= 1e-6
    assert run.returncode == 0
