"""What a worker must know to go on where another stopped, on the compacted topic ``difffake.state``.

The records of a batch are written in the transaction that emits its scores and commits its offsets. A null value
(tombstone) forgets a stream.

Most of a stream's state is the arrays of its anchors, which rarely change once they stand. They have a record of their
own, written before the stream's in the same transaction, and only where they changed: what is committed every second
is a fifth of the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.messages.codec import (
    Message,
    MessageError,
    Nanoseconds,
    Offset,
    Partition,
    StreamId,
    Topic,
    decode,
)

#: Room for the record's key and headers below the 16 MiB of a message.
MAX_STATE_BYTES = (16 << 20) - (64 << 10)
MAX_PEOPLE = 4096
_MAX_ARRAYS, _MAX_DIMENSIONS = 256, 4
#: Stands behind the partition's number in the key of anchors, where no digit stands.
_ANCHORS = ":anchors"
_HINT = "restore from an earlier state, or delete this stream's state: it then warms up again"

Section = Annotated[bytes, msgspec.Meta(max_length=MAX_STATE_BYTES)]
Person = Annotated[int, msgspec.Meta(ge=0)]
BySection = Annotated[dict[Person, Section], msgspec.Meta(max_length=MAX_PEOPLE)]
Digest = Annotated[bytes, msgspec.Meta(max_length=32)]


@dataclass(frozen=True, slots=True)
class StateKey:
    """Key of a state record: ``topic/partition/stream``, ``topic/partition:anchors/stream`` for the arrays of its
    anchors, or ``topic/partition`` for the partition's own."""

    topic: str
    partition: int
    stream: str | None = None
    is_anchors: bool = False

    def encode(self) -> bytes:
        """The key's bytes; Kafka allows neither slash nor colon in a topic, so that no two keys are alike."""
        head = f"{self.topic}/{self.partition}{_ANCHORS if self.is_anchors else ''}"
        return (head if self.stream is None else f"{head}/{self.stream}").encode()

    @property
    def anchors(self) -> StateKey:
        """That of the same stream's anchors."""
        return StateKey(self.topic, self.partition, self.stream, is_anchors=True)

    @classmethod
    def parse(cls, key: bytes | None) -> StateKey:
        """The key in these bytes.

        Raises:
            MessageError: it is none.
        """
        try:
            topic, number, *stream = (key or b"").decode().split("/", 2)
            digits, is_anchors = number.removesuffix(_ANCHORS), number.endswith(_ANCHORS)
            parsed = cls(topic, int(digits), stream[0] if stream else None, is_anchors)
            if not topic or stream == [""] or (is_anchors and not stream) or parsed.encode() != key:
                raise ValueError("a part is empty, or the partition is no plain number")
        except ValueError as error:
            raise MessageError(
                f"not the key of a state record: {(key or b'')[:80]!r}",
                hint="check that the topic is difffake's state topic and that only difffake writes to it",
            ) from error
        return parsed


class StateRecord(Message, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="stream-state"):
    """All that is known of one stream. The sections belong to their rooms, which check what they read.

    Args:
        version: of this schema.
        topic: of the input.
        partition: of that topic.
        stream: the stream's id.
        next_offset: the first input offset that this state does not yet hold.
        last_pts_ns: PTS of the last frame emitted; null before the first. Frames at or before it are not emitted again.
        people: who is who, as `pack_arrays`; empty before the first face.
        tracker: the faces' tracks.
        finder: where faces were found in the last frame, and its cut detector, as msgpack of `FinderState`.
        evidence: running windows and open alerts.
        anchors: person -> the bytes of their anchor keeper, without its arrays (version 2: with them).
        arrays: person -> those arrays; none where the stream's `AnchorsRecord` has them.
        arrays_digest: that of this record; empty where there is none.
        decoder: where its decoder stands, and its sampling.
        resume_offset: input offset of the last key frame that the decoder still needs; null for images and segments.
        commands_offset: the first offset of the enrolments topic that was not yet applied.
    """

    NAME: ClassVar[str] = "stream state"
    FORMAT: ClassVar[Literal["json", "msgpack"]] = "msgpack"
    MAX_BYTES: ClassVar[int] = MAX_STATE_BYTES
    OLDER: ClassVar[frozenset[int]] = frozenset({2})

    version: Literal[2, 3] = 3
    topic: Topic
    partition: Partition
    stream: StreamId
    next_offset: Offset
    last_pts_ns: Nanoseconds | None
    people: Section
    tracker: Section
    finder: Section
    evidence: Section
    anchors: BySection
    arrays: BySection = msgspec.field(default_factory=dict)
    arrays_digest: Digest = b""
    decoder: Section
    resume_offset: Offset | None
    commands_offset: Offset

    def __post_init__(self) -> None:
        # The same state is the same bytes, whoever's anchor came first.
        msgspec.structs.force_setattr(self, "anchors", dict(sorted(self.anchors.items())))
        msgspec.structs.force_setattr(self, "arrays", dict(sorted(self.arrays.items())))

    @property
    def key(self) -> bytes:
        """Of the Kafka record."""
        return StateKey(self.topic, self.partition, self.stream).encode()

    def apart(self) -> tuple[StateRecord, AnchorsRecord]:
        """The record without arrays, and the one that has them."""
        anchors = AnchorsRecord(
            topic=self.topic,
            partition=self.partition,
            stream=self.stream,
            arrays=self.arrays,
            digest=self.arrays_digest,
        )
        return msgspec.structs.replace(self, arrays={}), anchors

    def whole(self, anchors: AnchorsRecord | None) -> StateRecord:
        """The record with its arrays, from what `apart` gave.

        Raises:
            MessageError: it needs arrays that these are not.
        """
        if not self.arrays_digest:
            return self
        if anchors is None or anchors.digest != self.arrays_digest:
            raise MessageError(f"the state of {self.stream[:80]} lacks the arrays of its anchors", hint=_HINT)
        return msgspec.structs.replace(self, arrays=anchors.arrays)


def digest_of(arrays: Mapping[int, bytes]) -> bytes:
    """By which a `StateRecord` names its arrays; empty where there are none."""
    if not arrays:
        return b""
    digest = hashlib.blake2b(digest_size=16)
    for person, data in sorted(arrays.items()):
        digest.update(b"%d %d " % (person, len(data)))
        digest.update(data)
    return digest.digest()


class AnchorsRecord(
    Message, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="stream-anchors"
):
    """What rarely changes of a stream's anchors. It belongs to the next state of the stream, and to all that follow
    with its digest.

    Args:
        version: of this schema.
        topic: of the input.
        partition: of that topic.
        stream: the stream's id.
        arrays: person -> the arrays of their anchor keeper.
        digest: of the arrays, by which states name them.
    """

    NAME: ClassVar[str] = "anchors of a stream"
    FORMAT: ClassVar[Literal["json", "msgpack"]] = "msgpack"
    MAX_BYTES: ClassVar[int] = MAX_STATE_BYTES

    version: Literal[1] = 1
    topic: Topic
    partition: Partition
    stream: StreamId
    arrays: BySection
    digest: Digest

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "arrays", dict(sorted(self.arrays.items())))

    @property
    def key(self) -> bytes:
        """Of the Kafka record."""
        return StateKey(self.topic, self.partition, self.stream, is_anchors=True).encode()


class PartitionRecord(
    Message, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="partition-state"
):
    """How far an input partition is done: the position from which a restored worker goes on.

    Args:
        version: of this schema.
        topic: of the input.
        partition: of that topic.
        next_offset: the first input offset that is not done.
    """

    NAME: ClassVar[str] = "partition state"
    FORMAT: ClassVar[Literal["json", "msgpack"]] = "msgpack"
    MAX_BYTES: ClassVar[int] = 4096

    version: Literal[1] = 1
    topic: Topic
    partition: Partition
    next_offset: Offset

    @property
    def key(self) -> bytes:
        """Of the Kafka record."""
        return StateKey(self.topic, self.partition).encode()


AnyState = StateRecord | AnchorsRecord | PartitionRecord


def decode_state(key: bytes | None, value: bytes) -> AnyState:
    """The record of the state topic with this key; a null value has no record, only its `StateKey`.

    Raises:
        MessageError: as `decode` and `StateKey.parse`; or the value belongs to another key.
    """
    parsed = StateKey.parse(key)
    kind: type[AnyState] = PartitionRecord
    if parsed.stream is not None:
        kind = AnchorsRecord if parsed.is_anchors else StateRecord
    record: AnyState = decode(value, kind)
    if record.key != key:
        raise MessageError(f"a {record.NAME} under the key of another: {(key or b'')[:80]!r}", hint=_HINT)
    return record


_Dtype = Literal["|b1", "|u1", "<i4", "<i8", "<f4", "<f8"]
_DTYPES: dict[np.dtype[Any], str] = {np.dtype(name): name for name in get_args(_Dtype)}


class _Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    dtype: _Dtype
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data: bytes


_ARRAYS = msgspec.msgpack.Decoder(dict[str, _Array])


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as a section: exact, the same bytes for the same arrays. No pickle.

    Raises:
        MessageError: an array of another dtype than bool, uint8, int32, int64, float32 and float64.
    """
    packed: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name in sorted(arrays):
        array = arrays[name]
        dtype = _DTYPES.get(array.dtype)
        if dtype is None:  # of another byte order, perhaps
            array = array.astype(array.dtype.newbyteorder("<"))
            dtype = _DTYPES.get(array.dtype)
        if dtype is None or array.ndim > _MAX_DIMENSIONS:
            raise MessageError(
                f"arrays that cannot be kept: {name[:40]!r} is {array.dtype} {array.shape[:8]}", hint=_HINT
            )
        packed[name] = (dtype, array.shape, array.tobytes())
    if len(packed) > _MAX_ARRAYS:
        raise MessageError(f"a section of {len(packed)} arrays", hint=_HINT)
    return msgspec.msgpack.encode(packed)


def unpack_arrays(section: bytes) -> dict[str, NDArray[Any]]:
    """The arrays that `pack_arrays` was given, writable; an empty section has none.

    Raises:
        MessageError: not such a section, or shapes and bytes that do not fit.
    """
    if not section:
        return {}
    try:
        records = _ARRAYS.decode(section)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"not a section of arrays: {error}", hint=_HINT) from error
    if len(records) > _MAX_ARRAYS:
        raise MessageError(f"a section of {len(records)} arrays", hint=_HINT)
    return {name: _array(name, record) for name, record in records.items()}


def _array(name: str, record: _Array) -> NDArray[Any]:
    dtype = np.dtype(record.dtype)
    if len(record.shape) > _MAX_DIMENSIONS or prod(record.shape) * dtype.itemsize != len(record.data):
        raise MessageError(
            f"the array {name[:40]!r} of shape {record.shape[:8]} has {len(record.data)} bytes", hint=_HINT
        )
    if dtype.kind == "b" and record.data.strip(b"\0\1"):
        raise MessageError(f"the mask {name[:40]!r} holds more than true and false", hint=_HINT)
    flat = np.frombuffer(record.data, dtype)
    return flat.astype(dtype.newbyteorder("=")).reshape(record.shape)
