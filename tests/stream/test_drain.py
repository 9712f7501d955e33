"""SIGTERM at full load, on a real Apache Kafka: a worker that leaves in order, nothing lost, nothing doubled."""

from __future__ import annotations

import signal
import time
import uuid
from pathlib import Path

import pytest
from tiny import write_tiny_bundle
from work_process import publish, running, scores, undisturbed, wait_for

from stream.broker.contract import TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings


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

    assert undisturbed(group, clips, bundle, monkeypatch) == found
