"""Decoding on the GPU: what falls back is counted and told once, and the pictures are software's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import av.codec.context
import av.error
import pytest
import structlog.testing
from media_files import write_video
from stream_media import AV1_GOP, H264_B, H265_OPEN, segment, unit_records

import difffake.hardware
from difffake.errors import EngineHostError
from difffake.hardware import HardwareCounts
from difffake.video import open_video
from stream.decode import DecodeSettings, Payload, StreamDecoder
from stream.decode.hardware import HardwareUse, Hwaccel, hardware_status, problem

HERE = problem()
without_gpu = pytest.mark.skipif(HERE is None, reason="this host decodes on its GPU")


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> HardwareCounts:
    fresh = HardwareCounts()
    monkeypatch.setattr(difffake.hardware, "COUNTS", fresh)
    monkeypatch.setattr("stream.decode.hardware.COUNTS", fresh)
    return fresh


def stream_pictures(mode: Hwaccel, payloads: list[Payload]) -> list[tuple[int, str]]:
    decoder = StreamDecoder(DecodeSettings(fps=None, hwaccel=mode))
    found = []
    for payload in payloads:
        found += [(f.pts_ns, hashlib.sha256(f.image).hexdigest()) for f in decoder.decode(payload).frames]
    found += [(f.pts_ns, hashlib.sha256(f.image).hexdigest()) for f in decoder.drain().frames]
    return found


def records(kind: str) -> list[Payload]:
    options = {"video/h264": H264_B, "video/h265": H265_OPEN, "video/av1": AV1_GOP}
    return unit_records(kind, options[kind])


def segments(container: str, codec: str = "libx264") -> list[Payload]:
    return [Payload(segment(container, codec=codec), offset=n, timestamp_ms=1000 * n) for n in range(3)]


@pytest.mark.parametrize("kind", ["mp4", "mpegts", "video/h264", "video/h265", "video/av1"])
def test_the_pictures_are_those_of_software(kind: str) -> None:
    payloads = records(kind) if "/" in kind else segments(kind)
    software = stream_pictures(Hwaccel.OFF, payloads)
    assert len(software) > 20
    assert hardware_status().software == {}
    assert stream_pictures(Hwaccel.AUTO, payloads) == software
    status = hardware_status()
    assert status.hardware + sum(status.software.values()) == 1


@without_gpu
def test_a_stream_falls_back_once_and_says_so_once() -> None:
    with structlog.testing.capture_logs() as logs:
        stream_pictures(Hwaccel.AUTO, segments("mp4"))
        stream_pictures(Hwaccel.AUTO, records("video/h264"))
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("decoded in software", HERE)] * 2
    assert hardware_status().software == {HERE: 2}


@without_gpu
def test_files_fall_back_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=10)
    found = []
    for mode in (Hwaccel.OFF, Hwaccel.AUTO):
        with open_video(path, hwaccel=mode) as video:
            found.append([hashlib.sha256(frame.image).hexdigest() for frame in video])
    assert found[0] == found[1]
    assert hardware_status().software == {HERE: 1}


@without_gpu
def test_a_gpu_that_is_demanded_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(EngineHostError, match="cannot decode on the GPU") as caught:
        StreamDecoder(DecodeSettings(hwaccel=Hwaccel.CUDA))
    assert "hwaccel=auto" in caught.value.hint
    with pytest.raises(EngineHostError):
        open_video(write_video(tmp_path / "a.mp4", frames=2), hwaccel=Hwaccel.CUDA)


class TestWithAGpuThatIsPretended:
    """The driver answers, and then it goes this way or that."""

    @pytest.fixture(autouse=True)
    def driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(difffake.hardware, "problem", lambda: None)

    @without_gpu
    @pytest.mark.parametrize("kind", ["mp4", "video/h264"])
    def test_a_gpu_that_refuses_costs_no_picture(self, kind: str) -> None:
        payloads = records(kind) if "/" in kind else segments(kind)
        assert stream_pictures(Hwaccel.CUDA, payloads) == stream_pictures(Hwaccel.OFF, payloads)
        (reason,) = hardware_status().software
        assert reason.startswith("the GPU refused")

    def test_av1_is_not_asked_of_it(self) -> None:
        assert HardwareUse(Hwaccel.AUTO).accelerator("libdav1d") is None
        assert hardware_status().software == {"no hardware decoder for libdav1d": 1}

    def test_who_made_the_picture_is_seen_at_the_first_one(self) -> None:
        cases = {
            "cuda": (SimpleNamespace(name="h264", is_hwaccel=True, pix_fmt="cuda"), None),
            "10 bits": (
                SimpleNamespace(name="h264", is_hwaccel=True, pix_fmt="yuv420p10le"),
                "the GPU takes no such h264",
            ),
            "mjpeg": (
                SimpleNamespace(name="mjpeg", is_hwaccel=False, pix_fmt="yuvj420p"),
                "no hardware decoder for mjpeg",
            ),
        }
        use = HardwareUse(Hwaccel.AUTO, "camera 1")
        use.open(lambda hwaccel: hwaccel, "h264")
        for context, _ in cases.values():
            for _ in range(3):
                use.saw(context)  # type: ignore[arg-type]
        status = hardware_status()
        assert status.hardware == 1
        assert status.software == {reason: 1 for _, reason in cases.values() if reason}

    def test_a_broken_video_is_no_fault_of_the_gpu(self) -> None:
        def make(_: object) -> object:
            raise av.error.InvalidDataError(1, "broken")

        with pytest.raises(av.error.InvalidDataError):
            HardwareUse(Hwaccel.AUTO).open(make)
        assert hardware_status().software == {}

    def test_contexts_are_the_primary_one(self) -> None:
        accelerator = HardwareUse(Hwaccel.AUTO).accelerator("h264")
        assert accelerator is not None
        assert accelerator.options == {"primary_ctx": "1"}


def test_off_asks_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difffake.hardware, "problem", lambda: pytest.fail("the driver was asked"))
    use = HardwareUse(Hwaccel.OFF)
    assert use.open(lambda hwaccel: hwaccel, "h264") is None
    use.saw(av.codec.context.CodecContext.create("h264", "r"))
    assert hardware_status().hardware == 0
