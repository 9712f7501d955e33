"""The quality gate: each defect is named, real talking faces pass."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from difffake.faces import CenterFace, Faces, Limits, Quality, Reason, align, assess, template
from difffake.faces.quality import head_pose

Scene = tuple[np.ndarray, Faces]


@pytest.fixture(scope="module")
def scene(clips: dict[str, Path]) -> Scene:
    """One real frame and its face."""
    with av.open(str(clips["man"])) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    image = np.ascontiguousarray(frame)
    (faces,) = CenterFace(threads=1).detect([image])
    assert len(faces) == 1
    return image, faces


def judge(image: np.ndarray, faces: Faces, limits: Limits | None = None) -> Quality:
    crops, _ = align(image, faces.landmarks_px)
    return assess(image.shape[:2], faces, crops, limits)


def scaled(faces: Faces, factor: float, shift: tuple[float, float] = (0, 0)) -> Faces:
    return Faces(
        (faces.boxes_px * factor + np.tile(shift, 2)).astype(np.float32),
        (faces.landmarks_px * factor + shift).astype(np.float32),
        faces.confidence,
    )


@pytest.mark.parametrize("name", ["woman", "man"])
def test_talking_faces_pass(clips: dict[str, Path], name: str) -> None:
    with av.open(str(clips[name])) as container:
        frames = [
            np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
            for index, frame in enumerate(container.decode(video=0))
            if index % 10 == 0 and index < 60
        ]
    for image, faces in zip(frames, CenterFace(threads=1).detect(frames), strict=True):
        assert judge(image, faces).reason == [Reason.OK]


def test_small_faces(scene: Scene) -> None:
    image, faces = scene
    for factor, reason in [(0.5, Reason.OK), (0.2, Reason.TOO_SMALL)]:
        small = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
        quality = judge(small, scaled(faces, factor))
        assert quality.reason == [reason]
        eyes = np.linalg.norm(faces.landmarks_px[0, 1] - faces.landmarks_px[0, 0]) * factor
        assert quality.eye_distance_px[0] == pytest.approx(eyes, rel=1e-4)


def test_blurred_faces(scene: Scene) -> None:
    image, faces = scene
    sharp = judge(image, faces).sharpness[0]
    last = sharp
    for sigma in (1.0, 2.0, 4.0):
        soft = judge(np.asarray(cv2.GaussianBlur(image, (0, 0), sigma)), faces)
        assert soft.sharpness[0] < last
        last = soft.sharpness[0]
    assert soft.reason == [Reason.BLURRED]


def test_sharpness_does_not_depend_on_contrast_or_enlargement(scene: Scene) -> None:
    """The same picture at half contrast is as sharp, and a small sharp face is not called blurred."""
    image, faces = scene
    sharp = judge(image, faces).sharpness[0]
    flat = judge((image // 2 + 60).astype(np.uint8), faces)
    assert flat.sharpness[0] == pytest.approx(sharp, rel=0.25)
    small = np.asarray(cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA))
    assert judge(small, scaled(faces, 0.4)).sharpness[0] > 0.7 * sharp


def test_truncated_faces(scene: Scene) -> None:
    image, faces = scene
    x1, _, x2, _ = faces.boxes_px[0]
    cut = int(x1 + 0.22 * (x2 - x1))
    quality = judge(np.ascontiguousarray(image[:, cut:]), scaled(faces, 1, (-cut, 0)))
    assert quality.reason == [Reason.TRUNCATED]
    assert quality.visible_share[0] == pytest.approx(0.78, abs=0.02)
    beyond = int(faces.landmarks_px[0, 0, 0]) + 5  # an eye is outside
    quality = judge(np.ascontiguousarray(image[:, beyond:]), scaled(faces, 1, (-beyond, 0)))
    assert quality.visible_share[0] == 0


@pytest.mark.parametrize("level", [3, 128, 252])
def test_black_white_and_empty_faces(scene: Scene, level: int) -> None:
    image, faces = scene
    quality = judge(np.full_like(image, level), faces)
    assert quality.reason == [Reason.EXPOSURE]
    assert np.isfinite(quality.sharpness).all()


def project(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Landmarks of a solid head, turned: x to the right, y down, z to the camera; no perspective."""
    head = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.64, 0.4], [-0.4, 1.12, 0], [0.4, 1.12, 0]])
    y, p, r = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    lean = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (head @ turn.T @ nod.T @ lean.T)[:, :2] * 80 + (300, 200)


@pytest.mark.parametrize("roll", [0, 30, -90, 170])
@pytest.mark.parametrize("angle", [-60, -30, 0, 20, 45])
def test_yaw_and_pitch_of_a_turned_head(angle: float, roll: float) -> None:
    yaw, pitch = head_pose(project(angle, 0, roll)[None].astype(np.float32))
    assert yaw[0] == pytest.approx(angle, abs=1)
    assert pitch[0] == pytest.approx(0, abs=1)
    yaw, pitch = head_pose(project(0, angle, roll)[None].astype(np.float32))
    assert yaw[0] == pytest.approx(0, abs=1)
    assert pitch[0] == pytest.approx(angle, abs=1)


def test_turned_faces_are_refused(scene: Scene) -> None:
    image, faces = scene
    for yaw, pitch, reason in [(65, 0, Reason.POSE), (0, -55, Reason.POSE)]:
        turned = Faces(faces.boxes_px, project(yaw, pitch, 0)[None].astype(np.float32), faces.confidence)
        assert judge(image, turned).reason == [reason]


def test_rows_are_judged_alone_and_limits_can_be_set(scene: Scene) -> None:
    image, faces = scene
    wide = np.concatenate([image, np.full_like(image, 128)], axis=1)
    both = Faces(np.repeat(faces.boxes_px, 2, axis=0), np.repeat(faces.landmarks_px, 2, axis=0), np.ones(2, np.float32))
    both.boxes_px[1, [0, 2]] += image.shape[1]
    both.landmarks_px[1, :, 0] += image.shape[1]
    quality = judge(wide, both)
    assert quality.reason == [Reason.OK, Reason.EXPOSURE]
    assert quality.ok.tolist() == [True, False]
    assert judge(image, faces, Limits(eye_distance_px=500)).reason == [Reason.TOO_SMALL]
    assert judge(image, faces, Limits(sharpness=9)).reason == [Reason.BLURRED]


def test_the_template_is_frontal() -> None:
    yaw, pitch = head_pose(template()[None])
    assert abs(yaw[0]) < 1
    assert abs(pitch[0]) < 10


def test_no_face_and_mismatch(scene: Scene) -> None:
    image, faces = scene
    empty = judge(image, Faces.empty())
    assert len(empty) == 0
    assert empty.ok.shape == (0,)
    with pytest.raises(ValueError, match="1 faces need"):
        assess(image.shape[:2], faces, np.zeros((2, 224, 224, 3), np.uint8))
