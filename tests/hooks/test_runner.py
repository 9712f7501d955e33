"""The loop on a broker in memory: at least once, in order, bounded, and given up in time."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import pairwise

import pytest
import records_made_up as made_up
from prometheus_client.parser import text_string_to_metric_families
from test_delivery import reply, serving

from stream.broker.contract import TopicPartition, TopicSpec
from stream.broker.errors import BrokerError, BrokerUnavailableError
from stream.broker.memory import ManualClock, MemoryBroker, MemorySettings
from stream.hooks import SIGNATURE_HEADER, Answer, Hooks, HookSettings, PayloadKind, Receiver, verify
from stream.hooks.figures import hook_metrics
from stream.hooks.runner import Poster
from stream.messages import AlertRecord, AlertState, encode
from stream.metrics.processes import HOOKS
from stream.probes import Door

TOPIC, SECRET, NOW_S = "difffake.alerts", b"0123456789abcdef", 1_800_000_000.0
OK, BUSY, NO = Answer(200, "OK"), Answer(503, "busy"), Answer(404, "no")


def alert(number: int, state: AlertState = AlertState.OPENED, **changed: object) -> AlertRecord:
    return made_up.alert(f"a{number}", state, **{"stream": "studio-1", "thumbnail_jpeg": b"\xff\xd8"} | changed)


@dataclass
class World:
    """A topic of alerts, a receiver that answers as told, and a clock that nobody waits for."""

    settings: HookSettings = field(default_factory=lambda: HookSettings(url="http://receiver/"))
    answers: list[Answer] = field(default_factory=list)
    now_s: float = 0.0
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(MemorySettings(session_timeout_s=5, transaction_timeout_s=5), clock=self.clock)
        self.broker.ensure_topics([TopicSpec(TOPIC, 2)])

    def send(self, *values: AlertRecord | bytes, partition: int = 0, at_s: float = NOW_S) -> None:
        producer = self.broker.plain_producer()
        for value in values:
            data = encode(value) if isinstance(value, AlertRecord) else value
            producer.send(TOPIC, key=b"studio-1", value=data, partition=partition, timestamp_ms=round(at_s * 1e3))
        producer.flush(1.0)
        producer.close(1.0)

    def hooks(self, name: str = "1", secret: bytes | None = SECRET, receiver: Poster | None = None) -> Hooks:
        return Hooks(
            self.broker,
            TOPIC,
            receiver or self,
            self.settings,
            secret=secret,
            name=name,
            clock=lambda: NOW_S + self.now_s,
            monotonic=lambda: self.now_s,
            jitter=lambda: 1.0,
            poll_s=0.0,
        )

    def post(self, body: bytes, headers: dict[str, str]) -> Answer:
        self.got.append((headers, body))
        return self.answers.pop(0) if self.answers else OK

    @property
    def keys(self) -> list[str]:
        return [headers["Idempotency-Key"] for headers, _ in self.got]

    def run(self, hooks: Hooks, steps: int = 30, until: Callable[[], bool] | None = None) -> Hooks:
        for _ in range(steps):
            hooks.step()
            self.now_s += 0.5
            if until is not None and until():
                break
        return hooks

    def committed(self) -> int | None:
        consumer = self.broker.consumer("difffake-hooks")
        try:
            return consumer.committed(TopicPartition(TOPIC, 0))
        finally:
            consumer.close(1.0)


@pytest.fixture
def world() -> World:
    return World()


def end(hooks: Hooks) -> None:
    hooks.run(lambda: True)


def test_alerts_come_in_order_signed_each_with_a_key_of_its_own(world: World) -> None:
    world.settings = HookSettings(url="http://receiver/", states=tuple(AlertState))
    lives = [alert(1), alert(1, AlertState.UPDATED), alert(1, AlertState.UPDATED), alert(1, AlertState.CLOSED)]
    world.send(*lives)
    hooks = world.run(world.hooks())
    assert hooks.counts["delivered"] == 4
    assert len(set(world.keys)) == 4
    assert [json.loads(body)["type"] for _, body in world.got] == [
        "alert.opened",
        "alert.updated",
        "alert.updated",
        "alert.closed",
    ]
    for headers, body in world.got:
        assert verify(SECRET, headers[SIGNATURE_HEADER], body, NOW_S + world.now_s)
    end(hooks)
    assert world.committed() == 4


def test_without_a_secret_nothing_is_signed(world: World) -> None:
    world.send(alert(1))
    world.run(world.hooks(secret=None))
    assert SIGNATURE_HEADER not in world.got[0][0]


def test_a_busy_receiver_is_asked_again_later_and_later_with_the_same_key_and_keeps_the_order(world: World) -> None:
    world.answers = [BUSY, Answer(0, "no connection"), Answer(429, "slow", 20.0), OK]
    world.send(alert(1), alert(2))
    times: list[float] = []
    hooks = world.hooks()
    for _ in range(200):
        before = len(world.got)
        hooks.step()
        times += [world.now_s] * (len(world.got) - before)
        world.now_s += 0.5
    assert world.keys == ["a1-opened"] * 4 + ["a2-opened"]
    assert len({body for _, body in world.got[:4]}) == 1
    waits = [b - a for a, b in pairwise(times)]
    assert waits[0] >= 1.0
    assert waits[1] >= 2.0
    assert waits[2] >= 20.0
    assert (hooks.counts["retries"], hooks.counts["delivered"]) == (3, 2)
    end(hooks)
    assert world.committed() == 2


def test_what_is_refused_or_sent_elsewhere_is_not_tried_again_and_holds_nothing_up(world: World) -> None:
    world.answers = [NO, Answer(302, "elsewhere"), OK]
    world.send(alert(1), alert(2), alert(3))
    hooks = world.run(world.hooks())
    assert world.keys == ["a1-opened", "a2-opened", "a3-opened"]
    assert (hooks.counts["refused"], hooks.counts["delivered"]) == (2, 1)
    end(hooks)
    assert world.committed() == 3


def test_a_dead_receiver_costs_no_more_than_its_bounds(world: World) -> None:
    world.settings = HookSettings(url="http://receiver/", waiting=4, give_up_s=30.0, max_age_s=100.0)
    world.answers = [BUSY] * 10_000
    world.send(*(alert(n) for n in range(50)))
    hooks = world.hooks()
    most = 0
    for _ in range(600):
        hooks.step()
        most = max(most, hooks.waiting)
        world.now_s += 0.5
    assert most == 4
    assert hooks.counts["given_up"] >= 1
    assert hooks.counts["given_up"] + hooks.counts["expired"] == 50, "nobody wants them after so long"
    assert hooks.counts["delivered"] == 0
    world.answers = []
    world.send(alert(99), at_s=NOW_S + world.now_s)
    world.run(hooks)
    assert world.keys[-1] == "a99-opened"
    end(hooks)
    assert world.committed() == 51


def test_one_who_dies_before_the_commit_is_followed_by_one_who_sends_again_with_the_same_keys(world: World) -> None:
    world.send(alert(1), alert(2))
    first = world.hooks()
    world.run(first, until=lambda: len(world.got) == 2)
    world.broker.silence(first._consumer)  # type: ignore[arg-type]
    world.clock.advance(6.0)
    world.run(world.hooks("2"), until=lambda: len(world.got) == 4)
    assert world.keys == ["a1-opened", "a2-opened"] * 2


def test_what_is_done_is_committed_while_the_receiver_hangs_at_the_next_one(world: World) -> None:
    """Four were delivered at once, then it hung: whoever was killed seconds later sent all four again."""
    hanging, let_go, committed = threading.Event(), threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if len(server.came) == 5:
            hanging.set()
            let_go.wait(60.0)
        reply(handler, 204)

    with serving() as server:
        server.answer = answer
        world.settings = HookSettings(url=server.url(), total_s=120.0)
        world.send(*(alert(number) for number in range(1, 7)))
        hooks = world.hooks(receiver=Receiver(world.settings))
        commit = hooks._producer.commit

        def note(offsets: Mapping[TopicPartition, int], group: object) -> None:
            commit(offsets, group)
            if offsets.get(TopicPartition(TOPIC, 0)) == 4:
                committed.set()

        hooks._producer.commit = note  # type: ignore[method-assign]
        sending = threading.Thread(target=hooks.run, args=(lambda: len(server.came) >= 5,))
        sending.start()
        try:
            assert hanging.wait(30.0)
            assert committed.wait(30.0), "the fifth may hang for long, and the four before it wait for it"
        finally:
            let_go.set()
            sending.join(60.0)
    assert world.committed() == 5


def test_where_all_goes_fast_alerts_share_a_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = world.hooks()
    commit, commits = hooks._producer.commit, []

    def count(offsets: Mapping[TopicPartition, int], group: object) -> None:
        commits.append(offsets)
        commit(offsets, group)

    monkeypatch.setattr(hooks._producer, "commit", count)
    world.send(*(alert(number) for number in range(100)))
    for _ in range(110):
        hooks.step()
        world.now_s += 0.01
    end(hooks)
    assert (hooks.counts["delivered"], world.committed()) == (100, 100)
    assert len(commits) < 20


def test_a_commit_that_fails_while_the_receiver_hangs_ends_it(world: World) -> None:
    let_go = threading.Event()

    class Slow:
        def post(self, _body: bytes, headers: dict[str, str]) -> Answer:
            if headers["Idempotency-Key"] == "a2-opened":
                let_go.wait(30.0)
            return OK

    def refuse(*_: object) -> None:
        hooks._producer.abort()
        let_go.set()
        raise BrokerUnavailableError("gone", hint="none")

    world.send(alert(1), alert(2))
    hooks = world.hooks(receiver=Slow())
    hooks._producer.commit = refuse  # type: ignore[method-assign]
    with pytest.raises(BrokerUnavailableError):
        hooks.run(lambda: hooks.counts["delivered"] == 2)
    assert (hooks.counts["delivered"], world.committed()) == (1, None)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_commit_that_is_refused_for_a_moment_ends_nobody_and_nothing_is_sent_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """A broker forgets a producer that had nothing to commit for a week: the next commit is refused, once."""
    hooks = world.hooks()
    commit, refusals = hooks._producer.commit, [BrokerError("InvalidProducerIdMapping", hint="again")] * 2

    def refuse(offsets: Mapping[TopicPartition, int], group: object) -> None:
        if refusals:
            hooks._producer.abort()
            raise refusals.pop()
        commit(offsets, group)

    monkeypatch.setattr(hooks._producer, "commit", refuse)
    world.send(alert(1))
    world.run(hooks, until=lambda: leaves and bool(hooks.counts["delivered"]))
    end(hooks)
    assert (world.committed(), refusals) == (1, [])
    end(world.run(world.hooks("2")))
    assert world.keys == ["a1-opened"]


def test_a_commit_that_is_refused_for_good_ends_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = world.hooks()

    def refuse(*_: object) -> None:
        hooks._producer.abort()
        raise BrokerError("no", hint="none")

    monkeypatch.setattr(hooks._producer, "commit", refuse)
    world.send(alert(1))
    with pytest.raises(BrokerError, match="no"):
        world.run(hooks, steps=100)
    end(hooks)
    assert world.committed() is None


def test_what_waits_when_it_is_told_to_stop_is_left_to_the_next_one(world: World) -> None:
    world.answers = [OK, *[BUSY] * 3]
    world.send(alert(1), alert(2))
    hooks = world.run(world.hooks(), steps=4)
    hooks.stop()
    hooks.run()
    assert world.committed() == 1
    world.answers = []
    before = len(world.got)
    world.run(world.hooks("2"))
    assert world.keys[before:] == ["a2-opened"]


def test_a_dead_receiver_is_told_of_once_a_minute_not_once_an_alert(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.answers = [NO] * 200
    world.send(*(alert(n) for n in range(200)))
    world.run(world.hooks(), steps=240)  # two minutes
    said = complaints(capsys)
    assert 1 <= len(said) <= 3
    assert "404" in said[0]


def complaints(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "do not arrive" in line]


def test_an_alert_that_is_too_old_when_it_is_read_is_told_with_the_reason(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.send(alert(1), at_s=NOW_S - 7200)
    world.run(world.hooks())
    (said,) = complaints(capsys)
    assert "offset 0: 7200 s old, over 3600 s; nothing was sent before it" in said


def test_an_alert_that_expires_while_the_receiver_is_busy_is_told_with_what_it_said(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.settings = HookSettings(url="http://receiver/", max_age_s=30.0)
    world.answers = [BUSY] * 100
    world.send(alert(1), alert(2))
    hooks = world.run(world.hooks(), steps=240)  # two minutes
    assert hooks.counts["expired"] == 2
    assert "offset 1: " in (said := complaints(capsys)[-1])
    assert "s old, over 30 s; the receiver's last answer: 503 busy" in said


def test_nonsense_on_the_topic_and_old_alerts_are_counted_and_passed_over(world: World) -> None:
    world.send(b"not an alert", alert(1, AlertState.UPDATED))
    world.send(alert(2), at_s=NOW_S - 7200)
    world.send(alert(3))
    hooks = world.run(world.hooks())
    assert world.keys == ["a3-opened"]
    assert (hooks.counts["unreadable"], hooks.counts["skipped"], hooks.counts["expired"]) == (1, 1, 1)
    end(hooks)
    assert world.committed() == 4


@pytest.mark.parametrize("name", ["line\r\nX-Forged: 1", "оповещение", "a\x00b", "plain"])
def test_an_alert_whose_id_fits_in_no_header_arrives_and_holds_nothing_up(world: World, name: str) -> None:
    world.send(*(made_up.alert(one, stream="studio-1") for one in (name, f"{name}x", name)), alert(2))
    with serving() as server:
        hooks = world.run(world.hooks(receiver=Receiver(HookSettings(url=server.url()))))
        keys = [headers["Idempotency-Key"] for _, headers, _ in server.came]
        assert not any("X-Forged" in headers for _, headers, _ in server.came)
    assert (hooks.counts["delivered"], hooks.counts["retries"], hooks.waiting) == (4, 0, 0)
    assert keys[0] == keys[2] != keys[1]
    assert (keys[0] == f"{name}-opened") == (name == "plain")
    assert keys[3] == "a2-opened"
    end(hooks)


def test_a_message_for_a_chat_mentions_nobody_and_links_nowhere(world: World) -> None:
    world.settings = HookSettings(url="http://receiver/", payload=PayloadKind.SLACK)
    world.send(alert(1, stream="<!channel> & <http://evil|x>\nfake: line"))
    world.run(world.hooks())
    text = json.loads(world.got[0][1])["text"]
    assert "<" not in text
    assert ">" not in text
    assert "&lt;!channel&gt; &amp; " in text
    assert text.count("\n") == 2
    assert "identity-switch" in text


def test_the_face_goes_along_unless_it_is_not_wanted() -> None:
    for wanted in (True, False):
        one = World(HookSettings(url="http://receiver/", thumbnails=wanted))
        one.send(alert(1))
        one.run(one.hooks())
        assert bool(json.loads(one.got[0][1])["alert"]["thumbnail_jpeg"]) is wanted


def asked(door: Door, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*door.address, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_what_became_of_alerts_is_told_to_prometheus(world: World) -> None:
    world.answers = [OK, NO, *[BUSY] * 20]
    world.send(b"not an alert", *(alert(number) for number in range(4)))
    hooks = world.hooks()
    with Door("127.0.0.1:0", hook_metrics(hooks)) as door:
        assert asked(door, "/readyz")[0] == 503
        world.run(hooks, steps=10)
        assert asked(door, "/readyz")[0] == 200
        told = {
            (sample.name, *map(sample.labels.__getitem__, sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(asked(door, "/metrics")[1])
            for sample in family.samples
        }
        waited_s = world.now_s
        hooks.stop()
        assert asked(door, "/readyz")[0] == 503
        end(hooks)
    assert {name[0] for name in told if name[0].startswith("difffake_")} == set(HOOKS)
    assert ("process_cpu_seconds_total",) in told
    alerts = {name[1]: value for name, value in told.items() if name[0] == "difffake_hooks_alerts_total"}
    assert alerts == {"delivered": 1, "refused": 1, "unreadable": 1, "given_up": 0, "expired": 0, "skipped": 0}
    assert told["difffake_hooks_waiting_alerts",] == 2
    assert told["difffake_hooks_attempts_total",] == 2 + told["difffake_hooks_retries_total",] > 2
    assert told["difffake_hooks_lag_seconds",] == waited_s
    assert NOW_S <= told["difffake_hooks_last_delivery_timestamp_seconds",] < NOW_S + waited_s
    assert told["difffake_hooks_partitions_assigned",] == 2
    assert told["difffake_hooks_http_requests_total", "503", "/readyz"] == 1
