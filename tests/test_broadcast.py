"""A broadcast cut together: shots follow each other at one rate and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difffake.demo.broadcast import FPS, cut_together, shot
from difffake.video import open_video


def test_a_shot_has_one_rate_whatever_its_source(clips: dict[str, Path]) -> None:
    for name in ("woman", "man", "face_noface"):  # 23.98, 30 and a variable 26.4 frames a second
        assert len(list(shot(clips[name], 0.0, 2.0))) == 2 * FPS
    assert len(list(shot(clips["woman"], 18.0, 5.0))) == pytest.approx(1.69 * FPS, abs=2)


def test_shots_are_altered_at_their_own_time(clips: dict[str, Path]) -> None:
    at: list[float] = []

    def note(image: np.ndarray, time_s: float) -> np.ndarray:
        at.append(time_s)
        return image

    list(shot(clips["woman"], 3.0, 1.0, note))
    assert at[0] == pytest.approx(0.0, abs=0.05)
    assert at == sorted(at)
    assert at[-1] < 1.0


def test_shots_are_fitted_into_one_frame(tmp_path: Path) -> None:
    wide, tall = np.full((90, 320, 3), 200, np.uint8), np.full((400, 200, 3), 200, np.uint8)
    path = tmp_path / "cut.mp4"
    assert cut_together(path, [[wide] * 10, [tall] * 15]) == [0.0, 0.4]
    with open_video(path, fps=None) as video:
        images = [frame.image for frame in video]
    assert len(images) == 25
    assert {image.shape for image in images} == {(360, 640, 3)}
    first, last = images[0], images[-1]
    assert first[180, 320].mean() > 180
    assert first[40, 320].mean() < 30  # black above and below
    assert last[180, 320].mean() > 180
    assert last[180, 40].mean() < 30  # black on both sides
