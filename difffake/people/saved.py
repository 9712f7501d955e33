"""The registry as arrays, and back: everything that comes from outside is checked before it is used."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError
from difffake.people.active import specification
from difffake.people.ledger import UNKNOWN, Arrays
from difffake.people.sightings import MAX_IDENTITY, Kind, PeopleSettings, PersonEvent

VERSION = 1
_HINT = "start with a new registry, or pass what to_arrays gave"
_KINDS = tuple(Kind)
_MAX_NAME_BYTES = 1 << 20
#: Faces in one frame may exceed what is followed at once.
_MAX_FRAME = 1024


@dataclass(frozen=True, slots=True)
class State:
    """What a registry holds beside its tables. ``size`` is -1 before the first sighting."""

    size: int
    next_id: int
    shot: int
    clock: float
    names: dict[int, str]
    events: list[PersonEvent]


def pack(tables: Arrays, state: State) -> Arrays:
    """Join tables and state; the inverse of `unpack`."""
    names = json.dumps(sorted(state.names.items())).encode()
    events = [(_KINDS.index(e.kind), e.time_s, e.person, e.other, e.track) for e in state.events]
    return tables | {
        "names": np.frombuffer(names, np.uint8).copy(),
        "events": np.array(events, np.float64).reshape(-1, 5),
        "clock": np.array([state.clock]),
        "state": np.array([VERSION, state.size, state.next_id, state.shot], np.int64),
    }


def unpack(arrays: Arrays, settings: PeopleSettings) -> State:
    """Check the arrays of `pack` and return their state; the tables may then be used as they are.

    Raises:
        DataError: arrays missing, of another shape or type, beyond the bounds, or that contradict each other.
    """
    head = arrays.get("state")
    if not isinstance(head, np.ndarray) or head.dtype != np.int64 or head.shape != (4,):
        raise DataError("not a saved registry of people", hint=_HINT)
    version, size, next_id, shot = (int(x) for x in head)
    if version != VERSION:
        raise DataError(f"a registry of people of version {version}, not {VERSION}", hint="save it with this version")
    _require(-1 <= size <= MAX_IDENTITY and 0 <= next_id < 1 << 53, "impossible counts")
    _check_shapes(arrays, max(size, 0), settings)
    names = _names(arrays["names"], next_id, settings)
    _check_tables(arrays, next_id, names)
    clock = float(np.asarray(arrays["clock"], np.float64)[0])
    _require(not np.isnan(clock) and clock < np.inf, "an impossible time")
    return State(size, next_id, shot, clock, names, _events(arrays["events"]))


def _require(sound: bool, what: str) -> None:
    if not sound:
        raise DataError(f"a damaged registry of people: {what}", hint=_HINT)


def _check_shapes(arrays: Arrays, size: int, settings: PeopleSettings) -> None:
    most = {
        "A": settings.max_active + _MAX_FRAME,
        "L": settings.max_tracks,
        "P": settings.max_people + _MAX_FRAME,
        "E": settings.max_events,
        "N": _MAX_NAME_BYTES,
    }
    counts: dict[str, int] = {}
    for name, (dtype, shape) in specification(size, settings.exemplars).items():
        array = arrays.get(name)
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.ndim != len(shape):
            raise DataError(f"a damaged registry of people: {name} is missing or of another type", hint=_HINT)
        for have, want in zip(array.shape, shape, strict=True):
            expected = want if isinstance(want, int) else counts.setdefault(want, have)
            _require(have == expected and (isinstance(want, int) or have <= most[want]), f"shape of {name}")


def _check_tables(arrays: Arrays, next_id: int, names: dict[int, str]) -> None:
    def ints(name: str) -> npt.NDArray[np.int64]:
        return np.asarray(arrays[name], np.int64)

    def floats(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(arrays[name], np.float64)

    for name in ("people_centre", "people_faces", "active_mean", "active_box"):
        _require(bool(np.isfinite(floats(name)).all()), f"{name} is not finite")
    for name in ("ledger_from_s", "people_seen_s", "active_seen_s", "active_doubt_s", "active_near_s"):
        _require(not np.isnan(floats(name)).any(), f"{name} is not a number")
    for name in ("people_twins", "active_person", "active_stray_to", "ledger_person", "people_id"):
        least = 0 if name == "people_id" else UNKNOWN
        _require(bool(((ints(name) >= least) & (ints(name) < next_id)).all()), f"{name} names nobody")
    for name in ("people_id", "active_track"):
        _require(len(np.unique(ints(name))) == len(ints(name)), f"{name} twice")
    exemplars = arrays["people_faces"].shape[1]
    _require(bool(((ints("people_count") >= 1) & (ints("people_count") <= exemplars)).all()), "exemplars")
    _require(bool((ints("active_track") >= 0).all() and (ints("active_count") >= 0).all()), "negative tracks or counts")
    together = ints("people_together")
    _require(bool((together == together.T).all() and not together.diagonal().any()), "who was seen beside whom")
    _require(set(names) <= set(ints("people_id").tolist()), "a name of nobody")


def _names(blob: npt.NDArray[np.generic], next_id: int, settings: PeopleSettings) -> dict[int, str]:
    try:
        pairs = json.loads(blob.tobytes().decode())
        names = {int(person): name for person, name in pairs}
        # JSON lets half a character by, which no message could carry.
        json.dumps(pairs, ensure_ascii=False).encode()
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError("a damaged registry of people: names", hint=_HINT) from error
    texts = list(names.values())
    _require(
        len(names) == len(pairs) <= settings.max_people
        and all(isinstance(name, str) and 1 <= len(name) <= 256 for name in texts)
        and len(set(texts)) == len(texts)
        and all(0 <= person < next_id for person in names),
        "names",
    )
    return names


def _events(table: npt.NDArray[np.generic]) -> list[PersonEvent]:
    rows = np.asarray(table, np.float64)
    _require(bool(np.isfinite(rows).all() and (np.abs(rows[:, 2:]) < 1 << 53).all()), "events")
    _require(bool(np.isin(rows[:, 0], np.arange(len(_KINDS))).all()), "events of an unknown kind")
    return [PersonEvent(_KINDS[int(k)], float(t), int(a), int(b), int(c)) for k, t, a, b, c in rows]
