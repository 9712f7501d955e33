"""A real Prometheus, with the deployment's rules, scrapes a worker, hooks and a wall at work: panels and rules get
answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import records_made_up as made_up
from live_prometheus import Prometheus
from promql import Query, asked, queries, rules

from stream.broker.contract import TopicSpec
from stream.broker.memory import MemoryBroker
from stream.hooks import Answer, Hooks, HookSettings
from stream.hooks.figures import hook_metrics
from stream.live import LiveModels, LiveSettings
from stream.messages import encode
from stream.metrics.ends import EndOffsets
from stream.metrics.instruments import Metrics
from stream.probes import Door
from stream.publish import Publisher, PublishSettings
from stream.settings import WorkerSettings
from stream.topics import Topics
from stream.wall.server import WallServer
from stream.worker import Worker

#: Series that stay empty here, and why.
EMPTY = {
    "difffake_decode_warnings_total": "these clips have nothing odd",
    "difffake_decode_fallback_total": "nobody asked for decoding on a GPU",
    "difffake_gpu_memory_used_bytes": "no GPU is used",
    "difffake_gpu_memory_bytes": "no GPU is used",
}


class Taker:
    """A receiver that takes everything; how alerts are posted is `tests/hooks`' matter."""

    def post(self, body: bytes, headers: dict[str, str]) -> Answer:  # noqa: ARG002
        return Answer(200, "OK")


@pytest.fixture(scope="module")
def scraped(
    tmp_path_factory: pytest.TempPathFactory, prometheus_folder: Path, clips: dict[str, Path]
) -> Iterator[Prometheus]:
    """A Prometheus that saw a worker score two streams and bury a record, hooks deliver an alert, and a wall; all still
    answer."""
    broker = MemoryBroker()
    topics = Topics()
    broker.ensure_topics([TopicSpec("video.in", 2), TopicSpec(topics.alerts, 1)])
    hooks = Hooks(broker, topics.alerts, Taker(), HookSettings(url="http://receiver/"), poll_s=0.05)
    settings = WorkerSettings(commit_interval_s=0.25, poll_timeout_s=0.05)
    metrics = Metrics(settings.metrics)
    live = LiveSettings(threads=1)
    with (
        LiveModels.load(None, live) as models,
        Door("127.0.0.1:0", metrics) as door,
        EndOffsets(lambda: broker, metrics, 0.2),
        Door("127.0.0.1:0", hook_metrics(hooks)) as hooks_door,
        WallServer(lambda: broker) as wall,
        Prometheus(
            tmp_path_factory.mktemp("prometheus"),
            prometheus_folder,
            *(f"127.0.0.1:{port}" for port in (door.address[1], hooks_door.address[1], wall.port)),
        ) as server,
    ):
        worker = Worker(broker, models, settings, name="one", live=live, metrics=metrics)
        threads = [threading.Thread(target=one.run) for one in (worker, hooks)]
        for thread in threads:
            thread.start()
        try:
            server.scraped()
            with Publisher(broker, "video.in", PublishSettings(paced=False, segment_s=1.0)) as publisher:
                streams = {"studio-1": [clips["woman"]], "studio-2": [clips["face_noface"]]}
                sent = publisher.publish_many(streams)
                # In three parts, with scrapes between them: a rate needs two values of what grew meanwhile.
                total = 0
                for part in (6, 6, 1_000):
                    total += sum(1 for _, _ in zip(range(part), sent, strict=False))
                    done = total
                    server.wait(lambda n=done: server.value("sum(difffake_records_total)") >= n, "records")
                    server.scraped()
            producer = broker.plain_producer()
            producer.send("video.in", key=b"studio-2", value=b"no video")
            producer.send(topics.alerts, key=b"a", value=encode(made_up.alert("a1")))
            producer.close(5.0)
            server.wait(lambda: server.value("sum(difffake_hooks_last_delivery_timestamp_seconds)") > 0, "a delivery")
            server.wait(lambda: server.value("sum(difffake_dead_letters_total)") >= 1, "the dead letter")
            server.scraped(4)
            yield server
        finally:
            for one in (worker, hooks):
                one.stop()
            for thread in threads:
                thread.join()


def test_every_panel_gets_an_answer(scraped: Prometheus) -> None:
    def silent() -> dict[str, str]:
        return {query.where: query.expr for query in queries() if _speaks(query) and not scraped.query(query.expr)}

    assert scraped.in_the_end(silent) == {}


def _speaks(query: Query) -> bool:
    """Whether it has something to say when all is well."""
    named = {one.name for one in asked(query.expr)}
    return named != {"ALERTS"} and not named & EMPTY.keys()


def test_what_is_said_to_stay_empty_does(scraped: Prometheus) -> None:
    assert [name for name in EMPTY if scraped.query(name)] == []


def test_every_rule_is_evaluated_and_stands_on_series_that_there_are(scraped: Prometheus) -> None:
    def failing() -> dict[str, object]:
        return {rule["name"]: rule for rule in scraped.rules() if rule["health"] != "ok"}

    assert scraped.in_the_end(failing) == {}
    assert {rule["name"] for rule in scraped.rules()} == {rule.name for rule in rules()}

    def missing() -> dict[str, object]:
        # Most alerts are silent, for nothing is wrong: but they look at something.
        looked_at = {
            rule.name: {one.name for one in asked(rule.expr)} - EMPTY.keys() if rule.is_alert else {rule.name}
            for rule in rules()
        }
        there = {name: bool(scraped.query(name)) for name in set().union(*looked_at.values())}
        return {rule: names for rule, names in looked_at.items() if not all(there[name] for name in names)}

    assert scraped.in_the_end(missing) == {}


def test_what_prometheus_knows_is_what_happened(scraped: Prometheus) -> None:
    def wrong() -> dict[str, float]:
        told = {
            "sum(difffake_dead_letters_total)": scraped.value("sum(difffake_dead_letters_total)") == 1,
            "scored": scraped.value('sum(difffake_frames_total{status="SCORED"})') > 10,
            "ready": scraped.value("sum(difffake_ready)") == 1,
            "looked at": scraped.value('max(difffake_stream_last_covered_timestamp_seconds{stream="studio-1"})') > 0,
            "delivered": scraped.value('difffake_hooks_alerts_total{outcome="delivered"}') == 1,
            "on the wall": scraped.value("difffake_wall_open_alerts") == 1,
            "nobody is down": scraped.query('ALERTS{alertname=~"DiffFake.+(Down|Blind|Idle)"}') == [],
            "lag": scraped.value("job:difffake_lag_seconds:max") == 0,
        }
        return {name: is_right for name, is_right in told.items() if not is_right}

    assert scraped.in_the_end(wrong) == {}
