"""``difffake work`` as a process on a real Apache Kafka, and what came of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apache_kafka import free_ports

from stream.broker.contract import Broker, TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.cli import main
from stream.kafka_options import KafkaOptions
from stream.messages import Face, ScoreRecord, decode
from stream.publish import Form, Publisher, PublishSettings

STREAMS = ("a", "b", "c", "d", "e", "f")


def publish(broker: Broker, topic: str, clips: dict[str, Path]) -> None:
    """More than a worker gets done before it is stopped: segments of half a second."""
    broker.ensure_topics([TopicSpec(topic, 2)])
    with Publisher(broker, topic, PublishSettings(form=Form.SEGMENTS, segment_s=0.5)) as publisher:
        sources = {name: [clips["man" if i % 2 else "woman"]] for i, name in enumerate(STREAMS)}
        list(publisher.publish_many(sources))


def scores(broker: Broker, group: str) -> dict[tuple[str, int], tuple[str, tuple[Face, ...]]]:
    """Stream and time of every committed frame, once each, and what was said of it."""
    reader, found = broker.reader(), {}
    for number in range(broker.partitions(f"{group}.scores")):
        partition = TopicPartition(f"{group}.scores", number)
        for record in reader.read(partition, None, reader.end_offset(partition)):
            score = decode(record.value or b"", ScoreRecord)
            key = score.stream, score.pts_ns
            assert key not in found, f"{key} came twice"
            found[key] = score.status.value, score.faces
    reader.close()
    return found


class Process:
    """``difffake work`` as a supervisor runs it; of its ``ports``, one after the other, the first is asked."""

    def __init__(self, bootstrap: str, group: str, bundle: Path, log: Path, *more: str, ports: int = 1) -> None:
        self.port, self._log = free_row(ports), log
        command = [sys.executable, "-m", "stream.cli", "work", "--bootstrap-servers", bootstrap, "--group", group]
        command += ["--prefix", group, "--topic", f"{group}.in", "--bundle", str(bundle), "--analysis-side", "320"]
        command += ["--threads", "1", "--commit-interval", "0.2", "--http", f"127.0.0.1:{self.port}", *more]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""

    def figures(self, name: str) -> list[float]:
        """A metric's series."""
        lines = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return [float(line) for line in lines]

    def text(self) -> str:
        """What it logged."""
        return self._log.read_text(errors="replace")


def free_row(count: int) -> int:
    """The first of so many ports, one after the other, that were free a moment ago."""
    while True:
        first = free_ports(1)[0]
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@contextlib.contextmanager
def running(*arguments: object, ports: int = 1) -> Iterator[Process]:
    """A worker process that does not outlive the test."""
    one = Process(*arguments, ports=ports)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait(30)


def wait_for(worker: Process, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Wait until it holds, as long as the worker lives."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert worker.process.poll() is None, worker.text()[-3000:]
        assert time.monotonic() < until, worker.text()[-3000:]
        time.sleep(0.05)


def undisturbed(
    group: str, clips: dict[str, Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[str, int], tuple[str, tuple[Face, ...]]]:
    """What a worker says of the same input that nobody stops, on a broker in memory; see `scores`."""
    calm = MemoryBroker()
    publish(calm, f"{group}.in", clips)
    monkeypatch.setattr(KafkaOptions, "broker", lambda _self, **_more: calm)
    monkeypatch.setattr(calm, "close", lambda: None)
    options = ["--prefix", group, "--topic", f"{group}.in", "--bundle", str(bundle), "--analysis-side", "320"]
    with pytest.raises(SystemExit) as left:
        main(["work", "--threads", "1", "--idle-exit", "0.5", "--bootstrap-servers", "memory:1", *options])
    assert left.value.code == 0
    return scores(calm, group)
