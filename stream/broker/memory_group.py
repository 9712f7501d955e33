"""Consumer groups of the in-memory broker: membership, cooperative rebalancing (KIP-429), fencing (KIP-447, KIP-345).

A real member sends heartbeats in the background, so one here lives until it leaves, is silenced for longer than the
session, or has not polled for longer than `max_poll_interval_s`. Every change of membership begins a new generation.
A member enters it when it polls; until then its own generation stays good, as it does on Kafka while a group
prepares a rebalance.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from stream.broker.contract import TopicPartition
from stream.broker.errors import FencedError, StaleGroupError

Topics = tuple[str, ...] | re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Membership:
    """What `Consumer.group()` gives out."""

    group: str
    member: str
    generation: int
    instance_id: str | None


@dataclass(eq=False, slots=True)
class Member:
    """One consumer as the group sees it."""

    name: str
    instance_id: str | None
    topics: Topics
    polled_s: float
    generation: int = 0
    silent_since_s: float | None = None
    owned: set[TopicPartition] = field(default_factory=set)
    target: set[TopicPartition] = field(default_factory=set)

    def reads(self, topic: str) -> bool:
        """Whether it subscribed to that topic."""
        if isinstance(self.topics, re.Pattern):
            return self.topics.match(topic) is not None
        return topic in self.topics


class Group:
    """One consumer group. Not thread-safe by itself: the broker's lock is held around every call."""

    def __init__(self, name: str, *, session_timeout_s: float, max_poll_interval_s: float) -> None:
        self.name = name
        self.committed: dict[TopicPartition, int] = {}
        self.members: dict[str, Member] = {}
        self.generation = 0
        self._session_s = session_timeout_s
        self._poll_s = max_poll_interval_s
        self._numbers = itertools.count(1)
        self._seen: set[TopicPartition] = set()

    def join(self, topics: Topics, instance_id: str | None, now_s: float) -> Member:
        """A new member. One with a known instance id takes the place of the old one, and no partition moves."""
        member = Member(f"{self.name}-{next(self._numbers)}", instance_id, topics, now_s)
        old = self._instance(instance_id)
        self.members[member.name] = member
        if old is not None:
            del self.members[old.name]
            member.target = old.target
        else:
            self._rebalance()
        return member

    def leave(self, member: Member) -> None:
        """Its partitions are free at once."""
        if self.members.pop(member.name, None) is not None:
            self._rebalance()

    def expire(self, now_s: float) -> None:
        """Throws out whoever has been silent for too long."""
        gone = [
            member
            for member in self.members.values()
            if (member.silent_since_s is not None and now_s - member.silent_since_s > self._session_s)
            or now_s - member.polled_s > self._poll_s
        ]
        for member in gone:
            del self.members[member.name]
        if gone:
            self._rebalance()

    def notice(self, partitions: Collection[TopicPartition]) -> None:
        """Topics that appeared since the last rebalance are spread as well."""
        if set(partitions) != self._seen:
            self._seen = set(partitions)
            self._rebalance()

    def free(self, member: Member) -> set[TopicPartition]:
        """What is meant for the member, not yet its own, and nobody else's any more."""
        taken = {part for other in self.members.values() if other is not member for part in other.owned}
        return member.target - member.owned - taken

    def check(self, claim: Membership) -> None:
        """Raises when offsets of that member may not be committed."""
        holder = self._instance(claim.instance_id)
        if holder is not None and holder.name != claim.member:
            raise FencedError(
                f"instance {claim.instance_id} of group {self.name} runs elsewhere", hint="Stop this process."
            )
        member = self.members.get(claim.member)
        if member is None or member.generation != claim.generation:
            raise StaleGroupError(
                f"{claim.member} is not in generation {self.generation} of group {self.name}",
                hint="Poll again to join the group anew.",
            )

    def _instance(self, instance_id: str | None) -> Member | None:
        if instance_id is None:
            return None
        return next((member for member in self.members.values() if member.instance_id == instance_id), None)

    def _rebalance(self) -> None:
        self.generation += 1
        targets = balance({name: member.reads for name, member in self.members.items()}, self._seen, self._wishes())
        for name, member in self.members.items():
            member.target = targets[name]

    def _wishes(self) -> dict[TopicPartition, str]:
        """Who has or is about to get what: a rebalance moves as little as it can."""
        wishes = {part: name for name, member in self.members.items() for part in member.target}
        return wishes | {part: name for name, member in self.members.items() for part in member.owned}


def balance(
    members: Mapping[str, Callable[[str], bool]],
    partitions: Iterable[TopicPartition],
    owners: Mapping[TopicPartition, str],
) -> dict[str, set[TopicPartition]]:
    """Spreads partitions evenly over the members that read them; each stays where it is if it may.

    `members`: name -> whether it reads a topic; `owners`: partition -> who has it now.
    """
    shares: dict[str, set[TopicPartition]] = {name: set() for name in members}
    for part in sorted(partitions):
        readers = [name for name, reads in members.items() if reads(part.topic)]
        if readers:
            owner = owners.get(part)
            shares[owner if owner in readers else min(readers, key=lambda name: len(shares[name]))].add(part)
    moved = True
    while moved:
        moved = False
        for giver in sorted(shares, key=lambda name: -len(shares[name])):
            for part in sorted(shares[giver], reverse=True):
                takers = [name for name, reads in members.items() if reads(part.topic)]
                taker = min(takers, key=lambda name: len(shares[name]))
                if len(shares[giver]) - len(shares[taker]) > 1:
                    shares[giver].remove(part)
                    shares[taker].add(part)
                    moved = True
    return shares
