"""What pages are told, as JSON. Names for people to read are printable; those that come back are as they were."""

from __future__ import annotations

from typing import Any

from difffake.results import EVIDENCES
from stream.console import printable
from stream.messages import UNKNOWN, Face
from stream.tail import Worst
from stream.wall.alerts import AlertView
from stream.wall.looking import StreamView

_MAX_SHOWN_PEOPLE = 8


def tile(view: StreamView, since: int, now_ms: int, now_s: float, muted: str) -> dict[str, Any]:
    """One stream; of its seconds only those that a page with revision ``since`` lacks: at, and p by evidence."""
    said, last = view.judgement, view.last
    return {
        "key": view.key,
        "id": view.name,
        "name": printable(view.name),
        "state": said.state.value,
        "why": "" if said.why is None else said.why.value,
        "trouble": said.why is not None and said.why.is_trouble,
        "reason": printable(said.reason),
        "status": "" if last is None else last.status.value,
        "heard": round(now_ms - 1000 * view.silent_s(now_ms, now_s)),
        "pts": 0.0 if last is None else last.pts_ns / 1e9,
        "lag": view.lag_s(now_ms),
        "coverage": round(view.coverage(now_ms, now_s), 4),
        "frames": view.frames,
        "people": [_person(who, face.person, face.name) for who, face in view.people[:_MAX_SHOWN_PEOPLE]],
        "anchors": [printable(_anchor(face)) for _, face in view.people[:_MAX_SHOWN_PEOPLE]],
        "worst": {name: _worst(found) for name, found in said.worst},
        "alerts": view.open_alerts,
        "muted": printable(muted),
        "model": "" if last is None else printable(last.model_id),
        "replay": view.places[-1].address if view.places else "",
        "picture": "" if view.scored_place is None else view.scored_place.address,
        "from": next(iter(view.seconds), 0),
        "to": next(reversed(view.seconds), 0),
        "seconds": [
            [at, *(_p(second.worst.get(name)) for name in EVIDENCES)]
            for at, second in view.seconds.items()
            if second.revision > since
        ],
    }


def alert(view: AlertView) -> dict[str, Any]:
    """One alert."""
    record = view.record
    who = record.name or ("somebody" if record.person == UNKNOWN else f"person {record.person}")
    return {
        "id": record.id,
        "open": view.is_open,
        "state": record.state.value,
        "kind": record.kind.value,
        "evidence": record.evidence,
        "stream": record.stream,
        "name": printable(record.stream),
        "who": printable(who),
        "p": record.p_value,
        "level": record.level.rank,
        "budget": record.budget_per_day,
        "acknowledged": printable(record.acknowledged_by or ""),
        "sentence": printable(record.sentence),
        "end_reason": "" if record.end_reason is None else record.end_reason.value,
        "start": record.start_ns / 1e9,
        "end": None if record.end_ns is None else record.end_ns / 1e9,
        "opened": view.opened_ms,
        "told": view.told_ms,
        "first": f"{record.first.topic}:{record.first.partition}:{record.first.offset}",
        "last": f"{record.last.topic}:{record.last.partition}:{record.last.offset}",
        "thumbnail": bool(view.thumbnail),
        "replay": view.replay,
    }


def _person(who: str, number: int, name: str | None) -> dict[str, Any]:
    return {"label": printable(who), "person": name if name is not None else number}


def _anchor(face: Face) -> str:
    anchor = face.anchor
    if anchor is None or anchor.origin is None:
        return "no anchor yet"
    age = "" if anchor.age_s is None else f", {anchor.age_s:.0f} s old"
    return f"anchor: {anchor.origin.value}, {anchor.frames} frames{age}{', frozen' if anchor.frozen else ''}"


def _worst(found: Worst) -> dict[str, Any]:
    return {"p": found.p_value, "level": found.level.rank}


def _p(found: Worst | None) -> float | None:
    """Short: it is drawn some tens of pixels high."""
    return None if found is None else float(f"{found.p_value:.3g}")
