"""Two producers under one id are told by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_world import World

from stream.late_frames import LateFrames
from stream.live import LiveModels
from stream.messages import Status


def test_a_stream_is_named_once_a_minute_and_jitter_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    late = LateFrames(lambda: now_s)
    for _ in range(25):
        late.add("both", 2)
    late.add("jitter", 19)
    said = capsys.readouterr().out
    assert (said.count("out of order"), "both" in said, "jitter" in said) == (1, True, False)
    now_s = 61.0
    late.add("jitter", 19)
    assert capsys.readouterr().out == ""
    for number in range(100):
        late.add(f"s{number}", 20)
    assert capsys.readouterr().out.count("out of order") == 5, "a flood of ids does not fill the log"


@pytest.fixture
def world(models: LiveModels, clips: dict[str, Path]) -> World:
    return World(models, clips)


def test_of_two_producers_under_one_id_what_is_not_looked_at_is_told(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(5):  # the same times again, as two that send side by side
        world.publish(streams=("a",))
    worker = world.worker()
    world.drain(worker)
    scores = world.scores()
    seen = {score.pts_ns for score in scores if score.status is not Status.STALE}
    assert sum(score.status is Status.STALE for score in scores) >= 20
    assert len(seen) == sum(score.status is not Status.STALE for score in scores), "no moment is scored twice"
    assert "does more than one producer send under this id" in capsys.readouterr().out
