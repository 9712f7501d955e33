"""What is told about an alert."""

from __future__ import annotations

import math

import difffake
from stream.alerts.watch import Watch
from stream.messages import AlertEnd, AlertKind, AlertRecord, AlertState, HeldAgainst, alert_id, bounded

#: What an alert says of a person's face, by evidence.
_FINDINGS: dict[str, str] = {
    "artifact": "looks manufactured",
    "anchor": "has changed unnaturally against its anchor",
    "identity": "is not the anchor's person",
}
_IS_STRANGER = "is none of those enrolled"
#: Decimal logarithms beyond say nothing more.
_MAX_LOG10 = 300.0


def kind_of(watch: Watch, *, is_burst: bool) -> AlertKind:
    """What made an alert open that opens now."""
    if watch.evidence == "identity":
        return AlertKind.STRANGER if watch.against is HeldAgainst.OTHERS else AlertKind.IDENTITY_SWITCH
    if is_burst:
        return AlertKind.SPIKE
    return AlertKind.THRESHOLD if watch.is_broken else AlertKind.SUSTAINED


def alert_record(
    state: AlertState, watch: Watch, stream: str, model_id: str, why: AlertEnd | None = None
) -> AlertRecord:
    """The record of an alert that is open."""
    told = watch.told
    if told is None:
        raise ValueError("no alert is open")
    finding = _IS_STRANGER if told.kind is AlertKind.STRANGER else _FINDINGS[watch.evidence]
    who = watch.name if watch.name is not None else f"person {watch.person}"
    lasting_s = (watch.last_ns - watch.start_ns) / 1e9
    return AlertRecord(
        id=alert_id(stream, watch.person, told.kind, watch.evidence, watch.first),
        state=state,
        kind=told.kind,
        evidence=watch.evidence,
        stream=stream,
        person=watch.person,
        name=watch.name,
        start_ns=watch.start_ns,
        end_ns=watch.last_ns if state is AlertState.CLOSED else None,
        end_reason=why,
        p_value=watch.p_value,
        level=watch.level,
        accumulated=_log10(told.log_level if watch.peak is None else watch.peak),
        alert_level=_log10(told.log_level),
        budget_per_day=told.budget_per_day,
        acknowledged_by=told.acknowledged_by,
        first=watch.first,
        last=watch.last,
        # Of a window or, before one was full, of a frame: which of them it was is not remembered.
        sentence=bounded(
            f"the face of {who} {finding}: {watch.level.value}, smallest p = {watch.p_value:.2g}, for {lasting_s:.1f} s"
        ),
        thumbnail_jpeg=watch.picture,
        model_id=model_id,
        difffake=difffake.__version__,
    )


def _log10(natural: float) -> float:
    return min(natural / math.log(10), _MAX_LOG10)
