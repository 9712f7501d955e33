"""Anchors as bytes: arrays in msgpack, in a sealed envelope with a kind, a version and a SHA-256. No pickle.

The digest tells damage, not forgery: whoever may write the bytes may write another digest.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from difffake.anchors.pool import MAX_ANCHORS, QUALITIES, AnchorPool, Origin
from difffake.errors import AnchorError, DataError

MAX_BYTES = 64 << 20
MAX_DIM = 8192
#: Far beyond what networks give; squares of more do not fit float32, and nobody could be told from anybody.
_MAX_EMBEDDING = 1e6
_DAMAGED = "take an undamaged copy, or enrol again with `difffake enroll`"

Body = TypeVar("Body", bound=msgspec.Struct)


class ArrayRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An array: little-endian ``dtype``, ``shape``, and its bytes in C order."""

    dtype: Literal["<f4", "<f8", "|b1"]
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> ArrayRecord:
        """The record of a float32, float64 or bool array."""
        dtype = array.dtype.newbyteorder("<")
        return msgspec.convert((dtype.str, array.shape, array.astype(dtype, copy=False).tobytes()), cls)

    def vector(self, dtype: Literal["<f4", "<f8", "|b1"]) -> NDArray[Any]:
        """The array ``(K,)``.

        Raises:
            AnchorError: another dtype or shape, beyond the bounds, or too many or too few bytes for it.
        """
        return self._array(dtype, (MAX_DIM,))

    def matrix(self) -> NDArray[np.float32]:
        """The array ``(K, D) float32``; raises as `vector` does."""
        return self._array("<f4", (MAX_ANCHORS, MAX_DIM))

    def _array(self, dtype: str, most: tuple[int, ...]) -> NDArray[Any]:
        fits = self.dtype == dtype and len(self.shape) == len(most)
        if not fits or not all(0 <= n <= m for n, m in zip(self.shape, most, strict=True)):
            raise AnchorError(f"an array {self.dtype} {self.shape} in the place of another", hint=_DAMAGED)
        if len(self.data) != math.prod(self.shape) * np.dtype(dtype).itemsize:
            raise AnchorError(f"an array of {self.shape} with {len(self.data)} bytes", hint=_DAMAGED)
        is_mask = dtype == "|b1"
        flat = np.frombuffer(self.data, np.uint8 if is_mask else dtype)
        if is_mask and flat.size and flat.max() > 1:
            raise AnchorError("a mask with values other than 0 and 1", hint=_DAMAGED)
        return flat.astype(np.dtype(dtype).newbyteorder("=")).reshape(self.shape)


class PoolRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An `AnchorPool`, array by array."""

    origin: Literal["self", "enrolled"]
    embeddings: ArrayRecord
    identity: ArrayRecord
    times_s: ArrayRecord
    logits: ArrayRecord
    yaw_deg: ArrayRecord
    pitch_deg: ArrayRecord
    luma: ArrayRecord
    sharpness: ArrayRecord

    @classmethod
    def of(cls, pool: AnchorPool) -> PoolRecord:
        """The record of a pool; exact."""
        arrays = {name: ArrayRecord.of(getattr(pool, name)) for name in cls.__struct_fields__[1:]}
        return cls(origin=pool.origin.value, **arrays)

    def pool(self) -> AnchorPool:
        """The pool, bit for bit.

        Raises:
            AnchorError: it is none.
        """
        for name in ("embeddings", "identity"):
            if np.abs(getattr(self, name).matrix()).max(initial=0.0) > _MAX_EMBEDDING:
                raise AnchorError(f"{name} beyond {_MAX_EMBEDDING:.0e}, which no network gives", hint=_DAMAGED)
        rows = {name: getattr(self, name).vector("<f4") for name in ("logits", *QUALITIES)}
        try:
            return AnchorPool(
                embeddings=self.embeddings.matrix(),
                identity=self.identity.matrix(),
                times_s=self.times_s.vector("<f8"),
                origin=Origin(self.origin),
                **rows,
            )
        except DataError as error:
            raise AnchorError(str(error), hint=_DAMAGED) from error


class _Envelope(msgspec.Struct, frozen=True):
    kind: str
    version: int
    sha256: bytes
    body: msgspec.Raw


class _Head(msgspec.Struct, frozen=True):
    kind: str
    version: int


def seal(kind: str, version: int, body: msgspec.Struct) -> bytes:
    """Bytes of ``body`` that name their kind and version and show damage."""
    data = msgspec.msgpack.encode(body)
    return msgspec.msgpack.encode(_Envelope(kind, version, hashlib.sha256(data).digest(), msgspec.Raw(data)))


def unseal(data: bytes, kind: str, version: int, body: type[Body], *, name: str) -> Body:
    """The body that `seal` was given; ``name`` is what messages call it.

    Raises:
        AnchorError: too large, another kind, a newer or unknown version, or damaged.
    """
    if len(data) > MAX_BYTES:
        raise AnchorError(f"{name}: over {MAX_BYTES >> 20} MiB", hint=_DAMAGED)
    try:
        head = msgspec.msgpack.decode(data, type=_Head)
        if head.kind != kind:
            raise AnchorError(f"{name}: not {kind} but {head.kind[:40]!r}", hint=_DAMAGED)
        if head.version != version:
            age = "a newer" if head.version > version else "an unknown"
            raise AnchorError(
                f"{name}: made by {age} difffake (version {head.version}, this one reads {version})",
                hint="upgrade difffake, or enrol again with `difffake enroll`",
            )
        envelope = msgspec.msgpack.decode(data, type=_Envelope)
        if hashlib.sha256(envelope.body).digest() != envelope.sha256:
            raise AnchorError(f"{name}: damaged: its SHA-256 does not fit", hint=_DAMAGED)
        return msgspec.msgpack.decode(envelope.body, type=body)
    # RecursionError: msgpack nests without bound.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if isinstance(error, AnchorError):
            raise
        raise AnchorError(f"{name}: no anchors, or damaged ({error})", hint=_DAMAGED) from error
