"""One stream online: its state goes on exactly, and a damaged one is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_show import QUICK, SETTINGS, START_NS, STEP_NS, A, B, C, E, Show, only
from live_world import (
    STREAM,
    Picture,
    Shown,
    command,
    picture,
    scripted_models,
    source,
    state_record,
)
from tiny import write_tiny_bundle

from difffake.anchors import AnchorMode
from difffake.bundle import Bundle
from stream.live import LiveModels, LiveStream, OtherModelError
from stream.messages import (
    Command,
    EnrolmentRecord,
    MessageError,
    ScoreRecord,
    StateRecord,
    Status,
    decode,
    encode,
    pack_arrays,
    unpack_arrays,
)

_FACES = st.lists(
    st.tuples(st.integers(A, E), st.booleans(), st.booleans()).map(lambda t: (t[0], t[1] and t[2])),
    max_size=3,
    unique_by=lambda face: face[0],
)
_SHOT = st.tuples(_FACES, st.integers(0, 3), st.integers(1, 10), st.sampled_from([0.0, 0.0, 0.3, 2.0, 6.0]))
_OPERATION = st.one_of(
    st.tuples(st.sampled_from(["Anna", "Berta"]), st.integers(A, E), st.integers(0, 1)),
    st.tuples(st.sampled_from(list(Command)), st.sampled_from([None, 0, 1, 2, "Anna", "Berta"])),
    st.sampled_from(["Anna", "Berta"]),
)


#: What operators do, and what `picture` then shows.
Step = tuple[list[Any], tuple[int, list[Shown], int]]


@st.composite
def _broadcasts(draw: st.DrawFn) -> list[Step]:
    """Frames, each after some operations: cuts, gaps, swaps in mid-shot, people side by side, bad and fake faces."""
    steps, now_ns = [], draw(st.sampled_from([-(10**9), 0, START_NS]))
    for faces, place, count, gap_s in draw(st.lists(_SHOT, min_size=2, max_size=5)):
        now_ns += round(gap_s * 1e9)
        for i in range(count):
            operations = draw(st.lists(_OPERATION, max_size=2)) if i == count // 2 else []
            shown = [Shown(who, 50 + 90 * at, fake=fake) for at, (who, fake) in enumerate(faces)]
            steps.append((operations, (now_ns, shown, place)))
            now_ns += draw(st.sampled_from([STEP_NS, STEP_NS, 33_366_667]))
    return steps


def _perform(stream: LiveStream, operations: list[Any], enrol: Callable[..., EnrolmentRecord]) -> list[list[str]]:
    told = []
    for operation in operations:
        if isinstance(operation, str):
            stream.withdraw(operation)
        elif isinstance(operation[0], Command):
            told.append(stream.apply(command(*operation)))
        else:
            name, who, seed = operation
            told.append(stream.apply(enrol(name, who, seed=seed)))
    return told


@pytest.mark.parametrize("mode", list(AnchorMode))
@given(steps=_broadcasts(), data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_a_stream_is_saved_and_restored_it_goes_on_exactly(
    bundle: Bundle,
    enrol: Callable[..., EnrolmentRecord],
    mode: AnchorMode,
    steps: list[Step],
    data: st.DataObject,
) -> None:
    policy = msgspec.structs.replace(QUICK, mode=mode, updates_per_minute=120.0, expire_after_s=5.0, max_age_s=12.0)
    chosen = msgspec.structs.replace(SETTINGS, anchor=policy, max_anchors=3, max_enrolled=2, max_people=5)
    models = scripted_models(bundle, chosen)
    whole = LiveStream(STREAM, models, chosen)
    moved = LiveStream(STREAM, models, chosen)
    records, states = [], []
    for operations, shown in steps:
        frame = picture(*shown)
        # The one is never interrupted, the other is another process at every frame.
        expected = _perform(whole, operations, enrol), whole.process([frame], source)
        saved = state_record(moved.sections(), moved.last_pts_ns)
        moved = LiveStream.restore(STREAM, models, chosen, decode(encode(saved), type(saved)))
        assert (_perform(moved, operations, enrol), moved.process([frame], source)) == expected
        records.append(expected[1][0])
        states.append(whole.sections())
        assert moved.sections() == states[-1]
        assert encode(expected[1][0])
    # The same frames in other calls, from any of the states.
    at = data.draw(st.integers(0, len(steps) - 1))
    late = LiveStream.restore(STREAM, models, chosen, state_record(states[at], steps[at][1][0]))
    found: list[ScoreRecord] = []
    waiting: list[Picture] = []
    for operations, shown in steps[at + 1 :]:
        if operations:
            found += late.process(waiting, source)
            waiting = []
            _perform(late, operations, enrol)
        waiting.append(picture(*shown))
    found += late.process(waiting, source)
    assert found == records[at + 1 :]
    assert late.sections() == states[-1]


def test_a_stream_never_seen_is_restored_from_nothing_or_from_its_own_state(models: LiveModels) -> None:
    nothing = dict.fromkeys(("people", "tracker", "finder", "evidence"), b"") | {"anchors": {}}
    for sections in (nothing, LiveStream(STREAM, models, SETTINGS).sections()):
        stream = LiveStream.restore(STREAM, models, SETTINGS, state_record(sections, None))
        assert stream.last_pts_ns is None
        assert stream.process([picture(0, [Shown(A)])], source)[0].status is Status.WARMING_UP


def test_an_anchor_moves_byte_for_byte(models: LiveModels) -> None:
    show = Show(models)
    show.frames(12, Shown(A), Shown(B, 220))
    before = show.stream.anchors_bytes
    show.restart()
    assert show.stream.anchors_bytes == before
    assert len(before) == 2


def test_anchors_of_one_piece_are_read_as_the_version_before_wrote_them(models: LiveModels) -> None:
    show = Show(models)
    show.frames(12, Shown(A), Shown(B, 220))
    before, frame = show.save(), [picture(show.next_ns, [Shown(A)])]
    whole = msgspec.structs.replace(before, anchors=show.stream.anchors_bytes, arrays={})
    old, new = (LiveStream.restore(STREAM, models, SETTINGS, record) for record in (whole, before))
    assert old.process(frame, source) == new.process(frame, source)
    assert old.sections() == new.sections()
    with pytest.raises(MessageError, match="anchor"):
        LiveStream.restore(STREAM, models, SETTINGS, msgspec.structs.replace(before, arrays={}))
    with pytest.raises(MessageError, match="without one"):
        LiveStream.restore(STREAM, models, SETTINGS, msgspec.structs.replace(before, anchors={}))


class Saved:
    """A state record that test reports do not print."""

    def __init__(self, record: StateRecord) -> None:
        self.record = record


@pytest.fixture(scope="module")
def saved(models: LiveModels, enrol: Callable[..., EnrolmentRecord]) -> Saved:
    show = Show(models)
    show.stream.apply(enrol("Anna", C))
    show.frames(8, Shown(A), Shown(B, 220))
    show.frames(2, Shown(C), place=1)
    return Saved(show.save())


@pytest.mark.parametrize("section", ["people", "tracker", "finder", "evidence"])
def test_sections_that_are_missing_or_nonsense_are_refused(models: LiveModels, saved: Saved, section: str) -> None:
    whole = getattr(saved.record, section)
    for data in (b"", b"nonsense", whole[:-1], pack_arrays({"other": np.zeros(2)})):
        with pytest.raises(MessageError) as caught:
            LiveStream.restore(STREAM, models, SETTINGS, msgspec.structs.replace(saved.record, **{section: data}))
        assert caught.value.hint
    arrays = {} if section == "finder" else unpack_arrays(whole)
    for name in arrays:
        other = np.zeros(arrays[name].shape, np.uint8 if arrays[name].dtype != np.uint8 else np.int32)
        for array in (None, other):
            damaged = {n: a for n, a in arrays.items() if n != name} | ({} if array is None else {name: array})
            record = msgspec.structs.replace(saved.record, **{section: pack_arrays(damaged)})
            with pytest.raises(MessageError):
                LiveStream.restore(STREAM, models, SETTINGS, record)


# A bit that makes a number huge is noticed by nobody but NumPy, which warns of an overflow.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    section=st.sampled_from(["people", "tracker", "finder", "evidence", "anchors", "arrays"]),
    where=st.floats(0, 1, exclude_max=True),
    bits=st.integers(1, 255),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_state_is_refused_or_goes_on(
    models: LiveModels, saved: Saved, section: str, where: float, bits: int
) -> None:
    def flipped(data: bytes) -> bytes:
        at = int(where * len(data))
        return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]

    whole = getattr(saved.record, section)
    damaged = {p: flipped(b) for p, b in whole.items()} if isinstance(whole, dict) else flipped(whole)
    try:
        stream = LiveStream.restore(
            STREAM, models, SETTINGS, msgspec.structs.replace(saved.record, **{section: damaged})
        )
    except MessageError:
        return
    assert section not in ("anchors", "arrays"), "an anchor's digest shows any damage"
    last = stream.last_pts_ns
    shown = [Shown(A), Shown(C, 220)]
    for record in stream.process([picture((last or 0) + i * STEP_NS, shown, 1) for i in (1, 2, 3)], source):
        assert encode(record)


def test_state_of_other_networks_is_told_apart_and_windows_do_not_outlive_a_calibration(
    saved: Saved, bundle: Bundle, tmp_path: Path
) -> None:
    other = scripted_models(write_tiny_bundle(tmp_path / "other", seed=5, identity=True), SETTINGS)
    with pytest.raises(OtherModelError, match="other networks"):
        LiveStream.restore(STREAM, other, SETTINGS, saved.record)
    manifest = msgspec.structs.replace(bundle.manifest, name="refitted")
    refitted = scripted_models(replace(bundle, manifest=manifest), SETTINGS)
    stream = LiveStream.restore(STREAM, refitted, SETTINGS, saved.record)
    assert stream.sections()["arrays"] == saved.record.arrays
    record = stream.process([picture(saved.record.last_pts_ns + STEP_NS, [Shown(C)], 1)], source)[0]
    assert only(record).name == "Anna"
    assert only(record).evidence["artifact"].accumulated is None
