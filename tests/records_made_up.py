"""Scores and alerts as workers write them, made up."""

from __future__ import annotations

from difffake.fitness import Reason
from difffake.results import Level
from stream.messages import (
    AlertEnd,
    AlertKind,
    AlertRecord,
    AlertState,
    Face,
    FaceEvidence,
    ScoreRecord,
    Source,
    Status,
)

S = 1_000_000_000


def source(offset: int = 0, partition: int = 0) -> Source:
    """An image."""
    return Source(topic="video.in", partition=partition, offset=offset, index=0)


def evidence(p_value: float, level: Level = Level.NOTHING, accumulated: float | None = None) -> FaceEvidence:
    return FaceEvidence(score=1.0, log_density=None, p_value=p_value, accumulated=accumulated, level=level)


def face(person: int = 0, name: str | None = None, **found: FaceEvidence) -> Face:
    return Face(
        person=person,
        name=name,
        track=0,
        box_px=(10.0, 10.0, 60.0, 60.0),
        confidence=1.0,
        quality=Reason.OK,
        evidence=found,  # type: ignore[arg-type]
        missing={},
        anchor=None,
    )


def score(
    stream: str,
    pts_s: float,
    *faces: Face,
    status: Status = Status.SCORED,
    reason: str = "",
    offset: int = 0,
    partition: int = 0,
) -> ScoreRecord:
    return ScoreRecord(
        stream=stream,
        pts_ns=round(pts_s * S),
        source=source(offset, partition),
        status=status,
        reason=reason,
        faces=faces,
        model_id="m",
        difffake="0",
    )


def alert(id_: str, state: AlertState = AlertState.OPENED, **changed: object) -> AlertRecord:
    """An identity switch; ``changed``: fields by name."""
    is_closed = state is AlertState.CLOSED
    given = {
        "kind": AlertKind.IDENTITY_SWITCH,
        "evidence": "identity",
        "stream": "a",
        "person": 0,
        "name": None,
        "start_ns": 5 * S,
        "end_ns": 7 * S if is_closed else None,
        "end_reason": AlertEnd.CALM if is_closed else None,
        "p_value": 1e-4,
        "level": Level.STRONG,
        "accumulated": 8.0,
        "alert_level": 7.5,
        "budget_per_day": 0.01,
        "acknowledged_by": None,
        "first": source(),
        "last": source(),
        "sentence": "the face of person 0 is not the anchor's person",
        "thumbnail_jpeg": None,
        "model_id": "m",
        "difffake": "0",
    }
    return AlertRecord(id=id_, state=state, **(given | changed))  # type: ignore[arg-type]
