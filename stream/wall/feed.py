"""The thread that reads scores and alerts off Kafka into the wall, however often Kafka goes and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Self

import structlog

from difffake.errors import DiffFakeError
from stream.broker.contract import Broker, Consumer, Reader, Record, TopicPartition
from stream.broker.errors import BrokerError
from stream.messages import AlertRecord, MessageError, ScoreRecord, decode
from stream.tail import Follower
from stream.wall.commands import CommandWatch
from stream.wall.inputs import InputWatch
from stream.wall.looking import Place
from stream.wall.model import Wall
from stream.wall.replays import ReplaySearch
from stream.wall.settings import REPEATED_S, WallSettings

log = structlog.get_logger()

_POLL_S = 0.2
_TURN_S = 0.5
#: Scores written so long ago are left out where newer ones wait: better a gap than a wall that is late.
_LATE_S = 20.0
_JOIN_S = 10.0


class _WallFollower(Follower):
    """Begins some way back, so that a wall that has just been opened is not empty.

    Args:
        broker: to read from.
        settings: see there.
        group: consumer group; a new one by default.
        read: where each partition was read up to before Kafka was lost; what was told then is not told again.
    """

    def __init__(
        self, broker: Broker, settings: WallSettings, group: str | None, read: Mapping[TopicPartition, int]
    ) -> None:
        self._settings, self._read = settings, read
        super().__init__(broker, [settings.topics.scores, settings.topics.alerts], group=group)

    @property
    def reader(self) -> Reader:
        """For offsets."""
        return self._reader

    @property
    def consumer(self) -> Consumer:
        """That of the group."""
        return self._consumer

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """Look up where to begin; see `stream.broker.contract.Listener`."""
        for partition in partitions:
            if partition not in self._seen:
                is_alerts = partition.topic == self._settings.topics.alerts
                back_s = self._settings.alerts_back_s if is_alerts else self._settings.scores_back_s
                end = self._reader.end_offset(partition)
                start, most = self._since(partition, back_s, end), end - self._settings.back_records
                if is_alerts and start < most:
                    most = min(most, self._since(partition, REPEATED_S, end))
                start = max(start, most)
                read = self._read.get(partition, 0)
                if start < read <= end:
                    start = read
                self._consumer.seek(partition, start)
            self._seen.add(partition)

    def _since(self, partition: TopicPartition, back_s: float, end: int) -> int:
        start = self._reader.offset_for_time(partition, int((time.time() - back_s) * 1000))
        return end if start is None else start

    def skip_late(self, records: list[Record]) -> int:
        """Where scores come later than they may and others wait behind them, go on with the newest; how many were
        left out."""
        skipped, newest = 0, dict[TopicPartition, int]()
        for record in records:
            if record.topic == self._settings.topics.scores:
                newest[record.source] = record.timestamp_ms
        for partition, written_ms in newest.items():
            if written_ms >= 0 and time.time() - written_ms / 1000 > max(_LATE_S, self._settings.scores_back_s):
                target = self._reader.end_offset(partition) - self._settings.back_records // 10
                position = self._consumer.position(partition)
                if target > position:
                    self._consumer.seek(partition, target)
                    skipped += target - position
        return skipped


class Feed:
    """Reads until it is closed; use as a context manager.

    Args:
        wall: what it feeds.
        connect: opens a broker; called again after every loss.
        group: consumer group, where groups need permission.
        watch_inputs: look at the ends of silent input partitions, to tell a worker that is gone from frames that do
            not come.
        told: called, on the feed's thread, when something has changed.
    """

    def __init__(
        self,
        wall: Wall,
        connect: Callable[[], Broker],
        *,
        group: str | None = None,
        watch_inputs: bool = True,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._wall, self._connect, self._group, self._told = wall, connect, group, told
        self._watch_inputs = watch_inputs
        self._read: dict[TopicPartition, int] = {}
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="wall-clock", daemon=True)
        self._thread = threading.Thread(target=self._run, name="wall-feed", daemon=True)

    def __enter__(self) -> Self:
        self._ticker.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._ticker.join(_JOIN_S)
        self._thread.join(_JOIN_S)

    def _tick(self) -> None:
        """Time passes also while Kafka makes the reader wait: a clean stream must not stay so."""
        while not self._stop.wait(_TURN_S):
            try:
                self._wall.turn()
            except Exception:  # a clock that stopped would leave everything clean for ever
                log.error("the wall's clock failed", exc_info=True)
            self._told()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with closing(self._connect()) as broker:
                    self._follow(broker)
            except DiffFakeError as error:
                self._lost(f"{error}. {error.hint}")
            except Exception as error:  # whatever the client raises, the wall must say so and go on
                log.error("the wall's reader failed", exc_info=True)
                self._lost(f"unexpected {type(error).__name__}: {error}")
            self._stop.wait(self._wall.settings.retry_s)

    def _lost(self, problem: str) -> None:
        if self._stop.is_set():
            return
        log.warning("the wall lost Kafka", problem=problem)
        self._wall.connected(False, problem)
        self._told()

    def _follow(self, broker: Broker) -> None:
        settings = self._wall.settings
        with _WallFollower(broker, settings, self._group, self._read) as follower:
            inputs = InputWatch(self._wall, follower.reader, settings) if self._watch_inputs else None
            replays = ReplaySearch(self._wall, broker, follower.reader)
            commands, commands_s = CommandWatch(self._wall, follower.reader, settings.topics.enrolments), 0.0
            while not self._stop.is_set():
                records = follower.poll(_POLL_S)
                # An answer, even an empty one: `poll` raises once nobody has answered for long enough.
                self._wall.connected(True)
                for record in records:
                    self._take(record)
                if records:
                    self._told()
                    self._wall.skip(follower.skip_late(records))
                else:
                    self._wall.caught_up()
                with suppress(BrokerError):  # the next poll tells whether Kafka is gone
                    if inputs is not None:
                        inputs.look()
                    if time.monotonic() - commands_s > settings.commands_s:
                        commands_s = time.monotonic()
                        commands.look()
                        replays.look()

    def _take(self, record: Record) -> None:
        self._read[record.source] = record.offset + 1
        if record.value is None:
            return
        try:
            if record.topic == self._wall.settings.topics.alerts:
                self._wall.take_alert(decode(record.value, AlertRecord), record.timestamp_ms)
                return
            score = decode(record.value, ScoreRecord)
            self._wall.take_score(score, Place(record.source, record.offset, score.source), record.timestamp_ms)
        except MessageError as error:
            self._wall.refuse(f"{error}. {error.hint}")
