"""Messages to bytes and back: bounded, versioned, and never written in a form that cannot be read again."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec

from difffake.errors import DiffFakeError

_MIB = 1 << 20
_INT64 = 1 << 63

Nanoseconds = Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=_INT64 - 1)]
Partition = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
#: The names that Kafka allows. The lookahead is the end of the text in every dialect; ``$`` lets a newline by.
Topic = Annotated[str, msgspec.Meta(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+(?![\s\S])")]
StreamId = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
MAX_TEXT = 2048
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
#: Those of `difffake.results.EVIDENCES`.
EvidenceName = Literal["artifact", "anchor", "identity"]

FOREIGN = "check that the topic is the right one and that only difffake writes to it"
#: RecursionError: JSON and msgpack nest without bound.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_BUG = "report this as a bug of difffake, with the input that led to it"


class MessageError(DiffFakeError, ValueError):
    """A message that is none, is damaged, beyond its bounds, or of a version that this program does not read."""

    exit_code = 40
    #: Written by a newer version: the fault is ours, not the message's.
    newer = False


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What every message of the wire contract has; a concrete one sets the class variables and its ``version``.

    Args:
        version: of the message's schema.
    """

    NAME: ClassVar[str]
    FORMAT: ClassVar[Literal["json", "msgpack"]] = "json"
    MAX_BYTES: ClassVar[int] = _MIB
    #: Versions that are read, too; this one is written.
    OLDER: ClassVar[frozenset[int]] = frozenset()

    version: int


M = TypeVar("M", bound=Message)


class _Head(msgspec.Struct):
    version: int


def encode(message: Message) -> bytes:
    """Bytes of a message, the same for equal messages. NaN and infinity become null where null is allowed.

    Raises:
        MessageError: what `decode` would refuse: a number out of its range, NaN where there must be a number, a text
            or the whole beyond its bound, a NumPy scalar where a Python number belongs.
    """
    try:
        data: bytes = _encoder(type(message)).encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"a {message.NAME} that cannot be written: {error}", hint=_BUG) from error
    if len(data) > message.MAX_BYTES:
        raise MessageError(
            f"a {message.NAME} of {len(data)} bytes, over {message.MAX_BYTES}",
            hint="lower the bounds in the settings: faces per frame, people per stream, size of anchors",
        )
    # A few microseconds, so that no reader ever meets a message that only its writer could have corrected.
    try:
        _decoder(type(message)).decode(data)
    except UNREADABLE as error:
        raise MessageError(f"a {message.NAME} that nobody could read: {error}", hint=_BUG) from error
    return data


def decode(data: bytes, kind: type[M]) -> M:
    """The message of a kind in ``data``.

    Raises:
        MessageError: too large, not a message of that kind, of a newer or unknown version, or values out of range.
    """
    if len(data) > kind.MAX_BYTES:
        raise MessageError(
            f"a {kind.NAME} of {len(data)} bytes, over {kind.MAX_BYTES}",
            hint=FOREIGN,
        )
    try:
        head = _head(kind.FORMAT).decode(data)
        if head.version not in kind.OLDER:
            check_version(kind.NAME, head.version, current_version(kind))
        message: M = _decoder(kind).decode(data)
    except UNREADABLE as error:
        raise MessageError(f"not a {kind.NAME}: {error}", hint=FOREIGN) from error
    return message


@cache
def current_version(kind: type[Message]) -> int:
    """The version that this program writes and reads."""
    version: int = next(f.default for f in msgspec.structs.fields(kind) if f.name == "version")
    return version


def check_version(name: str, found: int, known: int) -> None:
    """Refuse every version but the known one.

    Raises:
        MessageError: another version.
    """
    if found != known:
        age = "a newer difffake" if found > known else "an unknown difffake"
        error = MessageError(
            f"a {name} of {age} (version {found}, this one reads {known})",
            hint="run the same version of difffake everywhere; upgrade this one first",
        )
        error.newer = found > known
        raise error


def bounded(text: str) -> str:
    """A text that fits in a message: cut at `MAX_TEXT` characters, and valid as UTF-8."""
    return text[:MAX_TEXT].encode(errors="replace").decode()


@cache
def _encoder(kind: type[Message]) -> Any:
    if kind.FORMAT == "json":
        return msgspec.json.Encoder(order="deterministic")
    return msgspec.msgpack.Encoder()  # its "deterministic" order knows no keys but text


@cache
def _decoder(kind: type[Message]) -> Any:
    module = msgspec.json if kind.FORMAT == "json" else msgspec.msgpack
    return module.Decoder(kind)


@cache
def _head(form: str) -> Any:
    return (msgspec.json if form == "json" else msgspec.msgpack).Decoder(_Head)
