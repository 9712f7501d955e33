"""A broadcast cut together: shots follow each other at one rate and size; the shipped model says who and when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difffake.demo.broadcast import FPS, cut_together, shot, swapped_from
from difffake.demo.swap import pick_donor
from difffake.detector import Detector
from difffake.results import Level, ScanResult
from difffake.settings import ScanSettings
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


@pytest.fixture(scope="module")
def scans(clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScanResult]:
    """A man, a woman whose face becomes another half-way, the man again, from another clip; and without the swap."""
    folder = tmp_path_factory.mktemp("broadcast")
    found = {}
    with Detector.load(settings=ScanSettings(threads=1, window_s=2)) as detector:
        for name in ("genuine", "swapped"):
            alter = swapped_from(pick_donor(clips["man"]), 4.0) if name == "swapped" else None
            shots = [
                shot(clips["man"], 0, 2.4),
                shot(clips["woman"], 0, 8, alter),
                shot(clips["noface_face"], 3.4, 2.9),
            ]
            starts = cut_together(folder / f"{name}.mp4", shots)
            assert starts == [0.0, 2.4, 10.4]
            found[name] = detector.scan(folder / f"{name}.mp4")
    return found


def test_a_person_who_comes_back_after_a_cut_is_the_same_person(scans: dict[str, ScanResult]) -> None:
    for result in scans.values():
        assert [p.label for p in result.people] == ["person 1", "person 2"]
        man, woman = result.people
        assert [round(s.start_s, 1) for s in man.spans] == [0.0, pytest.approx(10.9, abs=0.6)]
        assert [round(s.start_s, 1) for s in woman.spans] == [pytest.approx(2.4, abs=0.2)]


def test_a_swap_in_mid_shot_is_told_with_person_and_moment(scans: dict[str, ScanResult]) -> None:
    (switch,) = scans["swapped"].switches
    assert switch.label == "person 2"
    assert switch.time_s == pytest.approx(6.4, abs=2.0)
    assert switch.level is Level.STRONG
    assert scans["swapped"].people[1].verdicts["identity"].level is Level.STRONG


def test_cuts_and_genuine_faces_are_no_switch(scans: dict[str, ScanResult]) -> None:
    assert scans["genuine"].switches == []
    assert {p.verdicts["identity"].level for p in scans["genuine"].people if "identity" in p.verdicts} == {
        Level.NOTHING
    }
