"""`difffake bench`: what it measures is what a worker does; and the video it measures with."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import av
import pytest

from difffake.bundle import Bundle
from difffake.errors import BundleError, MediaFormatError
from difffake.faces import CenterFace
from difffake.networks import EngineChoice
from stream.bench.clips import encode, footage, headers
from stream.bench.clock import Moment, process_s, resident_mib
from stream.bench.side_by_side import worked_off_by
from stream.bench.stages import STAGES
from stream.cli import main
from stream.live import LiveSettings
from stream.publish import Form


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["bench", *map(str, arguments)])
    assert isinstance(left.value.code, int)
    said = capsys.readouterr()
    print(said.err)  # what a failed run says, in the report of a failed test
    return left.value.code, said.out


def test_every_frame_of_every_stream_is_measured(
    clips: dict[str, Path], bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = bench(
        capsys, clips["man"], "--bundle", bundle.path, "--streams", 2, "--threads", 1, "--batch", 2, "--json"
    )
    assert code == 0
    found = json.loads(said)
    assert set(found["stages"]) == set(STAGES)
    assert all(ms >= 0 for ms in found["stages"].values())
    assert found["stages"]["find"] > 0
    assert found["model_id"] == bundle.model_id
    # 2.4 s at 2 fps: the first frame, and one every half second.
    assert found["fps_per_stream"] * 2.4 == pytest.approx(5, abs=0.1)
    assert 0 < found["frames"] <= 10
    assert found["bound_fps"] == pytest.approx(1e3 / sum(found["stages"].values()))


def test_workers_beside_each_other_share_the_streams(
    clips: dict[str, Path], tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    one = [clips["man"], "--bundle", tiny_bundle.path, "--streams", 3, "--threads", 1, "--json"]
    found = [json.loads(bench(capsys, *one, "--workers", workers)[1]) for workers in (1, 2)]
    assert [(each["workers"], each["cores"]) for each in found] == [(1, 1), (2, 2)]
    assert found[1]["model_id"] == found[0]["model_id"]
    assert found[1]["fps_per_stream"] == found[0]["fps_per_stream"]
    assert found[1]["fps"] > 0


def test_a_worker_that_cannot_begin_holds_up_nobody(clips: dict[str, Path], tmp_path: Path) -> None:
    settings, choice = LiveSettings(threads=1), EngineChoice()
    with pytest.raises(BundleError):
        worked_off_by(2, footage(clips["man"], Form.SEGMENTS), tmp_path / "none", settings, choice, streams=2)


def test_a_file_that_is_no_video_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing" * 100)
    with pytest.raises(MediaFormatError):
        footage(broken, Form.SEGMENTS)
    code, _ = bench(capsys, broken)
    assert code == MediaFormatError.exit_code


def test_video_to_measure_with(clips: dict[str, Path], tmp_path: Path) -> None:
    made = encode([clips["woman"], clips["man"]], tmp_path / "two.mp4", width=640, height=360, seconds=2, faces=3)
    with av.open(str(made)) as opened:
        pictures = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    assert len(pictures) == 50
    assert pictures[0].shape == (360, 640, 3)
    assert len(CenterFace(threads=1).detect([pictures[10]])[0]) == 3
    segments, units = footage(made, Form.SEGMENTS), footage(made, Form.UNITS)
    assert [record.pictures for record in segments.records] == [25, 25]
    assert len(units.records) == 50
    assert segments.fps == units.fps == 25
    # Played again, times go on.
    rounds = [int(dict(headers(record, base_ns))["pts-ns"]) for base_ns, record in segments.rounds(2)]
    assert rounds == [0, 10**9, 2 * 10**9, 3 * 10**9]


def test_the_clock_counts_our_work() -> None:
    before, cpu_s = Moment.now(), process_s(os.getpid())
    while time.process_time() - before.cpu_s < 0.1:
        sum(range(1000))
    spent = Moment.now().since(before)
    assert spent.cpu_s >= 0.1
    assert process_s(os.getpid()) - cpu_s >= 0.08
    assert (spent + spent).cpu_s == pytest.approx(2 * spent.cpu_s)
    assert resident_mib(os.getpid()) > 1
