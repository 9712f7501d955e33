"""A recompressed video keeps its frames and their times, and loses what the CRF says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from difffake.errors import DataError, DiffFakeError
from difffake.evaluation import Codec, Recompression, recompress

WriteVideo = Callable[..., Path]
COLOURS = [(40 + 8 * i, 120, 200 - 8 * i) for i in range(16)]


def decode(path: Path) -> tuple[str, NDArray[np.uint8], list[float]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        times = [float(f.pts * f.time_base) for f in frames if f.pts is not None and f.time_base]
        return stream.codec_context.name, np.stack([f.to_ndarray(format="rgb24") for f in frames]), times


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """Noise over a still picture: costly to encode, so that the CRF shows."""
    rng = np.random.default_rng(0)
    path = tmp_path / "noisy.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(10):
            image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("codec", "name"), [(Codec.H264, "h264"), (Codec.H265, "hevc"), (Codec.VP9, "vp9"), (Codec.AV1, "libdav1d")]
)
def test_frames_size_and_times_stay(tmp_path: Path, write_video: WriteVideo, codec: Codec, name: str) -> None:
    source = write_video(tmp_path / "a.mp4", COLOURS, size=(96, 64))
    out = recompress(source, tmp_path / "out" / "b.mp4", Recompression(codec, crf=18))
    _, images, times = decode(source)
    codec_name, encoded, encoded_times = decode(out)
    assert codec_name == name
    assert encoded.shape == images.shape
    assert encoded_times == pytest.approx(times, abs=1e-4)
    assert np.abs(encoded.astype(int) - images).mean() < 4


def test_variable_frame_times_stay(tmp_path: Path, write_video: WriteVideo) -> None:
    times = [0, 0.1, 0.15, 0.4, 0.41, 0.9, 1.0, 2.0]
    source = write_video(tmp_path / "a.mp4", COLOURS[:8], times=times, size=(96, 64))
    out = recompress(source, tmp_path / "b.mp4")
    assert decode(out)[2] == pytest.approx(times, abs=1e-3)


def test_a_higher_crf_loses_more(tmp_path: Path, noisy: Path) -> None:
    images = decode(noisy)[1].astype(int)
    loss, size = [], []
    for crf in (10, 23, 40):
        out = recompress(noisy, tmp_path / f"{crf}.mp4", Recompression(crf=crf))
        loss.append(np.abs(decode(out)[1] - images).mean())
        size.append(out.stat().st_size)
    assert loss == sorted(loss)
    assert size == sorted(size, reverse=True)
    assert loss[2] > loss[0] + 5


def test_odd_sizes_lose_a_row_and_a_column(tmp_path: Path) -> None:
    source = tmp_path / "odd.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 97, 65, "bgr0"
        image = np.full((65, 97, 3), 120, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert decode(recompress(source, tmp_path / "b.mp4"))[1].shape == (1, 64, 96, 3)


@pytest.mark.parametrize("width", [256, 258])
def test_a_shrunken_picture_is_the_same_picture(tmp_path: Path, write_video: WriteVideo, width: int) -> None:
    source = write_video(tmp_path / "a.mkv", [(200, 60, 60)] * 4, [(60, 60, 200)] * 4, size=(width, 128))
    half = Recompression(crf=10, shrink=2)
    _, images, times = decode(recompress(source, tmp_path / "b.mp4", half))
    assert images.shape == (4, 64, 128, 3)
    assert times == pytest.approx(decode(source)[2], abs=1e-3)
    np.testing.assert_allclose(images[:, :, :60].mean((0, 1, 2)), (200, 60, 60), atol=6)
    np.testing.assert_allclose(images[:, :, -60:].mean((0, 1, 2)), (60, 60, 200), atol=6)
    assert str(half) == "h264-crf10-veryfast-by2"
    assert str(Recompression(crf=10)) == "h264-crf10-veryfast"


def test_a_picture_cannot_be_shrunk_to_nothing(tmp_path: Path, write_video: WriteVideo) -> None:
    source = write_video(tmp_path / "a.mp4", COLOURS[:2], size=(64, 30))
    with pytest.raises(DataError, match="64 x 30 px: too small"):
        recompress(source, tmp_path / "b.mp4", Recompression(shrink=16))
    for shrink in (0, 17):
        with pytest.raises(DataError, match="shrunk"):
            Recompression(shrink=shrink)


@pytest.mark.parametrize("crf", [-1, 52])
def test_a_crf_that_does_not_exist(crf: int) -> None:
    with pytest.raises(DataError, match="CRF"):
        Recompression(crf=crf)


def test_a_preset_that_does_not_exist() -> None:
    with pytest.raises(DataError, match="no preset"):
        Recompression(preset="../../x")


def test_what_cannot_be_encoded_leaves_no_file(tmp_path: Path, write_video: WriteVideo) -> None:
    source = write_video(tmp_path / "a.mp4", COLOURS[:2], size=(8, 8))
    with pytest.raises(DataError, match="cannot be encoded"):
        recompress(source, tmp_path / "out.mp4", Recompression(Codec.H265))
    text = tmp_path / "text.mp4"
    text.write_text("hello " * 100)
    with pytest.raises(DiffFakeError):
        recompress(text, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "text.mp4"]


def test_only_the_beginning(tmp_path: Path, write_video: WriteVideo) -> None:
    source = write_video(tmp_path / "a.mp4", COLOURS, size=(96, 64))
    _, images, times = decode(recompress(source, tmp_path / "b.mp4", stop_s=1.0))
    assert len(images) in (8, 9)
    assert times == pytest.approx([i / 8 for i in range(len(images))], abs=1e-4)
