"""difffake as a library: what a notebook or somebody's own program hands in, and what it is told."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import difffake
from difffake import Detector, Frame, ScanResult, ScanSettings
from difffake.anchors import AnchorPolicy
from difffake.bundle import Bundle
from difffake.errors import (
    ArgumentError,
    BundleError,
    LimitExceededError,
    MediaChangedError,
    MediaNotFoundError,
    NoFaceError,
)
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


@pytest.mark.parametrize("pts_s", [np.nan, np.inf, -np.inf, -0.2, 1e300, None, "0", 1j, np.zeros(1)])
@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_time_is_named(detector: Detector, frames: list[Frame], pts_s: float, first: bool) -> None:
    given = [*([] if first else frames[:1]), Frame(1, pts_s, frames[0].image)]
    with pytest.raises(ArgumentError, match="pts_s of a Frame is seconds") as raised:
        detector.scan_frames(given)
    assert "index / fps" in raised.value.hint
    with pytest.raises(ArgumentError, match="pts_s of a Frame"):
        detector.observe(given)


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 200_000, 3), (9_000, 9_000, 3)])
@pytest.mark.parametrize("first", [True, False])
def test_a_picture_in_memory_has_the_bounds_of_one_in_a_file(
    detector: Detector, frames: list[Frame], shape: tuple[int, ...], first: bool
) -> None:
    """OpenCV ended the process at the second one."""
    large = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), shape)
    with pytest.raises(LimitExceededError, match="over the limit"):
        detector.scan_frames(large if first else [frames[0], Frame(1, 0.2, large)])


NOT_ASKED_SO: dict[str, tuple[str, dict[str, object]]] = {
    "no frames": ("scan_frames", {"frames": None}),
    "a path for frames": ("scan_frames", {"frames": Path("x.png")}),
    "one frame": ("scan_frames", {"frames": Frame(0, 0.0, np.zeros((8, 8, 3), np.uint8))}),
    "a picture of objects": ("scan_frames", {"frames": np.zeros((8, 8, 3), object)}),
    "no picture": ("scan_frames", {"frames": [Frame(0, 0.0, None)]}),  # type: ignore[arg-type]
    "negative explained": ("scan_frames", {"explained": -1}),
    "half explained": ("scan", {"explained": 1.5}),
    "anchors by path": ("scan_frames", {"anchors": "anchors.msgpack"}),
    "anchors by path, of a file": ("scan", {"anchors": Path("anchors.msgpack")}),
    "progress that is none": ("scan", {"on_progress": 3}),
    "a name that is none": ("scan_frames", {"name": None}),
    "a source of bytes": ("scan", {"source": b"x.mp4"}),
    "a bundle by number": ("load", {"bundle": 3}),
    "a bundle in bytes": ("load", {"bundle": b"x"}),
    "settings in a dict": ("load", {"settings": {"fps": 5}}),
    "an engine by name": ("load", {"engines": "onnx"}),
}


@pytest.mark.parametrize("kind", NOT_ASKED_SO)
def test_arguments_of_other_kinds_are_ours_to_name(
    detector: Detector, frames: list[Frame], clips: dict[str, Path], kind: str
) -> None:
    method, arguments = NOT_ASKED_SO[kind]
    sound = {"scan": {"source": clips["man"]}, "scan_frames": {"frames": frames[0].image}, "load": {}}[method]
    with pytest.raises(ArgumentError) as raised:
        getattr(detector, method)(**sound | arguments)
    assert raised.value.hint


@pytest.mark.parametrize("bounds", [{"stop_s": np.nan}, {"stop_s": -1}, {"stop_s": "5"}, {"fps": "5"}, {"fps": np.nan}])
def test_a_rate_and_an_end_are_numbers(clips: dict[str, Path], bounds: dict[str, float]) -> None:
    """An end that was no number was never reached."""
    with pytest.raises(ArgumentError, match="must be positive"):
        open_video(clips["man"], **bounds)


@pytest.mark.parametrize("source", ["a\0b.mp4", Path("a\0"), "\ud800", "file:///%00", "x" * 5000])
def test_a_name_that_no_file_can_have_is_not_found(detector: Detector, source: str) -> None:
    with pytest.raises(MediaNotFoundError) as raised:
        detector.scan(source)
    assert "check the path" in raised.value.hint
    with pytest.raises(BundleError):
        Detector.load(source)


def test_a_name_of_frames_that_is_no_unicode_can_be_written(detector: Detector, frames: list[Frame]) -> None:
    assert b'"name":"?"' in detector.scan_frames(frames[0].image, name="\ud800").to_json().replace(b'": "', b'":"')


@pytest.mark.parametrize(
    "settings",
    [
        *({"fps": value} for value in (np.nan, np.inf, -1, 0, "5", None, 10**400)),
        *({name: 10**30} for name in ("max_frames", "max_megapixels", "moments", "anchor_size")),
        {"anchor_size": 257, "anchor_gap_s": 1e-9},
        {"anchor_gap_s": 1e6},
        {"max_faces": 65},
        {"threads": -1},
        {"analysis_side_px": 0},
        {"whole_s": np.nan},
        {"strong_p": 0.5},
    ],
    ids=lambda settings: " ".join(f"{name} {str(value)[:9]}" for name, value in settings.items()),
)
def test_settings_that_no_scan_can_have_are_refused_before_one(settings: dict[str, float]) -> None:
    """An anchor of so many frames was refused at the end of the scan."""
    with pytest.raises(ArgumentError) as raised:
        ScanSettings(**settings)  # type: ignore[arg-type]
    assert raised.value.hint


def test_the_largest_anchor_of_the_settings_is_one() -> None:
    ScanSettings(anchor_size=256, anchor_gap_s=20 / 255)
    AnchorPolicy(size=256, min_frames=256, gap_s=20 / 255)
    with pytest.raises(ValueError, match="min_frames"):
        AnchorPolicy(size=257, min_frames=257, gap_s=1e-9)


@pytest.fixture(params=["clip.mp4", "picture.png"])
def copied(request: pytest.FixtureRequest, clips: dict[str, Path], frames: list[Frame], tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".mp4":
        path.write_bytes(clips["man"].read_bytes())
    else:
        cv2.imwrite(str(path), cv2.cvtColor(frames[0].image, cv2.COLOR_RGB2BGR))
    return path


@pytest.mark.parametrize("is_gone", [False, True])
def test_the_digest_is_that_of_the_file_that_was_scanned(detector: Detector, copied: Path, is_gone: bool) -> None:
    """Another one that took its place meanwhile had its digest told with verdicts of the first."""
    before = hashlib.sha256(copied.read_bytes()).hexdigest()

    def replace(_at_s: float, _end_s: float | None) -> None:
        if is_gone:
            copied.unlink(missing_ok=True)
        else:
            (copied.parent / "new").write_bytes(b"another one")
            (copied.parent / "new").replace(copied)

    assert detector.scan(copied, replace).source.sha256 == before


@pytest.mark.parametrize("how", ["added to", "written over", "cut off"])
def test_of_a_file_that_is_written_to_meanwhile_no_digest_is_told(detector: Detector, copied: Path, how: str) -> None:
    def write(_at_s: float, _end_s: float | None) -> None:
        with copied.open("ab" if how == "added to" else "r+b") as file:
            if how == "cut off":
                file.truncate(copied.stat().st_size // 2)
            else:
                file.write(b"x")
        os.utime(copied, ns=(0, 1))  # clocks of file systems are coarse

    result = detector.scan(copied, write)
    assert result.source.sha256 is None
    assert [one for one in result.warnings if "changed while it was read (written to)" in one]


def test_a_file_that_is_replaced_while_it_is_opened_is_named(
    clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest would be of one file, and its frames of the other."""
    path, real = tmp_path / "clip.mp4", av.open
    path.write_bytes(clips["man"].read_bytes())

    def late(*given: object, **more: object) -> object:
        (tmp_path / "new.mp4").write_bytes(clips["woman"].read_bytes())
        (tmp_path / "new.mp4").replace(path)
        return real(*given, **more)

    monkeypatch.setattr("difffake.video.av.open", late)
    with pytest.raises(MediaChangedError, match="replaced"):
        open_video(path)
