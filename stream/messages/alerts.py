"""Alerts that open, are updated and close, on the topic ``difffake.alerts``."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import msgspec

from difffake.results import Level
from stream.messages.codec import EvidenceName, Message, Name, Nanoseconds, Probability, StreamId, Text
from stream.messages.scores import UNKNOWN, Source

MAX_THUMBNAIL_BYTES = 8 << 10


class AlertState(StrEnum):
    """Where an alert is in its life; `closed` is the last record of an alert."""

    OPENED = "opened"
    UPDATED = "updated"
    CLOSED = "closed"


class AlertKind(StrEnum):
    """What made an alert open: evidence that piled up with quiet stretches in between; a short burst of it; evidence
    that lasted without a break; the face of a known person that became another's; somebody who is none of those
    enrolled."""

    THRESHOLD = "threshold"
    SPIKE = "spike"
    SUSTAINED = "sustained"
    IDENTITY_SWITCH = "identity-switch"
    STRANGER = "stranger"


class AlertEnd(StrEnum):
    """Why an alert was closed: the evidence calmed down; nothing was heard of it for long, while the stream went on;
    the stream ended; more was watched than there is room for; or an operator muted it."""

    CALM = "calm"
    GONE = "gone"
    STREAM_ENDED = "stream-ended"
    CROWDED = "crowded"
    MUTED = "muted"


class AlertRecord(Message, frozen=True, kw_only=True):
    """One alert at one moment of its life; all records of an alert share its id. Readers ignore unknown fields.

    Args:
        version: of this schema.
        id: the same in every record of this alert, and again the same if the input is read again.
        state: opened, updated or closed.
        kind: what made it open; `identity-switch` and `stranger` are those of identity evidence.
        evidence: the question that it answers.
        stream: the stream's id, which is also the record's key.
        person: who it is about, as in the scores; -1 where nobody can tell.
        name: the enrolled name; null for anybody else.
        start_ns: PTS of the first frame that it rests on.
        end_ns: PTS of the last one; null until it is closed.
        end_reason: why it was closed; null until then.
        p_value: the smallest so far, under real footage: over the running window, or of a frame before that is full.
        level: the worst so far, in words.
        accumulated: decimal logarithm of the evidence since it began, the largest so far; see `docs/alerts.md`.
        alert_level: decimal logarithm of the level that it passed, which follows from the budget.
        budget_per_day: false alerts per stream-day, of all evidence together, that the operator allowed when it opened.
        acknowledged_by: the operator who has seen it; null: nobody has.
        first: source of the first frame: where to begin reading to see it again.
        last: source of the last frame so far.
        sentence: what happened, for people.
        thumbnail_jpeg: its most suspicious face so far, aligned, 112 px, base64; null where there is none.
        model_id: the model bundle that scored it.
        difffake: the version of the program.
    """

    NAME: ClassVar[str] = "alert"

    version: Literal[3] = 3
    id: Name
    state: AlertState
    kind: AlertKind
    evidence: EvidenceName
    stream: StreamId
    person: Annotated[int, msgspec.Meta(ge=UNKNOWN)]
    name: Name | None
    start_ns: Nanoseconds
    end_ns: Nanoseconds | None
    end_reason: AlertEnd | None
    p_value: Probability
    level: Level
    accumulated: float
    alert_level: float
    budget_per_day: Annotated[float, msgspec.Meta(gt=0)]
    acknowledged_by: Name | None
    first: Source
    last: Source
    sentence: Text
    thumbnail_jpeg: Annotated[bytes, msgspec.Meta(max_length=MAX_THUMBNAIL_BYTES)] | None
    model_id: Name
    difffake: Name

    def __post_init__(self) -> None:
        is_closed = self.state == AlertState.CLOSED
        if (self.end_ns is not None) != is_closed or (self.end_reason is not None) != is_closed:
            raise ValueError("an alert has an end and a reason for it when it is closed, and only then")
        if self.end_ns is not None and self.end_ns < self.start_ns:
            raise ValueError("an alert that ends before it starts")

    @property
    def key(self) -> bytes:
        """Of the Kafka record."""
        return self.stream.encode()


def alert_id(stream: str, person: int, kind: AlertKind, evidence: EvidenceName, first: Source) -> str:
    """The id of the alert that opened at a frame, 32 hexadecimal digits: read again, the frame gives the same id."""
    parts = [stream, person, kind.value, evidence, first.topic, first.partition, first.offset, first.index]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
