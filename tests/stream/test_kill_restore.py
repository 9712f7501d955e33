"""Killed in the middle of restoring a partition of 1,000 streams, and in the middle of a commit: on Apache Kafka."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import msgspec
import pytest
import victim
from apache_kafka import ApacheKafka
from live_show import SETTINGS
from live_world import Shown, picture
from PIL import Image

from difffake.bundle import Bundle
from stream.broker.contract import Broker, TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker
from stream.broker.memory import MemoryBroker
from stream.live import LiveModels
from stream.messages import ScoreRecord, StateRecord, decode, decode_state
from stream.worker import Worker

STREAMS, LATER = 1000, victim.BATCH
HERE = Path(__file__).parent


class Cluster:
    """Input of one partition, and what workers made of it, on one broker."""

    def __init__(self, broker: Broker, models: LiveModels, group: str) -> None:
        self.broker, self.models, self.group = broker, models, group
        broker.ensure_topics([TopicSpec(f"{group}.in", 1)])

    def publish(self, time_s: int, streams: int) -> None:
        """One picture of each stream; every tenth shows a face."""
        empty, face = (_png(shown) for shown in ((), (Shown(2),)))
        producer = self.broker.plain_producer()
        for number in range(streams):
            value = face if number % 10 == 0 else empty
            headers = [("pts-ns", str(time_s * 10**9).encode())]
            producer.send(f"{self.group}.in", key=b"s%d" % number, value=value, headers=headers, timestamp_ms=1)
        producer.flush(30)
        producer.close(5)

    def work(self, name: str) -> Worker:
        """A worker that leaves in order when nothing comes any more."""
        worker = Worker(self.broker, self.models, victim.settings(self.group), name=name, live=SETTINGS)
        worker.run(worker.idle_for(5.0))
        return worker

    def scores(self) -> list[ScoreRecord]:
        """As a reader of committed records sees them."""
        return [decode(value, ScoreRecord) for _, value in self._read("scores")]

    def states(self) -> dict[str, StateRecord]:
        """The last of each stream, without how far its partition was."""
        found = [decode_state(key, value) for key, value in self._read("state")]
        return {s.stream: msgspec.structs.replace(s, next_offset=0) for s in found if isinstance(s, StateRecord)}

    def _read(self, topic: str) -> list[tuple[bytes | None, bytes]]:
        reader, partition = self.broker.reader(), TopicPartition(f"{self.group}.{topic}", 0)
        found = [(r.key, r.value or b"") for r in reader.read(partition, None, reader.end_offset(partition))]
        reader.close()
        return found


def _png(faces: tuple[Shown, ...]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(0, faces).image).save(out, "png")
    return out.getvalue()


@pytest.mark.kafka
@pytest.mark.slow
def test_killed_in_mid_restore_and_in_mid_commit_nothing_is_lost_doubled_or_half_written(
    apache_kafka: ApacheKafka, models: LiveModels, bundle: Bundle, tmp_path: Path
) -> None:
    group = f"g{uuid.uuid4().hex[:8]}"
    calm = Cluster(MemoryBroker(), models, group)
    calm.publish(1, STREAMS)
    calm.publish(2, LATER)
    calm.work("calm")
    expected = sorted(calm.scores(), key=lambda score: score.source.offset)
    assert len(expected) == STREAMS + LATER

    def killed(point: str) -> None:
        command = [sys.executable, str(HERE / "victim.py"), apache_kafka.bootstrap, str(bundle.path), group, point]
        with (tmp_path / f"{point}.log").open("wb") as log:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            dead = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=240, check=False)
        assert dead.returncode == -signal.SIGKILL, (tmp_path / f"{point}.log").read_text()[-3000:]

    storm = Cluster(KafkaBroker(victim.kafka(apache_kafka.bootstrap)), models, group)
    storm.publish(1, STREAMS)
    storm.work("first")
    assert len(storm.scores()) == len(storm.states()) == STREAMS
    storm.publish(2, LATER)
    for point in ("restore", "sends", "offsets"):
        killed(point)
        assert len(storm.scores()) == STREAMS, point
    killed("committed")
    assert len(storm.scores()) == STREAMS + LATER
    last = storm.work("last")
    assert last.counts["restored_streams"] == STREAMS
    assert last.counts["records"] == 0
    assert sorted(storm.scores(), key=lambda score: score.source.offset) == expected
    assert storm.states() == calm.states()
    storm.broker.close()
