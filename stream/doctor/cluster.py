"""Whether a Kafka cluster will do: it answers, it has transactions, and its topics take what a worker sends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from difffake.errors import DiffFakeError
from stream.broker.contract import Broker
from stream.broker.errors import TopicNotFoundError
from stream.doctor.report import Check, State
from stream.kafka_options import KafkaOptions
from stream.messages import EnrolmentRecord, ScoreRecord, StateRecord
from stream.topics import Topics

if TYPE_CHECKING:
    from stream.broker.kafka_client import KafkaSettings

#: Nobody waits half a minute for a wrong address to be told.
_CONNECT_S = 10.0
#: A cluster that was never asked for a transaction first makes a topic for them.
_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A topic that a worker writes: the largest record that it may have to take, and how it is kept."""

    name: str
    record_bytes: int
    compacted: bool = False


def cluster_checks(kafka: KafkaOptions, inputs: Sequence[str], topics: Topics, group: str) -> Iterator[Check]:
    """Connect, and look at what a worker of ``group`` with these topics needs; one that fails ends the look.

    Writes no record and makes no topic; the transactional id ``GROUP.doctor`` is registered.
    """
    try:
        from stream.broker.kafka import KafkaBroker

        settings = kafka.settings(connect_timeout_s=_CONNECT_S, loss_timeout_s=_ANSWER_S)
        with closing(KafkaBroker(settings)) as broker:
            yield _cluster(settings)
            broker.producer(f"{group}.doctor").close(_CONNECT_S)
            yield Check("transactions", f"work, as {group}.doctor")
            for topic in inputs:
                yield _input(broker, settings, topic)
            for wanted in _outputs(topics, kafka.max_message_bytes):
                yield _output(broker, settings, wanted)
    except DiffFakeError as error:
        yield Check("Kafka", str(error), State.PROBLEM, error.hint)


def _outputs(topics: Topics, max_message_bytes: int) -> list[_Wanted]:
    return [
        _Wanted(topics.scores, ScoreRecord.MAX_BYTES),
        _Wanted(topics.alerts, ScoreRecord.MAX_BYTES),
        _Wanted(topics.state, StateRecord.MAX_BYTES, compacted=True),
        _Wanted(topics.enrolments, EnrolmentRecord.MAX_BYTES, compacted=True),
        # The original bytes of whatever was read.
        _Wanted(topics.deadletters, max_message_bytes),
    ]


def _cluster(settings: KafkaSettings) -> Check:
    brokers = _asked(settings, "asking for the cluster", lambda admin: admin.describe_cluster())["brokers"]
    return Check("Kafka", f"{len(brokers)} broker{'s' if len(brokers) != 1 else ''} at {settings.bootstrap_servers}")


def _input(broker: Broker, settings: KafkaSettings, topic: str) -> Check:
    try:
        partitions = broker.partitions(topic)
    except TopicNotFoundError as error:
        hint = f"create it, or publish to it: difffake publish --topic {topic} --create-topic 8"
        return Check(topic, str(error), State.PROBLEM, hint)
    limit = _limit(_configuration(settings, topic))
    value = f"input, {_partitions(partitions)}"
    if limit is None:
        return Check(topic, value)
    value += f", records up to {limit >> 10} KiB"
    if limit >= settings.max_message_bytes:
        return Check(topic, value)
    return Check(
        topic,
        value,
        State.NOTE,
        f"segments of video are larger: {_alter(topic, f'max.message.bytes={settings.max_message_bytes}')}",
    )


def _output(broker: Broker, settings: KafkaSettings, wanted: _Wanted) -> Check:
    try:
        partitions = broker.partitions(wanted.name)
    except TopicNotFoundError:
        return Check(wanted.name, "not there yet: the first worker makes it")
    configuration = _configuration(settings, wanted.name)
    value = _partitions(partitions)
    policy = configuration.get("cleanup.policy")
    if policy is not None and ("compact" in policy) != wanted.compacted:
        right = "compact" if wanted.compacted else "delete"
        hint = _alter(wanted.name, f"cleanup.policy={right}")
        lost = "what is remembered of streams" if wanted.compacted else "all but the newest record of a stream"
        return Check(wanted.name, f"{value}, kept by {policy}: {lost} would be lost", State.PROBLEM, hint)
    limit = _limit(configuration)
    if limit is not None and limit < wanted.record_bytes:
        value += f", records up to {limit >> 10} KiB, and there can be some of {wanted.record_bytes >> 10} KiB"
        return Check(wanted.name, value, State.NOTE, _alter(wanted.name, f"max.message.bytes={wanted.record_bytes}"))
    return Check(wanted.name, value)


def _configuration(settings: KafkaSettings, topic: str) -> dict[str, str]:
    """A topic's configuration; empty where we may not read it."""
    from kafka.admin import ConfigResource, ConfigResourceType

    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    found = _asked(
        settings,
        f"reading the configuration of {topic}",
        lambda admin: admin.describe_configs([resource], config_filter="all"),
    )
    entries: Mapping[str, Any] = found.get("topic", {}).get(topic, {})
    return {name: str(entry["value"]) for name, entry in entries.items()}


def _asked(settings: KafkaSettings, what: str, question: Any) -> Any:
    import kafka

    from stream.broker.kafka_client import connect, translated

    admin: Any = connect(kafka.KafkaAdminClient, settings)
    try:
        with translated(what):
            return question(admin)
    finally:
        admin.close()


def _limit(configuration: Mapping[str, str]) -> int | None:
    text = configuration.get("max.message.bytes", "")
    return int(text) if text.isdecimal() else None


def _alter(topic: str, setting: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}"


def _partitions(count: int) -> str:
    return f"{count} partition{'s' if count != 1 else ''}"
