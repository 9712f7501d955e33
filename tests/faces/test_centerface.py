"""CenterFace: its decoding on made-up maps, and the detector on real footage."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.errors import BundleError
from difffake.faces import CenterFace, Faces
from difffake.faces.centerface import WEIGHTS, decode, non_maximum_suppression

SHARES = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def blank_maps(rows: int = 40, columns: int = 60) -> dict[str, np.ndarray]:
    depth = {"heatmap": 1, "scale": 2, "offset": 2, "landmarks": 10}
    return {name: np.zeros((d, rows, columns), np.float32) for name, d in depth.items()}


def put(maps: dict[str, np.ndarray], box: tuple[float, float, float, float], confidence: float) -> np.ndarray:
    """Write one face into the maps as the network does; return its landmarks in network pixels."""
    x1, y1, x2, y2 = box
    row, column = int((y1 + y2) / 8), int((x1 + x2) / 8)
    maps["heatmap"][0, row, column] = confidence
    maps["scale"][:, row, column] = np.log((y2 - y1) / 4), np.log((x2 - x1) / 4)
    maps["offset"][:, row, column] = (y1 + y2) / 8 - row - 0.5, (x1 + x2) / 8 - column - 0.5
    maps["landmarks"][:, row, column] = SHARES[:, ::-1].ravel()
    return SHARES * (x2 - x1, y2 - y1) + (x1, y1) - 0.5


@given(st.floats(10, 120), st.floats(10, 80), st.floats(8, 80), st.floats(8, 80), st.floats(0.51, 1), st.floats(0.2, 9))
def test_decode_inverts_the_maps(
    x: float, y: float, width: float, height: float, confidence: float, ratio: float
) -> None:
    maps = blank_maps()
    box = (x, y, x + width, y + height)
    marks = put(maps, box, confidence)
    faces = decode(**maps, scale_xy=(ratio, 2 * ratio))
    assert len(faces) == 1
    expected = np.array(box) * (ratio, 2 * ratio, ratio, 2 * ratio)
    np.testing.assert_allclose(faces.boxes_px[0], expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(faces.landmarks_px[0], (marks + 0.5) * (ratio, 2 * ratio) - 0.5, rtol=1e-4, atol=5e-3)
    assert faces.confidence[0] == pytest.approx(confidence, abs=1e-6)


def test_decode_orders_bounds_and_suppresses() -> None:
    maps = blank_maps()
    put(maps, (20, 20, 60, 70), 0.6)
    put(maps, (24, 24, 64, 74), 0.9)  # the same face, better
    put(maps, (120, 60, 150, 100), 0.7)
    put(maps, (170, 100, 200, 140), 0.49)  # below the threshold
    faces = decode(**maps, threshold=0.5)
    np.testing.assert_allclose(faces.confidence, [0.9, 0.7], atol=1e-6)
    assert len(decode(**maps, threshold=0.4)) == 3
    np.testing.assert_allclose(decode(**maps, threshold=0.5, max_faces=1).confidence, [0.9], atol=1e-6)


@pytest.mark.parametrize("broken", ["eyes together", "not finite", "far away", "no size"])
def test_decode_rejects_degenerate_faces(broken: str) -> None:
    maps = blank_maps()
    put(maps, (40, 40, 80, 90), 0.9)
    put(maps, (120, 60, 150, 100), 0.7)
    (row, column), marks = (16, 15), maps["landmarks"]
    assert maps["heatmap"][0, row, column] > 0.8
    if broken == "eyes together":
        marks[2:4, row, column] = marks[0:2, row, column]
    elif broken == "not finite":
        marks[4, row, column] = np.nan
    elif broken == "far away":
        marks[8, row, column] = 4.0
    else:
        maps["scale"][:, row, column] = -50
    np.testing.assert_allclose(decode(**maps).confidence, [0.7], atol=1e-6)


def test_decode_of_noise_is_bounded() -> None:
    """A hostile picture can light up every cell; the work and the result stay small and finite."""
    rng = np.random.default_rng(3)
    maps = {name: rng.normal(0, 30, m.shape).astype(np.float32) for name, m in blank_maps(200, 300).items()}
    maps["heatmap"] = rng.random((1, 200, 300), np.float32)
    faces = decode(**maps, max_faces=5)
    assert len(faces) <= 5
    assert np.isfinite(faces.boxes_px).all()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_suppression_keeps_no_overlap_and_drops_only_overlaps(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 60, (count, 2))], axis=1).astype(np.float32)

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        wide = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
        return float(wide / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - wide))

    kept = non_maximum_suppression(boxes, 0.3).tolist()
    expected: list[int] = []
    for i in range(count):
        if all(iou(boxes[i], boxes[j]) <= 0.3 for j in expected):
            expected.append(i)
    assert kept == expected


def frames_of(path: Path, count: int, step: int = 12) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frames = []
        for index, frame in enumerate(container.decode(video=0)):
            if index % step == 0:
                frames.append(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))
            if len(frames) == count:
                break
    return frames


@pytest.fixture(scope="module")
def detector() -> CenterFace:
    return CenterFace(threads=1)


@pytest.mark.parametrize("name", ["woman", "man"])
def test_one_face_with_landmarks_in_order(detector: CenterFace, clips: dict[str, Path], name: str) -> None:
    for faces in detector.detect(frames_of(clips[name], 4)):
        assert len(faces) == 1
        assert faces.confidence[0] > 0.6
        left_eye, right_eye, nose, left_mouth, right_mouth = faces.landmarks_px[0]
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        x1, y1, x2, y2 = faces.boxes_px[0]
        assert (faces.landmarks_px[0] > (x1, y1)).all()
        assert (faces.landmarks_px[0] < (x2, y2)).all()


def test_eyes_are_where_the_eyes_are(detector: CenterFace, clips: dict[str, Path]) -> None:
    """The man looks into the camera: his irises are the darkest spots near the eye landmarks."""
    image = frames_of(clips["man"], 1)[0]
    marks = detector.detect([image])[0].landmarks_px[0]
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 2.5)
    reach = 12
    for x, y in marks[:2].round().astype(int):
        patch = grey[y - reach + 3 : y + reach, x - reach : x + reach + 1]
        row, column = np.unravel_index(patch.argmin(), patch.shape)
        assert np.hypot(row - reach + 3, column - reach) < 9


def test_nothing_where_there_is_no_face(detector: CenterFace, clips: dict[str, Path]) -> None:
    for faces in detector.detect(frames_of(clips["no_face"], 4)):
        assert len(faces) == 0
        assert faces.boxes_px.shape == (0, 4)
        assert faces.landmarks_px.shape == (0, 5, 2)


def test_batches_equal_singles_in_any_mix_of_sizes(clips: dict[str, Path]) -> None:
    detector = CenterFace(320, threads=1, max_batch=2)
    images = [*frames_of(clips["woman"], 2), *frames_of(clips["no_face"], 1), *frames_of(clips["man"], 2)]
    images.insert(1, np.ascontiguousarray(images[0][:, 100:620]))
    together = detector.detect(images)
    assert [len(f) for f in together] == [1, 1, 1, 0, 1, 1]
    for faces, image in zip(together, images, strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_allclose(faces.boxes_px, alone.boxes_px, atol=0.05)
        np.testing.assert_allclose(faces.landmarks_px, alone.landmarks_px, atol=0.05)
        np.testing.assert_allclose(faces.confidence, alone.confidence, atol=1e-3)


def test_coordinates_are_those_of_the_given_image(clips: dict[str, Path]) -> None:
    detector = CenterFace(320, threads=1)
    image = frames_of(clips["man"], 1)[0]
    (small,) = detector.detect([image])
    doubled = np.repeat(np.repeat(image, 3, axis=0), 3, axis=1)
    (large,) = detector.detect([doubled])
    eyes = np.linalg.norm(small.landmarks_px[0, 1] - small.landmarks_px[0, 0])
    np.testing.assert_allclose(large.landmarks_px, small.landmarks_px * 3 + 1, atol=0.06 * eyes)


def test_thin_and_tiny_pictures(detector: CenterFace) -> None:
    images = [np.full((h, w, 3), 90, np.uint8) for h, w in [(1, 1), (1, 2000), (3000, 2), (17, 33)]]
    assert [len(f) for f in detector.detect(images)] == [0, 0, 0, 0]
    assert detector.detect([]) == []


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_wrong_images_are_refused(detector: CenterFace, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        detector.detect([image])


@pytest.mark.parametrize("damage", ["one bit", "truncated", "missing"])
def test_damaged_weights_say_so(tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "centerface.onnx"
    data = bytearray(WEIGHTS.read_bytes())
    if damage == "one bit":
        data[len(data) // 2] ^= 1
    if damage != "missing":
        copy.write_bytes(data[:1000] if damage == "truncated" else data)
    with pytest.raises(BundleError, match=r"centerface\.onnx") as caught:
        CenterFace(weights=copy)
    assert "install" in caught.value.hint


@pytest.mark.parametrize("arguments", [{"analysis_side_px": 10}, {"threshold": 1.5}, {"max_faces": 0}, {"threads": -1}])
def test_arguments_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        CenterFace(**arguments)  # type: ignore[arg-type]


def test_faces_select_like_arrays() -> None:
    rng = np.random.default_rng(0)
    faces = Faces(
        rng.random((3, 4), np.float32), rng.random((3, 5, 2), np.float32), np.array([0.9, 0.8, 0.7], np.float32)
    )
    assert faces[np.array([True, False, True])].confidence.tolist() == faces[[0, 2]].confidence.tolist()
    assert len(faces[1:]) == 2
    np.testing.assert_array_equal(faces[-1].landmarks_px, faces.landmarks_px[2:])
    with pytest.raises(IndexError):
        faces[3]
    with pytest.raises(ValueError, match="faces need"):
        Faces(faces.boxes_px, faces.landmarks_px[:2], faces.confidence)
