"""One record per analysed frame, on the topic ``difffake.scores``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import msgspec

from difffake.anchors import AnchorState, Origin
from difffake.fitness import Reason
from difffake.results import Level
from stream.messages.codec import (
    EvidenceName,
    Message,
    Name,
    Nanoseconds,
    Offset,
    Partition,
    Probability,
    StreamId,
    Text,
    Topic,
)

MAX_FACES = 512
#: Indexes from here on are of pictures that were not analysed: no picture of a record has such a number.
FIRST_LOST_INDEX = 1 << 30
#: Nobody knows who it is.
UNKNOWN = -1

Box = Annotated[tuple[float, ...], msgspec.Meta(min_length=4, max_length=4)]


class Status(StrEnum):
    """What became of a frame: tells "clean" from "not looking"."""

    SCORED = "SCORED"
    WARMING_UP = "WARMING_UP"
    NO_FACE = "NO_FACE"
    LOW_QUALITY = "LOW_QUALITY"
    DECODE_ERROR = "DECODE_ERROR"
    SHED = "SHED"
    STALE = "STALE"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The input record that a frame came from, enough to read it again; unique to its score record.

    Args:
        topic: of the input.
        partition: of that topic.
        offset: of the record.
        index: number of the frame inside the record's value, from 0 on; 0 for an image. Pictures that were not
            analysed (STALE, DECODE_ERROR, SHED) count from 1073741824 on instead, in their own order.
    """

    topic: Topic
    partition: Partition
    offset: Offset
    index: Annotated[int, msgspec.Meta(ge=0)]


class HeldAgainst(StrEnum):
    """Which anchor an evidence holds a face against: the person's own from this stream, the person's enrolled one, or,
    for somebody who is not enrolled where others are, that of the enrolled person who is nearest."""

    OWN = "own"
    ENROLLED = "enrolled"
    OTHERS = "others"


class FaceEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """One evidence about one face in one frame.

    Args:
        score: higher is more suspicious.
        log_density: nats, where the score is one; else null.
        p_value: how often real footage scores as high in one frame; small is suspicious.
        accumulated: the p-value over the running window; null until the window holds enough frames.
        level: `accumulated` in words; the frame's own p-value in words while that is null.
        against: the anchor; null for evidence that needs none.
    """

    score: float
    log_density: float | None
    p_value: Probability
    accumulated: Probability | None
    level: Level
    against: HeldAgainst | None = None


class FaceAnchor(msgspec.Struct, frozen=True, kw_only=True):
    """The anchor that a face was held against, as it was at that frame.

    Args:
        origin: `self`: the stream's own first good frames of this person; `enrolled`: trusted footage; null while there
            is none yet.
        state: of the anchor.
        frames: reference frames in it.
        since_ns: PTS since which it stands; null while there is none.
        age_s: seconds of stream time since then; null while there is none.
        frozen: whether an operator froze it.
    """

    origin: Origin | None
    state: AnchorState
    frames: Annotated[int, msgspec.Meta(ge=0)]
    since_ns: Nanoseconds | None
    age_s: float | None
    frozen: bool


class Face(msgspec.Struct, frozen=True, kw_only=True):
    """One face of a frame.

    Args:
        person: who it is in this stream, the same across cuts; -1 where nobody can tell.
        name: the enrolled name; null for anybody else.
        track: the face's track: one face in one place, within one shot.
        box_px: corners x1, y1, x2, y2 in pixels of the upright frame; may reach beyond its edges.
        confidence: the detector's, 0 to 1.
        quality: `ok`, or why the face was not scored.
        evidence: what could be said, by evidence: each answers its own question.
        missing: why nothing could be said, for every evidence that is not there.
        anchor: what the face was held against; null where its person is not known.
    """

    person: Annotated[int, msgspec.Meta(ge=UNKNOWN)]
    name: Name | None
    track: Annotated[int, msgspec.Meta(ge=-1)]
    box_px: Box
    confidence: Probability
    quality: Reason
    evidence: dict[EvidenceName, FaceEvidence]
    missing: dict[EvidenceName, Text]
    anchor: FaceAnchor | None


class ScoreRecord(Message, frozen=True, kw_only=True):
    """What DiffFake says about one analysed frame. Readers ignore fields that they do not know.

    Args:
        version: of this schema.
        stream: the stream's id, which is also the record's key.
        pts_ns: presentation time, nanoseconds; never falls within a stream.
        source: where the frame came from.
        status: what became of the frame.
        reason: why, in words, where the status is not SCORED; else empty.
        faces: those found in it.
        model_id: the model bundle that scored it.
        difffake: the version of the program.
    """

    NAME: ClassVar[str] = "score record"

    version: Literal[2] = 2
    stream: StreamId
    pts_ns: Nanoseconds
    source: Source
    status: Status
    reason: Text
    faces: Annotated[tuple[Face, ...], msgspec.Meta(max_length=MAX_FACES)]
    model_id: Name
    difffake: Name

    @property
    def key(self) -> bytes:
        """Of the Kafka record."""
        return self.stream.encode()
