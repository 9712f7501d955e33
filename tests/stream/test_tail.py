"""What a person sees of scores and alerts, and what follows their topics."""

from __future__ import annotations

import io
import uuid

import pytest
import records_made_up as made_up
from records_made_up import S, evidence, face, score
from rich.console import Console

from difffake.results import Level
from stream.broker.contract import Broker, TopicSpec
from stream.broker.errors import TopicNotFoundError
from stream.commands_tail import picture
from stream.messages import UNKNOWN, AlertKind, AlertRecord, AlertState, Status
from stream.metrics.coverage import QUIET_S, Coverage
from stream.tail import Board, Follower, Worst

NOW_S = 1_800_000_000


def alert(number: int, state: AlertState = AlertState.OPENED) -> AlertRecord:
    return made_up.alert(str(number), state, kind=AlertKind.THRESHOLD, evidence="artifact", start_ns=number)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_no_width_of_the_terminal_cuts_off_which_stream_and_what_was_found(width: int) -> None:
    """On 80 columns the demo's two streams were both called `studio…`, and stood at `p=0.…`."""
    board = Board()
    for stream, p in (("studio-1", 0.0025), ("studio-2", 0.71)):
        faces = [face(n, artifact=evidence(p), anchor=evidence(p), identity=evidence(p)) for n in range(3)]
        for second in (0, 12.5):
            board.feed(score(stream, second, *faces), 0)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(picture(board, 24))
    shown = out.getvalue()
    assert "…" not in shown
    assert [shown.count(word) for word in ("studio-1", "studio-2", "p=0.0025", "p=0.71")] == [1, 1, 3, 3]
    assert ("person 2, person 1, person 0" in shown) == (width == 200)
    assert ("12.50 s" in shown) == (width > 50)


class TestBoard:
    def test_the_worst_by_level_of_the_last_minute_stays(self) -> None:
        board = Board()
        board.feed(score("a", 0, face(artifact=evidence(0.001, Level.STRONG, 0.002))), 0)
        board.feed(score("a", 1, face(artifact=evidence(0.5)), face(1, artifact=evidence(0.02, Level.SUSPICIOUS))), 0)
        board.feed(score("a", 59.9, face(artifact=evidence(1e-9), identity=evidence(0.3, accumulated=0.7))), 0)
        (row,) = board.rows(0)
        assert row.worst == {"artifact": Worst(Level.STRONG, 0.002), "identity": Worst(Level.NOTHING, 0.7)}
        assert row.rank == 2
        board.feed(score("a", 60), 0)
        assert board.rows(0)[0].worst["artifact"] == Worst(Level.SUSPICIOUS, 0.02)
        board.feed(score("a", 500), 0)
        assert board.rows(0)[0].worst == {}

    def test_coverage_is_that_of_the_metrics_and_none_when_no_frame_comes(self) -> None:
        board, coverage = Board(), Coverage()
        for second in range(90):
            status = (Status.NO_FACE, Status.SCORED, Status.SHED)[second % 3]
            board.feed(score("a", second, status=status, reason="why" * (second % 3 != 1)), second * 1000)
            coverage.add(second * S, status)
        (row,) = board.rows(89_000)
        assert (row.frames, row.coverage) == (60, coverage.ratio)
        assert row.coverage == pytest.approx(2 / 3, abs=0.02)
        assert (row.status, row.reason, row.pts_ns) == (Status.SHED, "why", 89 * S)
        (row,) = board.rows(89_000 + round((QUIET_S + 1) * 1000))
        assert row.coverage == 0.0

    def test_nothing_is_said_of_coverage_before_any_time_has_passed(self) -> None:
        board = Board()
        board.feed(score("a", 0), 0)
        assert board.rows(0)[0].coverage is None

    def test_people_are_named_the_latest_first_and_nobody_twice(self) -> None:
        board = Board()
        board.feed(score("a", 0, face(7), face(8, "Ada"), face(UNKNOWN)), 0)
        board.feed(score("a", 1, face(7)), 0)
        assert board.rows(0)[0].people == ("person 7", "Ada")
        board.feed(score("a", 60.5), 0)
        assert board.rows(0)[0].people == ("person 7",)

    def test_lag_is_told_where_pts_are_times_of_day(self) -> None:
        board = Board()
        board.feed(score("clock", NOW_S - 3), (NOW_S - 1) * 1000)
        board.feed(score("file", 12), (NOW_S - 2) * 1000)
        rows = {row.stream: row for row in board.rows(NOW_S * 1000)}
        assert (rows["clock"].lag_s, rows["clock"].silent_s) == (pytest.approx(3), 1.0)
        assert (rows["file"].lag_s, rows["file"].silent_s) == (None, 2.0)

    def test_the_most_suspicious_stream_comes_first(self) -> None:
        board = Board()
        for stream, level in {"b": Level.NOTHING, "c": Level.STRONG, "a": Level.NOTHING, "d": Level.SUSPICIOUS}.items():
            board.feed(score(stream, 0, face(artifact=evidence(0.5, level))), 0)
        assert [row.stream for row in board.rows(0)] == ["c", "d", "a", "b"]

    def test_memory_is_bounded_whatever_comes(self) -> None:
        board = Board(window_s=10, max_streams=3, max_alerts=4)
        for number in range(200):
            board.feed(score(f"s{number}", 0), 0)
            # A clock that goes mad, and a crowd.
            board.feed(score("mad", (number * 7919) % 1000, *(face(number * 9 + i) for i in range(9))), 0)
        rows = board.rows(0)
        assert [row.stream for row in rows] == ["mad", "s198", "s199"]
        assert rows[0].frames <= 11
        assert len(rows[0].people) <= 32

    def test_alerts_open_ones_first_and_closed_ones_make_room(self) -> None:
        board = Board(max_alerts=3)
        for number in range(3):
            board.feed_alert(alert(number))
        board.feed_alert(alert(1, AlertState.CLOSED))
        assert [(a.id, a.state.value) for a in board.alerts()] == [("2", "opened"), ("0", "opened"), ("1", "closed")]
        board.feed_alert(alert(3))
        assert [a.id for a in board.alerts()] == ["3", "2", "0"]
        board.feed_alert(alert(4))
        assert [a.id for a in board.alerts()] == ["4", "3", "2"]


@pytest.fixture
def topics(broker: Broker) -> list[str]:
    """Two new ones."""
    names = [f"tail.{uuid.uuid4().hex}" for _ in range(2)]
    broker.ensure_topics([TopicSpec(names[0], 2), TopicSpec(names[1], 1)])
    return names


class TestFollower:
    @staticmethod
    def send(broker: Broker, topic: str, *values: str) -> None:
        producer = broker.plain_producer()
        for value in values:
            producer.send(topic, key=value.encode(), value=value.encode())
        producer.close(10)

    @staticmethod
    def read(follower: Follower, count: int, polls: int = 40) -> list[str]:
        got: list[str] = []
        for _ in range(polls):
            got += [(record.value or b"").decode() for record in follower.poll(0.5)]
            if len(got) >= count:
                break
        return sorted(got)

    def test_from_now_on_or_from_the_beginning(self, broker: Broker, topics: list[str]) -> None:
        self.send(broker, topics[0], "a", "b")
        with Follower(broker, topics) as late, Follower(broker, topics, from_beginning=True) as early:
            assert self.read(early, 2) == ["a", "b"]
            assert self.read(late, 1, polls=8) == []
            self.send(broker, topics[0], "c")
            self.send(broker, topics[1], "d")
            assert self.read(late, 2) == ["c", "d"]
            assert self.read(early, 2) == ["c", "d"]

    def test_what_is_not_committed_is_not_seen_and_holds_nobody_up(self, broker: Broker, topics: list[str]) -> None:
        producer = broker.producer(topics[0])
        with Follower(broker, topics, from_beginning=True) as follower:
            producer.begin()
            producer.send(topics[0], key=b"k", value=b"open")
            self.send(broker, topics[1], "done")
            assert self.read(follower, 1) == ["done"]
            assert self.read(follower, 1, polls=3) == []
            producer.commit({}, None)
            assert self.read(follower, 1) == ["open"]
        producer.close(5)

    def test_a_missing_topic_is_named(self, broker: Broker) -> None:
        with pytest.raises(TopicNotFoundError, match=r"tail\.nowhere"), Follower(broker, ["tail.nowhere"]) as follower:
            follower.poll(1)
