"""Made-up messages of the wire contract, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from difffake.anchors import AnchorState, Origin
from difffake.faces import Reason
from difffake.results import EVIDENCES, Level
from stream.messages import (
    AlertEnd,
    AlertKind,
    AlertRecord,
    AlertState,
    AnchorsRecord,
    BatchRecord,
    Command,
    CommandRecord,
    EnrolmentRecord,
    Face,
    FaceAnchor,
    FaceEvidence,
    HeldAgainst,
    PartitionRecord,
    ScoreRecord,
    Source,
    StateRecord,
    Status,
)

EDGE = 1 << 63
streams = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
names = streams
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
topics = st.from_regex(r"[a-zA-Z0-9._-]{1,20}", fullmatch=True)
times_ns = st.integers(-EDGE, EDGE - 1)
offsets = st.integers(0, EDGE - 1)
partitions = st.integers(0, 1000)
numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
sections = st.binary(max_size=40)
people = st.integers(-1, 1 << 40)

sources = st.builds(Source, topic=topics, partition=partitions, offset=offsets, index=st.integers(0, 1 << 20))
evidence = st.builds(
    FaceEvidence,
    score=numbers,
    log_density=st.none() | numbers,
    p_value=shares,
    accumulated=st.none() | shares,
    level=st.sampled_from(Level),
    against=st.none() | st.sampled_from(HeldAgainst),
)
anchors = st.builds(
    FaceAnchor,
    origin=st.none() | st.sampled_from(Origin),
    state=st.sampled_from(AnchorState),
    frames=st.integers(0, 1024),
    since_ns=st.none() | times_ns,
    age_s=st.none() | numbers,
    frozen=st.booleans(),
)
faces = st.builds(
    Face,
    person=people,
    name=st.none() | names,
    track=st.integers(-1, 1 << 40),
    box_px=st.tuples(numbers, numbers, numbers, numbers),
    confidence=shares,
    quality=st.sampled_from(Reason),
    evidence=st.dictionaries(st.sampled_from(EVIDENCES), evidence),
    missing=st.dictionaries(st.sampled_from(EVIDENCES), texts),
    anchor=st.none() | anchors,
)
scores = st.builds(
    ScoreRecord,
    version=st.just(2),
    stream=streams,
    pts_ns=times_ns,
    source=sources,
    status=st.sampled_from(Status),
    reason=texts,
    faces=st.lists(faces, max_size=3).map(tuple),
    model_id=names,
    difffake=names,
)
_ends = st.one_of(
    st.tuples(st.sampled_from([AlertState.OPENED, AlertState.UPDATED]), st.just(0), st.none()),
    st.tuples(st.just(AlertState.CLOSED), st.integers(-EDGE, 0), st.integers(0, EDGE - 1)),
)
alerts = _ends.flatmap(
    lambda end: st.builds(
        AlertRecord,
        version=st.just(3),
        id=names,
        state=st.just(end[0]),
        kind=st.sampled_from(AlertKind),
        evidence=st.sampled_from(EVIDENCES),
        stream=streams,
        person=people,
        name=st.none() | names,
        start_ns=st.just(end[1]),
        end_ns=st.just(end[2]),
        end_reason=st.none() if end[2] is None else st.sampled_from(AlertEnd),
        p_value=shares,
        level=st.sampled_from(Level),
        accumulated=numbers,
        alert_level=numbers,
        budget_per_day=st.floats(1e-9, 1e6),
        acknowledged_by=st.none() | names,
        first=sources,
        last=sources,
        sentence=texts,
        thumbnail_jpeg=st.none() | st.binary(max_size=60),
        model_id=names,
        difffake=names,
    )
)
by_person = st.dictionaries(st.integers(0, 1 << 40), sections, max_size=4)
states = st.builds(
    StateRecord,
    version=st.sampled_from([2, 3]),
    topic=topics,
    partition=partitions,
    stream=streams,
    next_offset=offsets,
    last_pts_ns=st.none() | times_ns,
    people=sections,
    tracker=sections,
    finder=sections,
    evidence=sections,
    anchors=by_person,
    arrays=by_person,
    arrays_digest=st.binary(max_size=32),
    decoder=st.binary(max_size=200),
    resume_offset=st.none() | offsets,
    commands_offset=offsets,
)
anchors = st.builds(
    AnchorsRecord,
    version=st.just(1),
    topic=topics,
    partition=partitions,
    stream=streams,
    arrays=by_person,
    digest=st.binary(max_size=32),
)
partition_states = st.builds(
    PartitionRecord, version=st.just(1), topic=topics, partition=partitions, next_offset=offsets
)
enrolments = st.builds(
    EnrolmentRecord,
    version=st.just(1),
    stream=streams,
    person=names,
    anchors=st.binary(min_size=1, max_size=60),
    issued_ns=times_ns,
    by=names,
    id=names,
)
commands = st.builds(
    CommandRecord,
    version=st.just(3),
    stream=streams,
    command=st.sampled_from(Command),
    person=st.none() | names | st.integers(0, 1 << 40),
    evidence=st.none() | st.sampled_from(EVIDENCES),
    value=st.none() | st.floats(1e-9, 1e9),
    alert=st.none() | names,
    issued_ns=times_ns,
    by=names,
    id=names,
)
batches = st.builds(
    BatchRecord,
    version=st.just(1),
    size=st.none() | st.integers(1, 1024),
    deadline_s=st.none() | st.floats(0, 10),
    issued_ns=times_ns,
    by=names,
    id=names,
)
messages = st.one_of(scores, alerts, states, anchors, partition_states, enrolments, commands, batches)
