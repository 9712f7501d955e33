"""SIGTERM at full load, on a real Apache Kafka: a worker that leaves in order, nothing lost, nothing doubled."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apache_kafka import free_ports
from tiny import write_tiny_bundle

from stream.broker.contract import Broker, TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
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
    """``difffake work`` as a supervisor runs it."""

    def __init__(self, bootstrap: str, group: str, bundle: Path, log: Path, *more: str) -> None:
        self.port, self._log = free_ports(1)[0], log
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


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[Process]:
    """A worker process that does not outlive the test."""
    one = Process(*arguments)  # type: ignore[arg-type]
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


@pytest.mark.kafka
@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_at_full_load_leaves_in_order(
    kafka_bootstrap: str, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, bundle = f"g{uuid.uuid4().hex[:8]}", write_tiny_bundle(tmp_path / "tiny", identity=True).path
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka_bootstrap))
    broker.ensure_topics([TopicSpec(f"{group}.in", 2)])
    settings = ["--drain-timeout", "30", "--session-timeout", "120"]
    with running(kafka_bootstrap, group, bundle, tmp_path / "1.log", *settings) as worker:
        wait_for(worker, lambda: worker.get("/readyz")[0] == 200)
        publish(broker, f"{group}.in", clips)  # now: of what waits for long it would commit all at once
        wait_for(worker, lambda: sum(worker.figures("difffake_frames_total")) > 20)
        wait_for(worker, lambda: worker.get("/readyz")[0] == 200)
        assert worker.get("/livez")[0] == worker.get("/startupz")[0] == 200
        told, began = sum(worker.figures("difffake_frames_total")), time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        answers = []
        while worker.process.poll() is None and time.monotonic() - began < 120:
            answers.append(worker.get("/readyz")[0])
            time.sleep(0.02)
        took_s = time.monotonic() - began
        assert worker.process.wait(1) == 0, worker.text()[-3000:]
    assert set(answers[1:]) <= {503, 0}, "not ready from the signal on, then gone"
    assert "took too long" not in worker.text()
    print(f"drained in {took_s:.1f} s")
    first = scores(broker, group)
    assert len(first) >= told

    # It left: nobody has to wait for its session to time out.
    with running(kafka_bootstrap, group, bundle, tmp_path / "2.log") as worker:
        wait_for(worker, lambda: worker.get("/startupz")[0] == 200)
        wait_for(worker, lambda: worker.get("/readyz")[0] == 200, 60)
        wait_for(worker, lambda: worker.figures("difffake_lag_records") == [0, 0])
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0, worker.text()[-3000:]
    found = scores(broker, group)
    broker.close()
    assert len(first) < len(found), "it was stopped in the middle of its work"

    calm = MemoryBroker()
    publish(calm, f"{group}.in", clips)
    monkeypatch.setattr(KafkaOptions, "broker", lambda _self, **_more: calm)
    monkeypatch.setattr(calm, "close", lambda: None)
    options = ["--prefix", group, "--topic", f"{group}.in", "--bundle", str(bundle), "--analysis-side", "320"]
    with pytest.raises(SystemExit) as left:
        main(["work", "--threads", "1", "--idle-exit", "0.5", "--bootstrap-servers", "memory:1", *options])
    assert left.value.code == 0
    assert scores(calm, group) == found
