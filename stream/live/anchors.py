"""The anchors of one stream: a keeper for each person, bounded in number, moved when two people turn out to be one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from difffake.anchors import AnchorKeeper, AnchorPolicy, AnchorPool, Candidates
from difffake.errors import DataError
from difffake.people.ledger import Arrays

_HINT = "delete this stream's state: it then warms up again"


class Anchors:
    """Person -> keeper, since when its anchor stands, and when the person was last seen.

    A person whose anchor was never complete and who was not seen for the policy's ``patience_s`` loses nothing when
    the keeper goes: its frames would be too old. Beyond ``most`` the longest unseen is given up. Enrolled and frozen
    keepers stay in any case.

    Args:
        policy: of new keepers.
        most: keepers of people who are neither enrolled nor frozen.
    """

    def __init__(self, policy: AnchorPolicy, most: int) -> None:
        self._policy, self._most = policy, most
        self._keepers: dict[int, AnchorKeeper] = {}
        self._since_ns: dict[int, int] = {}
        self._seen_ns: dict[int, int] = {}
        self._parts: dict[int, tuple[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self._keepers)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._keepers))

    def __contains__(self, person: int) -> bool:
        return person in self._keepers

    def __getitem__(self, person: int) -> AnchorKeeper:
        return self._keepers[person]

    def get(self, person: int) -> AnchorKeeper | None:
        """The person's keeper, if there is one."""
        return self._keepers.get(person)

    def since_ns(self, person: int) -> int | None:
        """PTS since which the person's anchor stands."""
        return self._since_ns.get(person)

    @property
    def enrolled_pools(self) -> list[AnchorPool]:
        """The enrolled anchors that stand, in the order of their persons."""
        found = [(p, k.pool) for p, k in sorted(self._keepers.items()) if k.is_enrolled]
        return [pool for _, pool in found if pool is not None]

    def open(self, person: int, visible: set[int]) -> None:
        """Make sure of a keeper for a person, at the cost of the longest unseen who is not ``visible``; there may be
        no room."""
        if person in self._keepers:
            return
        open_ones = [p for p, k in self._keepers.items() if not k.is_enrolled and not k.is_frozen]
        if len(open_ones) >= self._most:
            absent = [p for p in open_ones if p not in visible]
            if not absent:
                return
            self.drop(min(absent, key=lambda p: (self._seen_ns.get(p, 0), p)))
        self._put(person, AnchorKeeper(self._policy))

    def offer(self, person: int, faces: Callable[[], Candidates], good: int, pts_ns: int) -> None:
        """Offer a person's faces of one frame to their keeper; without one, nothing happens.

        Args:
            faces: gives them; most anchors stand, and need not know what a face is like.
            good: how many of them are fit for scoring.
        """
        keeper = self._keepers.get(person)
        if keeper is None:
            return
        before = keeper.since_s
        if not keeper.pass_by(pts_ns / 1e9, good):
            keeper.offer(faces())
        self._parts.pop(person, None)
        self._seen_ns[person] = pts_ns
        if keeper.since_s is None:
            self._since_ns.pop(person, None)
        elif keeper.since_s != before:
            self._since_ns[person] = pts_ns

    def tidy(self, now_ns: int, remembered: Callable[[int], bool]) -> list[int]:
        """Give up keepers that nobody will miss; returns whose."""
        patience_ns = round(self._policy.patience_s * 1e9)
        gone = [
            person
            for person, keeper in self._keepers.items()
            if not keeper.is_enrolled
            and not keeper.is_frozen
            and now_ns - self._seen_ns.get(person, now_ns) > patience_ns
            and not (keeper.has_begun and remembered(person))
        ]
        for person in gone:
            self.drop(person)
        return gone

    def enrol(self, person: int, pool: AnchorPool, now_ns: int | None) -> None:
        """Keep an anchor from trusted footage, from ``now_ns`` on; None: from the first frame on, see `begin`."""
        frozen = person in self._keepers and self._keepers[person].is_frozen
        keeper = AnchorKeeper.enrolled(pool, self._policy, since_s=0.0 if now_ns is None else now_ns / 1e9)
        if frozen:
            keeper.freeze()
        self._put(person, keeper)
        self._since_ns.pop(person, None)
        if now_ns is not None:
            self._since_ns[person] = now_ns

    def begin(self, now_ns: int) -> None:
        """The stream's first frame: what was enrolled before stands since then."""
        for person, keeper in list(self._keepers.items()):
            if keeper.pool is not None:
                self.enrol(person, keeper.pool, now_ns)

    def merge(self, gone: int, survivor: int) -> bool:
        """Two persons were one; True if the keeper of the one who is gone is the better one, and stays.

        An enrolled anchor comes first, then one that stands before none, then the older one. A freeze of either holds.
        """
        old, new = self._keepers.get(gone), self._keepers.get(survivor)
        if old is None:
            return False
        frozen = old.is_frozen or (new is not None and new.is_frozen)
        takes_over = new is None or self._rank(gone, old) < self._rank(survivor, new)
        since_ns, seen_ns = self._since_ns.get(gone), self._seen_ns.get(gone)
        self.drop(gone)
        if seen_ns is not None:
            self._seen_ns[survivor] = max(seen_ns, self._seen_ns.get(survivor, seen_ns))
        if takes_over:
            self._put(survivor, old)
            self._since_ns.pop(survivor, None)
            if since_ns is not None:
                self._since_ns[survivor] = since_ns
        if frozen:
            self.freeze(survivor)
        return takes_over

    def _rank(self, person: int, keeper: AnchorKeeper) -> tuple[bool, bool, bool, int, int]:
        since_ns = self._since_ns.get(person, 0)
        return not keeper.is_enrolled, keeper.pool is None, not keeper.has_begun, since_ns, person

    def freeze(self, person: int, frozen: bool = True) -> None:
        """Freeze a person's keeper, or take that back."""
        keeper = self._keepers[person]
        if frozen:
            keeper.freeze()
        else:
            keeper.unfreeze()
        self._parts.pop(person, None)

    def reset(self, person: int) -> None:
        """Forget a person's anchor, where it began, and a freeze."""
        self._keepers[person].reset()
        self._since_ns.pop(person, None)
        self._parts.pop(person, None)

    def drop(self, person: int) -> None:
        """Give a person's keeper up."""
        for table in (self._keepers, self._since_ns, self._seen_ns, self._parts):
            table.pop(person, None)

    def _put(self, person: int, keeper: AnchorKeeper) -> None:
        self._keepers[person] = keeper
        self._parts.pop(person, None)

    def to_bytes(self) -> dict[int, bytes]:
        """Person -> the keeper's exact state, in order of persons."""
        return {person: self._keepers[person].to_state() for person in self}

    def to_parts(self) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Person -> the keeper's exact state without its arrays, and person -> these arrays, in order of persons; what
        did not change is not encoded again."""
        for person, keeper in self._keepers.items():
            if person not in self._parts:
                self._parts[person] = keeper.to_parts()
        return {p: self._parts[p][0] for p in self}, {p: self._parts[p][1] for p in self}

    def to_arrays(self) -> Arrays:
        """What the keepers' own states do not hold."""
        arrays: Arrays = {}
        for name, table in (("since", self._since_ns), ("seen", self._seen_ns)):
            arrays[f"anchors_{name}"] = np.array(sorted(table.items()), np.int64).reshape(-1, 2)
        return arrays

    @classmethod
    def restored(
        cls,
        keepers: Mapping[int, bytes],
        their_arrays: Mapping[int, bytes],
        arrays: Arrays,
        policy: AnchorPolicy,
        most: int,
    ) -> Anchors:
        """The anchors of `to_parts` and `to_arrays`; of `to_bytes` where nobody has arrays apart.

        Raises:
            AnchorError: a keeper's state is damaged.
            DataError: the arrays are.
        """
        anchors = cls(policy, most)
        if their_arrays.keys() - keepers.keys():
            raise DataError("damaged anchors: arrays of somebody without one", hint=_HINT)
        for person, data in keepers.items():
            apart = their_arrays.get(person)
            keeper = AnchorKeeper.from_state(data) if apart is None else AnchorKeeper.from_parts(data, apart)
            anchors._keepers[person] = keeper
        for name, into in (("since", anchors._since_ns), ("seen", anchors._seen_ns)):
            table = arrays.get(f"anchors_{name}")
            if not isinstance(table, np.ndarray) or table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != 2:
                raise DataError(f"damaged anchors: when they were {name} is missing", hint=_HINT)
            into.update((int(person), int(at_ns)) for person, at_ns in np.asarray(table, np.int64))
            if len(into) != len(table) or not set(into) <= set(anchors._keepers):
                raise DataError("damaged anchors: times of somebody without one", hint=_HINT)
        for person, keeper in anchors._keepers.items():
            # Only what was enrolled before the first frame stands since nobody knows when.
            if (person in anchors._since_ns) != (keeper.pool is not None) and not keeper.is_enrolled:
                raise DataError("damaged anchors: one that does not stand since it says", hint=_HINT)
        return anchors
