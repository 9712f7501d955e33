"""A worker that kills itself (SIGKILL) at a given point: python victim.py BOOTSTRAP BUNDLE GROUP POINT

``restore``: half of the partition's state has been read. ``sends``: half of a commit's records are at the broker.
``offsets``: all of them and the offsets, but not the word that commits. ``committed``: that too.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from live_show import SETTINGS
from live_world import scripted_models

import stream.checkpoint
from difffake.bundle import Bundle
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.broker.kafka_producer import KafkaProducer
from stream.settings import WorkerSettings
from stream.topics import Topics
from stream.worker import Worker

#: Of the worker: a batch of so many records is one commit.
BATCH = 200


def settings(group: str) -> WorkerSettings:
    """Those of every worker of the test."""
    return WorkerSettings(
        group=group, inputs=[f"{group}.in"], topics=Topics.under(group), commit_interval_s=1e6, commit_records=BATCH
    )


def kafka(bootstrap: str) -> KafkaSettings:
    """A death is noticed, and its transaction aborted, within seconds."""
    return KafkaSettings(bootstrap_servers=bootstrap, session_timeout_s=3.0, transaction_timeout_s=4.0)


def die() -> None:
    """Now, whatever is open."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str) -> None:
    """Arrange it."""
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    decode_state, send = stream.checkpoint.decode_state, KafkaProducer.send
    wait, commit = KafkaProducer._wait, KafkaProducer.commit

    def restoring(*arguments: Any) -> Any:
        if count() == 500:
            die()
        return decode_state(*arguments)

    def sending(self: KafkaProducer, *arguments: Any, **options: Any) -> None:
        send(self, *arguments, **options)
        if count() == BATCH:  # of scores and states, twice as many in all
            self._open().arrive(10)
            die()

    def waiting(self: KafkaProducer, *arguments: Any) -> None:
        wait(self, *arguments)
        die()

    def committing(self: KafkaProducer, *arguments: Any) -> None:
        commit(self, *arguments)
        die()

    if point == "restore":
        stream.checkpoint.decode_state = restoring
    elif point == "sends":
        KafkaProducer.send = sending  # type: ignore[method-assign]
    elif point == "offsets":
        KafkaProducer._wait = waiting  # type: ignore[method-assign]
    else:
        KafkaProducer.commit = committing  # type: ignore[method-assign]


def main() -> None:
    """Work until death."""
    bootstrap, bundle, group, point = sys.argv[1:]
    die_at(point)
    models = scripted_models(Bundle.load(Path(bundle)), SETTINGS)
    worker = Worker(KafkaBroker(kafka(bootstrap)), models, settings(group), name=f"victim-{point}", live=SETTINGS)
    worker.run(worker.idle_for(20))


if __name__ == "__main__":
    main()
