"""Records of frames with faces of some rarity, and what an `Alerts` tells of them."""

from __future__ import annotations

from collections.abc import Sequence

from difffake.faces import Reason
from difffake.results import Level
from stream.alerts import Alerts, AlertSettings
from stream.messages import (
    AlertRecord,
    AlertState,
    Command,
    CommandRecord,
    Face,
    FaceEvidence,
    HeldAgainst,
    ScoreRecord,
    Source,
    Status,
)

S = 1_000_000_000
RARE, STRONG, SUSPICIOUS, CALM = 1e-4, 0.001, 0.03, 0.6
#: Frames, five a second, that open an alert of identity.
OPENING = [1e-4] * 60
#: One false alert an hour; no cool-down to speak of, for tests that are not about it.
SETTINGS = AlertSettings(budget_per_day=24.0, cooldown_s=0.001)


def evidence(p_value: float, against: HeldAgainst | None = None, score: float = 1.0) -> FaceEvidence:
    level = Level.STRONG if p_value < 0.01 else Level.SUSPICIOUS if p_value < 0.05 else Level.NOTHING
    return FaceEvidence(
        score=score, log_density=None, p_value=p_value, accumulated=p_value, level=level, against=against
    )


def frame(
    time_s: float,
    *faces: tuple[int, str, float],
    status: Status = Status.SCORED,
    against: HeldAgainst | None = None,
) -> ScoreRecord:
    """A record of a frame with faces: person, evidence, p-value of the frame and over the window."""
    pts_ns = round(time_s * S)
    return ScoreRecord(
        stream="a",
        pts_ns=pts_ns,
        source=Source(topic="video.in", partition=0, offset=max(pts_ns, 0) // 1_000_000, index=0),
        status=status,
        reason="",
        faces=tuple(
            Face(
                person=person,
                name="Ada" if person == 7 else None,
                track=0,
                box_px=(0.0, 0.0, 1.0, float(person)),
                confidence=1.0,
                quality=Reason.OK,
                evidence={name: evidence(p, against)},  # type: ignore[dict-item]
                missing={},
                anchor=None,
            )
            for person, name, p in faces
        ),
        model_id="m",
        difffake="0",
    )


def command(what: Command, **changed: object) -> CommandRecord:
    given_ = {"stream": "a", "person": None, "issued_ns": 1, "by": "op", "id": "c"} | changed
    return CommandRecord(command=what, **given_)  # type: ignore[arg-type]


def told(
    p_values: Sequence[float | None],
    *,
    name: str = "identity",
    settings: AlertSettings = SETTINGS,
    step_s: float = 0.2,
    alerts: Alerts | None = None,
    begin_s: float = 0.0,
) -> list[AlertRecord]:
    """What comes of one face with these p-values; None: a frame without a face."""
    alerts = alerts or Alerts(settings)
    times = [begin_s + i * step_s for i in range(len(p_values))]
    frames = [frame(t) if p is None else frame(t, (0, name, p)) for t, p in zip(times, p_values, strict=True)]
    return [alert for one in frames for alert in alerts.observe(one)]


def seconds_until_open(p_value: float, settings: AlertSettings, name: str = "identity") -> float | None:
    """Of a face that is always so suspicious."""
    found = told([p_value] * 1500, settings=settings, name=name)
    states = [a for a in found if a.state is AlertState.OPENED]
    return states[0].last.offset / 1000 if states else None
