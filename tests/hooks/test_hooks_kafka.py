"""Alerts through a real Apache Kafka to a real server."""

from __future__ import annotations

import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler

import pytest
from test_delivery import Server, reply
from test_runner import alert

from stream.broker.contract import TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.hooks import Hooks, HookSettings, Receiver
from stream.messages import AlertRecord, encode


@pytest.mark.kafka
def test_what_was_delivered_is_not_sent_again_and_what_was_not_is(kafka_bootstrap: str) -> None:
    topic, group = f"alerts-{uuid.uuid4().hex[:8]}", f"hooks-{uuid.uuid4().hex[:8]}"
    broker, server = KafkaBroker(KafkaSettings(bootstrap_servers=kafka_bootstrap)), Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        broker.ensure_topics([TopicSpec(topic, 2)])
        settings = HookSettings(url=server.url(), first_wait_s=0.01)

        def publish(*alerts: AlertRecord) -> None:
            producer = broker.plain_producer()
            for one in alerts:
                producer.send(topic, key=one.key, value=encode(one), timestamp_ms=round(time.time() * 1e3))
            producer.close(10.0)

        def deliver(name: str, count: int) -> Hooks:
            hooks = Hooks(broker, topic, Receiver(settings), settings, group=group, name=name, poll_s=0.05)
            until = time.monotonic() + 120.0
            hooks.run(lambda: hooks.counts["delivered"] >= count or time.monotonic() > until)
            return hooks

        busy = iter([503, 204, 500, 204])

        def answer(handler: BaseHTTPRequestHandler) -> None:
            reply(handler, next(busy, 204))

        server.answer = answer
        publish(alert(1), alert(2))
        first = deliver("1", 2)
        publish(alert(3))
        second = deliver("2", 1)
        keys = [headers["Idempotency-Key"] for _, headers, _ in server.came]
        assert keys == ["a1-opened"] * 2 + ["a2-opened"] * 2 + ["a3-opened"]
        assert (first.counts["retries"], second.counts["delivered"]) == (2, 1)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        broker.close()
