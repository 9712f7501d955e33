"""What keeps an anchor from being dragged away: where it began, how far it is from there, and who may enter it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from difffake.anchors.candidates import Candidates
from difffake.anchors.choose import pose_and_light
from difffake.anchors.policy import AnchorPolicy
from difffake.anchors.pool import QUALITIES, AnchorPool, Origin

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Home:
    """Where an anchor began: what drift is measured from, float64.

    Args:
        identity: ``(I,)``, centre of the first anchor's identity embeddings.
        artifact: ``(D,)``, centre of its artifact embeddings.
        spread: root mean square distance of these from their centre: the unit of artifact distances.
    """

    identity: F64
    artifact: F64
    spread: float

    @classmethod
    def of(cls, pool: AnchorPool) -> Self:
        """The home of an anchor that begins with this pool."""
        artifact = centre(pool.embeddings)
        spread = float(np.sqrt(((pool.embeddings.astype(np.float64) - artifact) ** 2).sum(axis=1).mean()))
        return cls(centre(pool.identities), artifact, spread)

    def holds(self, identity: F64, artifact: F64, policy: AnchorPolicy) -> bool:
        """Whether a centre or a member, ``(I,)`` and ``(D,)``, lies within the policy's ``max_drift`` of home."""
        return (
            length(identity - self.identity) <= policy.max_drift_identity
            and length(artifact - self.artifact) <= policy.max_drift_artifact * self.spread
        )


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How far an anchor's centre is from where it began, and the bounds; ``None`` where that part is missing.

    ``identity`` is a Euclidean distance; ``artifact`` is in spreads, see `AnchorPolicy`.
    """

    identity: float | None
    identity_bound: float
    artifact: float | None
    artifact_bound: float


def drift_of(pool: AnchorPool | None, home: Home | None, policy: AnchorPolicy) -> Drift:
    """How far a pool is from its home."""
    identity = artifact = None
    if pool is not None and home is not None:
        if pool.has_identity:
            identity = length(centre(pool.identities) - home.identity)
        if pool.has_artifact:
            moved = length(centre(pool.embeddings) - home.artifact)
            # A home of one member, or of equal ones, has no spread, and nothing leaves it.
            artifact = moved / home.spread if moved else 0.0
    return Drift(
        identity=identity,
        identity_bound=policy.max_drift_identity,
        artifact=artifact,
        artifact_bound=policy.max_drift_artifact,
    )


def pool_of(faces: Candidates) -> AnchorPool:
    """The faces, all of them, as an anchor that was taken from the stream itself."""
    return AnchorPool(
        embeddings=faces.embedding,
        logits=faces.logit,
        times_s=faces.time_s,
        origin=Origin.SELF,
        identity=faces.identity,
        yaw_deg=faces.yaw_deg,
        pitch_deg=faces.pitch_deg,
        luma=faces.luma,
        sharpness=faces.sharpness,
    )


def with_member(pool: AnchorPool, face: Candidates, replaceable: NDArray[np.bool_]) -> tuple[AnchorPool, int]:
    """The pool with ``face`` for the replaceable member most like it in pose and light, and that member's row."""
    looks = pose_and_light(
        np.append(pool.yaw_deg, face.yaw_deg),  # type: ignore[arg-type]
        np.append(pool.pitch_deg, face.pitch_deg),  # type: ignore[arg-type]
        np.append(pool.luma, face.luma),  # type: ignore[arg-type]
        len(pool) + 1,
    )
    apart = ((looks[:-1] - looks[-1]) ** 2).sum(axis=1)
    slot = int(np.lexsort((pool.times_s, np.where(replaceable, apart, np.inf)))[0])
    given = {
        "embeddings": part(face.embedding, pool.embeddings[0]),
        "identity": part(face.identity, pool.identities[0]),
        "logits": face.logit[0] if pool.has_artifact else np.nan,
        "times_s": face.time_s[0],
        **{name: getattr(face, name)[0] for name in QUALITIES},
    }
    arrays = {}
    for name, value in given.items():
        arrays[name] = getattr(pool, name).copy()
        arrays[name][slot] = value
    return AnchorPool(**arrays, origin=pool.origin), slot


def part(face: F32, like: NDArray[np.floating]) -> F64:
    """A single face's embedding, float64, or nothing where the anchor lacks this part."""
    return face[0, : len(like)].astype(np.float64)


def centre(rows: F32) -> F64:
    """Mean of embeddings: ``(K, D) float32 -> (D,) float64``."""
    return np.asarray(rows.astype(np.float64).mean(axis=0))


def length(vector: F64) -> float:
    """Euclidean length of ``(D,)``."""
    return float(np.sqrt((vector**2).sum()))
