"""The anchor of one person of one stream: found, kept, guarded against being dragged away, given up. Pure logic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from difffake.anchors.candidates import Candidates
from difffake.anchors.choose import agreeing, choose_diverse
from difffake.anchors.guard import Drift, Home, centre, drift_of, length, part, pool_of, with_member
from difffake.anchors.policy import MAX_KEPT, AnchorMode, AnchorPolicy, AnchorState, AnchorStatus
from difffake.anchors.pool import AnchorPool, Origin
from difffake.anchors.record import ArrayRecord, PoolRecord, seal, unseal
from difffake.anchors.state import (
    ARRAYS_KIND,
    BAD_STATE,
    HEAD_KIND,
    PARTS_VERSION,
    STATE_KIND,
    STATE_VERSION,
    KeeperArrays,
    KeeperHead,
    KeeperRecord,
    read_samples,
    write_samples,
)
from difffake.errors import AnchorError, DataError

_NEVER = float("-inf")
#: So many frames are seen before a beginning is called suspicious.
_MIN_TOLD = 4

#: Anchor, which of its members are the first ones, where it began, frames that wait.
_Arrays = tuple[AnchorPool | None, NDArray[np.bool_], Home | None, Candidates | None]


class AnchorKeeper:
    """A state machine: COLLECTING -> READY (bounded) or FROZEN -> EXPIRED -> collecting again, within the old bounds.

    `offer` it every face of the person, good or not, frame after frame. Faces not later than the last ones offered
    are ignored, so a repeated batch changes nothing. How whole frames are divided into batches, and the order of the
    faces within a batch, change nothing either.

    What is guarded: an anchor is made of frames that agree in identity and whose own `artifact` evidence is
    unsuspicious. A frozen one never changes. A bounded one always keeps half of its first members, and neither its
    centre nor a member that enters is ever farther than the policy's ``max_drift`` from the first centre, however
    slow the change; a new anchor after expiry must lie within the same bounds. Only `reset` forgets where it began.
    An enrolled anchor ends with its age alone, and nothing takes its place.

    >>> keeper = AnchorKeeper()
    >>> keeper.status(0.0).state.value, keeper.pool
    ('COLLECTING', None)
    """

    def __init__(self, policy: AnchorPolicy | None = None) -> None:
        self.policy = policy or AnchorPolicy()
        self._offered_s = _NEVER
        #: The arrays as `to_parts` gave them last, and what they were made of.
        self._sealed: tuple[_Arrays, bytes] | None = None
        self._begin()

    def _begin(self) -> None:
        self._pool: AnchorPool | None = None
        self._original = np.zeros(0, bool)
        self._home: Home | None = None
        self._samples: Candidates | None = None
        self._frozen = self._enrolled = False
        self._expired: Literal["", "unseen", "old"] = ""
        self._since_s = self._updated_s = self._last_ambiguous_s = _NEVER

    @classmethod
    def enrolled(cls, pool: AnchorPool, policy: AnchorPolicy | None = None, *, since_s: float = 0.0) -> Self:
        """Keep an anchor from trusted footage; it is never replaced by the stream's own frames, only reset."""
        keeper = cls(policy)
        keeper._enrolled = True
        keeper._adopt(pool, since_s)
        return keeper

    @property
    def pool(self) -> AnchorPool | None:
        """The anchor, if there is one. Expiry takes effect when the face is next offered."""
        return self._pool

    @property
    def origin(self) -> Origin | None:
        """Where the anchor comes from."""
        return None if self._pool is None else self._pool.origin

    @property
    def since_s(self) -> float | None:
        """Stream time at which the anchor was complete; only later faces can be held against it."""
        return None if self._pool is None else self._since_s

    @property
    def is_frozen(self) -> bool:
        """Whether an operator froze it."""
        return self._frozen

    @property
    def is_enrolled(self) -> bool:
        """Whether it keeps, or kept until it expired, an anchor from trusted footage."""
        return self._enrolled

    @property
    def has_begun(self) -> bool:
        """Whether there is or was an anchor."""
        return self._home is not None

    def fits(self, dim: int, identity_dim: int) -> bool:
        """Whether faces with embeddings of these sizes can be offered."""
        held = []
        if self._home is not None:
            held.append((len(self._home.artifact), len(self._home.identity)))
        if self._samples is not None:
            held.append((self._samples.embedding.shape[1], self._samples.identity.shape[1]))
        return all(a in (0, dim) and b in (0, identity_dim) for a, b in held)

    def age_s(self, now_s: float) -> float | None:
        """How old the anchor is at ``now_s``, stream time."""
        return None if self._pool is None else now_s - self._since_s

    @property
    def drift(self) -> Drift:
        """How far the anchor has moved."""
        return drift_of(self._pool, self._home, self.policy)

    def freeze(self) -> None:
        """Let nothing change or expire, by an operator's word; without an anchor, none is collected."""
        self._frozen = True

    def unfreeze(self) -> None:
        """Take `freeze` back."""
        self._frozen = False

    def reset(self) -> None:
        """Forget the anchor, where it began, and a freeze; the next good frames make a new one."""
        self._begin()

    def offer(self, candidates: Candidates) -> bool:
        """Take in faces of the person, in batches of whole frames; True if the anchor is another one now.

        Raises:
            DataError: embeddings of other sizes than before.
        """
        new = np.isfinite(candidates.time_s) & (candidates.time_s > self._offered_s)
        faces = candidates
        if len(new) != 1 or not new[0]:  # one face a frame is what most streams show
            faces = candidates[new][np.argsort(candidates.time_s[new], kind="stable")]
        self._check_sizes(faces)
        if not len(faces):
            return False
        before = self._pool
        ambiguous = faces.ambiguous
        rows = self._rows_that_matter(faces, ambiguous)
        usable = faces.usable if rows else ambiguous
        for row in rows:
            time_s = float(faces.time_s[row])
            self._expire(time_s)
            self._offered_s = time_s
            if ambiguous[row]:
                self._last_ambiguous_s = time_s
            if usable[row] and not self._frozen:
                face = faces[row : row + 1]
                if self._pool is not None:
                    self._update(face)
                elif not (self._expired and self._enrolled):
                    self._collect(face)
        self._offered_s = float(faces.time_s[-1])
        return self._pool is not before

    def pass_by(self, time_s: float, good: int) -> bool:
        """Do what `offer` would with the person's faces of one frame, where that needs to know no more of them than
        how many are fit for scoring: nothing of them can enter the anchor.

        Returns:
            Whether that was so. If not, nothing has changed: offer them.
        """
        if self._may_change or not time_s > self._offered_s or self._why_expired(time_s):
            return False
        self._offered_s = time_s
        if good > 1:
            self._last_ambiguous_s = time_s
        return True

    @property
    def _may_change(self) -> bool:
        """Whether a face could become part of the anchor."""
        return self._pool is None or (self.policy.mode is AnchorMode.BOUNDED and not self._frozen)

    def _rows_that_matter(self, faces: Candidates, ambiguous: NDArray[np.bool_]) -> Sequence[int]:
        """All rows; for an anchor that cannot change now, none but the last ambiguous one: it costs next to nothing."""
        policy = self.policy
        if self._may_change:
            return range(len(faces))
        gaps = faces.time_s - np.concatenate([[max(self._offered_s, self._since_s)], faces.time_s[:-1]])
        unseen = policy.expire_after_s is not None and not self._enrolled and bool((gaps > policy.expire_after_s).any())
        old = policy.max_age_s is not None and float(faces.time_s[-1]) - self._since_s > policy.max_age_s
        if (unseen or old) and not self._frozen:
            return range(len(faces))
        return [int(row) for row in np.flatnonzero(ambiguous)[-1:]]

    def _check_sizes(self, faces: Candidates) -> None:
        sizes = faces.embedding.shape[1], faces.identity.shape[1]
        held: tuple[int, int] | None = None
        if self._home is not None:
            held = len(self._home.artifact), len(self._home.identity)
        elif self._samples is not None:
            held = self._samples.embedding.shape[1], self._samples.identity.shape[1]
        # An enrolled anchor may lack one part; the stream's frames then have more than it needs.
        if held is not None and any(a not in (0, b) for a, b in zip(held, sizes, strict=True)):
            raise DataError(
                f"faces with embeddings of {sizes}, an anchor with {held}",
                hint="offer faces of the networks that the anchor was made with, or reset it",
            )
        if not any(sizes) and len(faces):
            raise DataError("faces without any embedding", hint="give embeddings, identity, or both")

    # -- expiry ------------------------------------------------------------------------------------------------------
    def _expire(self, time_s: float) -> None:
        why = self._why_expired(time_s)
        if why and self._pool is not None:
            self._expired = why
            self._pool, self._original, self._samples = None, np.zeros(0, bool), None

    def _why_expired(self, time_s: float) -> Literal["", "unseen", "old"]:
        policy = self.policy
        if self._pool is None or self._frozen:
            return self._expired
        seen_s = max(self._offered_s, self._since_s)
        if policy.max_age_s is not None and time_s - self._since_s > policy.max_age_s:
            return "old"
        if policy.expire_after_s is not None and not self._enrolled and time_s - seen_s > policy.expire_after_s:
            return "unseen"
        return ""

    # -- collecting --------------------------------------------------------------------------------------------------
    def _collect(self, face: Candidates) -> None:
        policy, time_s = self.policy, float(face.time_s[0])
        samples = face if self._samples is None else self._samples
        if samples is not face and len(samples):
            if time_s - samples.time_s[-1] < policy.gap_s:
                return
            samples = samples[samples.time_s >= time_s - policy.patience_s].joined(face)
        samples = samples if len(samples) else face
        self._samples = samples[-MAX_KEPT * policy.min_frames :]
        fine = self._samples[~self._suspicious()]
        if len(fine) < policy.min_frames or self._is_suspicious():
            return
        agree = self._agreeing(fine)
        chosen = None
        if agree.sum() >= max(policy.min_agreeing * len(fine), policy.size):
            chosen = fine[self._choose(fine[agree], np.flatnonzero(agree))]
        if chosen is None or len(chosen) < policy.size or not self._is_home(pool := pool_of(chosen)):
            self._samples = self._samples[1:]
            return
        self._adopt(pool, time_s)

    def _choose(self, faces: Candidates, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        chosen = choose_diverse(
            faces.time_s,
            k=self.policy.size,
            min_gap_s=self.policy.gap_s,
            yaw_deg=faces.yaw_deg,
            pitch_deg=faces.pitch_deg,
            luma=faces.luma,
        )
        return rows[chosen]

    def _agreeing(self, faces: Candidates) -> NDArray[np.bool_]:
        return agreeing(faces.identity, self.policy.identity_radius)

    def _suspicious(self) -> NDArray[np.bool_]:
        if self._samples is None:
            return np.zeros(0, bool)
        return np.asarray(self._samples.artifact_p < self.policy.suspicious_p, bool)

    def _is_suspicious(self) -> bool:
        suspicious = self._suspicious()
        return bool(suspicious.sum() > self.policy.max_suspicious * len(suspicious))

    def _is_home(self, pool: AnchorPool) -> bool:
        """Whether a new anchor lies where the one before it began; the first one always does."""
        if self._home is None:
            return True
        return self._home.holds(centre(pool.identities), centre(pool.embeddings), self.policy)

    def _adopt(self, pool: AnchorPool, time_s: float) -> None:
        self._pool, self._original = pool, np.ones(len(pool), bool)
        self._home = self._home or Home.of(pool)
        self._samples, self._expired = None, ""
        self._since_s = self._updated_s = time_s

    # -- following, within bounds ------------------------------------------------------------------------------------
    def _update(self, face: Candidates) -> None:
        """Let a frame near the anchor replace the member most like it in pose and light."""
        policy, pool, home = self.policy, self._pool, self._home
        if policy.mode is not AnchorMode.BOUNDED or pool is None or home is None:
            return
        time_s = float(face.time_s[0])
        if time_s - self._updated_s < 60 / policy.updates_per_minute or face.artifact_p[0] < policy.suspicious_p:
            return
        identity, artifact = part(face.identity, home.identity), part(face.embedding, home.artifact)
        near = length(identity - centre(pool.identities)) <= policy.update_identity
        near &= length(artifact - centre(pool.embeddings)) <= policy.update_artifact * home.spread
        if not near or not home.holds(identity, artifact, policy):
            return
        replaceable = ~self._original
        if self._original.sum() > (len(pool) + 1) // 2:
            replaceable = np.ones(len(pool), bool)
        if not replaceable.any():
            return
        moved, slot = with_member(pool, face, replaceable)
        if home.holds(centre(moved.identities), centre(moved.embeddings), policy):
            self._pool, self._updated_s = moved, time_s
            self._original = self._original & (np.arange(len(pool)) != slot)

    # -- what people and checkpoints ask -----------------------------------------------------------------------------
    def status(self, now_s: float) -> AnchorStatus:
        """State and reason at ``now_s``, stream time, not before the last offer."""
        expired = self._why_expired(now_s)
        there = self._pool is not None and not expired
        state = AnchorState.COLLECTING
        if expired:
            state = AnchorState.EXPIRED
        elif there:
            fixed = self._frozen or self.policy.mode is AnchorMode.FROZEN
            state = AnchorState.FROZEN if fixed else AnchorState.READY
        return AnchorStatus(
            state=state,
            reason=self._reason(state, expired),
            origin=self.origin if there else None,
            frames=len(self._pool) if there and self._pool is not None else 0,
            since_s=self.since_s if there else None,
            age_s=self.age_s(now_s) if there else None,
        )

    def _reason(self, state: AnchorState, expired: str) -> str:
        if state is AnchorState.READY:
            return "follows its person within bounds"
        if state is AnchorState.FROZEN:
            return "frozen by the operator" if self._frozen else "fixed since it was complete"
        if self._frozen:
            return "frozen by the operator: no frames are collected"
        if expired:
            why = "the person was not seen for too long" if expired == "unseen" else "it reached its greatest age"
            return f"{why}: {'enrol again' if self._enrolled else 'its next good frames must be like the first'}"
        if self._last_ambiguous_s == self._offered_s != _NEVER:
            return "ambiguous: two faces of this person in one frame"
        suspicious = self._suspicious()
        fine = int((~suspicious).sum())
        if len(suspicious) >= _MIN_TOLD and self._is_suspicious():
            return "suspicious: its own frames look manufactured"
        if self._samples is not None and fine >= self.policy.min_frames - 1:
            agree = self._agreeing(self._samples[~suspicious]).sum()
            if agree < self.policy.min_agreeing * fine:
                return "ambiguous: its frames show more than one face"
        return self._progress(fine)

    def _progress(self, fine: int) -> str:
        """How many frames there are, what makes one count, and how much longer it takes at the least."""
        least, gap_s = self.policy.min_frames, self.policy.gap_s
        missing_s = max(least - fine, 1) * gap_s
        return (
            f"{fine} of {least} good frames (fit for scoring, unsuspicious, {gap_s:g} s apart); "
            f"it takes {missing_s:.1f} s more of this face, or longer"
        )

    def to_state(self) -> bytes:
        """Everything, exactly: `from_state` gives a keeper that decides the same ever after."""
        return seal(STATE_KIND, STATE_VERSION, KeeperRecord.of(self._head(), self._arrays()))

    def to_parts(self) -> tuple[bytes, bytes]:
        """Everything in two parts, for `from_parts`: what changes with every frame, and the arrays, which do not once
        the anchor stands. As long as they are the same, they are the same object."""
        of = (self._pool, self._original, self._home, self._samples)
        if self._sealed is None or any(a is not b for a, b in zip(of, self._sealed[0], strict=True)):
            self._sealed = of, seal(ARRAYS_KIND, PARTS_VERSION, self._arrays())
        return seal(HEAD_KIND, PARTS_VERSION, self._head()), self._sealed[1]

    def _head(self) -> KeeperHead:
        return KeeperHead(
            policy=self.policy,
            frozen=self._frozen,
            enrolled=self._enrolled,
            expired=self._expired,
            last_ambiguous_s=self._last_ambiguous_s,
            offered_s=self._offered_s,
            since_s=self._since_s,
            updated_s=self._updated_s,
        )

    def _arrays(self) -> KeeperArrays:
        home, samples = self._home, self._samples
        return KeeperArrays(
            pool=None if self._pool is None else PoolRecord.of(self._pool),
            original=None if self._pool is None else ArrayRecord.of(self._original),
            home=None if home is None else (ArrayRecord.of(home.identity), ArrayRecord.of(home.artifact), home.spread),
            samples=None if samples is None else write_samples(samples),
        )

    @classmethod
    def from_state(cls, data: bytes) -> Self:
        """A keeper from `to_state`.

        Raises:
            AnchorError: damaged, of a newer version, or not consistent in itself.
        """
        record = unseal(data, STATE_KIND, STATE_VERSION, KeeperRecord, name="anchor state")
        return cls._restored(record, record)

    @classmethod
    def from_parts(cls, head: bytes, arrays: bytes) -> Self:
        """A keeper from `to_parts`; raises as `from_state`."""
        keeper = cls._restored(
            unseal(head, HEAD_KIND, PARTS_VERSION, KeeperHead, name="anchor state"),
            unseal(arrays, ARRAYS_KIND, PARTS_VERSION, KeeperArrays, name="arrays of an anchor"),
        )
        keeper._sealed = (keeper._pool, keeper._original, keeper._home, keeper._samples), arrays
        return keeper

    @classmethod
    def _restored(cls, head: KeeperHead, arrays: KeeperArrays | KeeperRecord) -> Self:
        keeper = cls(head.policy)
        keeper._frozen, keeper._enrolled, keeper._expired = head.frozen, head.enrolled, head.expired
        keeper._offered_s, keeper._since_s = head.offered_s, head.since_s
        keeper._updated_s, keeper._last_ambiguous_s = head.updated_s, head.last_ambiguous_s
        if arrays.pool is not None and arrays.original is not None:
            keeper._pool, keeper._original = arrays.pool.pool(), arrays.original.vector("|b1")
        if arrays.home is not None:
            identity, artifact, spread = arrays.home
            keeper._home = Home(identity.vector("<f8"), artifact.vector("<f8"), spread)
        if arrays.samples is not None:
            keeper._samples = read_samples(arrays.samples)
        keeper._check_state()
        return keeper

    def _check_state(self) -> None:
        times = [self._offered_s, self._since_s, self._updated_s, self._last_ambiguous_s]
        consistent = not any(np.isnan(t) or t == np.inf for t in times)
        if self._home is not None:
            parts = np.concatenate([self._home.identity, self._home.artifact, [self._home.spread]])
            consistent &= bool(np.isfinite(parts).all()) and self._home.spread >= 0
        if self._pool is not None:
            consistent &= self._home is not None and len(self._original) == len(self._pool)
            consistent &= self._home is not None and (
                self._pool.embeddings.shape[1] == len(self._home.artifact)
                and self._pool.identities.shape[1] == len(self._home.identity)
            )
        if self._samples is not None:
            consistent &= self._pool is None and bool(self._samples.usable.all())
            consistent &= len(self._samples) <= MAX_KEPT * self.policy.min_frames
        if not consistent:
            raise AnchorError("an anchor state that is not consistent in itself", hint=BAD_STATE)
