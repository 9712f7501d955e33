"""difffake as a library: what a notebook or somebody's own program hands in, and what it is told."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import difffake
from difffake import Detector, Frame, ScanResult, ScanSettings
from difffake.bundle import Bundle
from difffake.errors import MediaNotFoundError, NoFaceError
from difffake.video import open_video

SETTINGS = ScanSettings(threads=1, analysis_side_px=320, duration_s=1.0)


@pytest.fixture(scope="module")
def detector(tiny_bundle: Bundle) -> Iterator[Detector]:
    with Detector.load(str(tiny_bundle.path), SETTINGS) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def frames(clips: dict[str, Path]) -> list[Frame]:
    with open_video(clips["man"], fps=5, stop_s=1.0) as video:
        return list(video)


def findings(result: ScanResult) -> bytes:
    """All that a result says of the pictures, and nothing of where they came from."""
    return msgspec.json.encode((result.people, result.moments, result.coverage, result.switches))


def test_the_names_that_a_user_needs_are_at_the_top() -> None:
    classes = sorted(set(difffake.__all__) - {"__version__"})
    assert [getattr(difffake, name).__name__ for name in classes] == classes
    with pytest.raises(AttributeError, match="Detectr"):
        _ = difffake.Detectr


def test_frames_in_memory_are_scanned_as_their_file_is(
    detector: Detector, clips: dict[str, Path], frames: list[Frame]
) -> None:
    ends: list[float] = []
    result = detector.scan_frames((f for f in frames), lambda at, _: ends.append(at), name="a generator")
    assert findings(result) == findings(detector.scan(clips["man"]))
    assert (result.source.name, result.source.kind, result.source.sha256) == ("a generator", "video", None)
    assert (result.source.width, result.source.height) == (frames[0].image.shape[1], frames[0].image.shape[0])
    assert ends == [f.pts_s for f in frames]
    assert msgspec.json.decode(result.to_json(), type=ScanResult).people == result.people


def test_one_picture_in_memory_is_a_still_picture(detector: Detector, frames: list[Frame]) -> None:
    picture = frames[0].image
    still = detector.scan_frames(picture)
    assert still.source.kind == "image"
    assert set(still.people[0].verdicts) == {"artifact"}
    assert findings(detector.scan_frames(frames[:1])) == findings(still)
    turned = np.asfortranarray(picture)
    turned.setflags(write=False)
    assert findings(detector.scan_frames(turned)) == findings(still)


def write_pictures(path: Path, picture: npt.NDArray[np.uint8], count: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif" if path.suffix == ".gif" else "libx264", rate=5)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".mkv"])
@pytest.mark.parametrize(("count", "kind"), [(1, "image"), (2, "video")])
def test_a_file_of_one_picture_is_a_still_picture(
    detector: Detector, frames: list[Frame], tmp_path: Path, suffix: str, count: int, kind: str
) -> None:
    path = write_pictures(tmp_path / f"one{suffix}", frames[0].image, count)
    assert detector.scan(path).source.kind == kind


def test_a_video_of_which_one_frame_is_looked_at_is_none(tiny_bundle: Bundle, clips: dict[str, Path]) -> None:
    with Detector.load(tiny_bundle.path, msgspec.structs.replace(SETTINGS, duration_s=0.1)) as short:
        result = short.scan(clips["man"])
    assert (result.frames_analysed, result.source.kind) == (1, "video")


NO_PICTURES = {
    "grey": lambda rgb: rgb[..., 0],
    "with alpha": lambda rgb: np.dstack([rgb, rgb[..., :1]]),
    "planes first": lambda rgb: rgb.transpose(2, 0, 1),
    "0 to 1": lambda rgb: rgb / 255,
    "float32": lambda rgb: rgb.astype(np.float32),
    "16 bits": lambda rgb: rgb.astype(np.uint16) * 257,
    "empty": lambda rgb: rgb[:0],
}


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_no_other_array_is_taken_for_a_picture(detector: Detector, frames: list[Frame], kind: str) -> None:
    with pytest.raises(ValueError, match=r"a picture is RGB \(H, W, 3\) uint8"):
        detector.scan_frames(NO_PICTURES[kind](frames[0].image))


def test_what_is_no_frame_is_named(detector: Detector, frames: list[Frame]) -> None:
    with pytest.raises(TypeError, match="not ndarray"):
        detector.scan_frames([f.image for f in frames])  # type: ignore[misc]
    with pytest.raises(NoFaceError, match="0 analysed frames"):
        detector.scan_frames([])


@pytest.mark.parametrize("source", [None, 0, b"x.mp4", io.BytesIO(b"x"), ["x.mp4"], np.zeros((2, 2, 3), np.uint8)])
def test_a_source_is_a_path_or_an_address(detector: Detector, source: str) -> None:
    with pytest.raises(TypeError, match="a path or an address"):
        detector.scan(source)


def test_file_addresses_are_taken_apart(detector: Detector, clips: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "50% ä clip.mp4"
    copy.write_bytes(clips["man"].read_bytes())
    for address in (copy.as_uri(), f"FILE://localhost{copy.as_uri().removeprefix('file://')}", f"file://{copy}"):
        assert detector.scan(address).source.path == str(copy)


def test_an_address_that_became_a_path_is_named(detector: Detector) -> None:
    with pytest.raises(MediaNotFoundError) as raised:
        detector.scan(Path("rtsp://camera/stream"))
    assert "as text" in raised.value.hint


@pytest.mark.parametrize(
    "settings", [{"fps": "5"}, {"fps": None}, {"max_faces": 2.5}, {"guests": "yes"}, {"threads": None}]
)
def test_settings_of_the_wrong_kind_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(settings))} must be"):
        ScanSettings(**settings)  # type: ignore[arg-type]


def test_one_detector_serves_several_threads(detector: Detector, clips: dict[str, Path]) -> None:
    paths = [clips["man"], clips["face_noface"]] * 2
    alone = [findings(detector.scan(path)) for path in paths[:2]] * 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda path: findings(detector.scan(path)), paths)) == alone
