"""The picture of a face that an alert carries."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stream.alerts.portraits import SIDE_PX, find, jpeg, shrunk
from stream.messages.alerts import MAX_THUMBNAIL_BYTES


@pytest.mark.parametrize("side", [224, 112, 150, 380])
def test_a_picture_fits_into_its_bound_whatever_it_shows(side: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    noise[::2, ::2] = 0
    data = jpeg(shrunk(noise))
    assert data is not None
    assert len(data) <= MAX_THUMBNAIL_BYTES
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (SIDE_PX, SIDE_PX, 3)


def test_colours_stay_what_they_are() -> None:
    red = np.zeros((224, 224, 3), np.uint8)
    red[..., 0] = 200
    data = jpeg(shrunk(red))
    assert data is not None
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(shown.reshape(-1, 3).mean(axis=0) - [200, 0, 0]).max() < 5


def test_the_face_in_a_box_is_found_and_no_other() -> None:
    boxes = np.array([[0, 0, 10.5, 10], [20, 0, 30.25, 10]], np.float32)
    portraits = {1: np.full((SIDE_PX, SIDE_PX, 3), 9, np.uint8)}
    assert find(portraits, boxes, tuple(boxes[1].tolist())) == jpeg(portraits[1])
    assert find(portraits, boxes, tuple(boxes[0].tolist())) is None
    assert find(portraits, boxes, (1.0, 1.0, 1.0, 1.0)) is None
    assert find({}, np.zeros((0, 4), np.float32), (0.0, 0.0, 1.0, 1.0)) is None
