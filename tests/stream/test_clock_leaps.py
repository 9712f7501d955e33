"""A time that is hours off, through a whole worker: no anchor expires, and every record is told."""

from __future__ import annotations

import pytest
from test_metrics import told
from test_metrics_worker import FACE, World, step_until

from stream.live import LiveModels
from stream.messages import ScoreRecord, Status, decode

HOUR_S = 3600


@pytest.mark.parametrize("off_s", [13 * HOUR_S, -13 * HOUR_S])
@pytest.mark.parametrize("is_steady", [False, True])
def test_a_clock_that_is_hours_off_expires_no_anchor_and_takes_no_time(
    models: LiveModels, off_s: int, is_steady: bool
) -> None:
    """After one such record the stream stood 13 hours later: its anchors had expired, and it warmed up again."""
    world = World(models)
    world.show("a", FACE, 40, begin_s=100 * HOUR_S)
    world.show("a", FACE, 1, begin_s=100 * HOUR_S + 20 + off_s)
    world.show("a", FACE, 39, begin_s=100 * HOUR_S + 20.5 + off_s * is_steady)
    worker, metrics = world.worker()
    step_until(worker, lambda: worker.counts["records"] == 80 and not worker.is_busy)
    worker._flush()
    found = told(metrics)
    outcomes = {o: n for (o,), n in found["difffake_records_total"].items() if n}
    # One that comes at once after the one before lies in its cell of the grid.
    assert outcomes["analysed"] + outcomes.get("nothing_due", 0) == 80
    scores = [decode(r.value or b"", ScoreRecord) for r in world.records("difffake.scores")]
    assert len(scores) == outcomes["analysed"] >= 79
    assert {score.status for score in scores[40:]} == {Status.SCORED}
    assert {face.person for score in scores for face in score.faces} == {0}
    assert found["difffake_stream_seconds_total"]["a",] <= 40
    assert ("a", "gap") not in found["difffake_stream_uncovered_seconds_total"]
    worker.run(lambda: True)
