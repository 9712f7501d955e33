"""What a worker may be told; frozen once read."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stream.metrics.settings import MetricsSettings
from stream.pipeline import PipelineSettings
from stream.topics import Topics


class Overload(StrEnum):
    """What is done with more work than there is time for.

    ``WAIT``: partitions are held back and nothing is left out; the delay grows. ``SHED``: the oldest work of the least
    suspicious streams is left out, each of its frames with the status ``SHED``; the delay stays bounded.
    """

    WAIT = "wait"
    SHED = "shed"


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `stream.worker.Worker`.

    Args:
        inputs: input topics.
        group: consumer group; workers of one group share the partitions.
        instance_id: static membership: a restart within the session timeout moves no partition.
        topics: outputs.
        commit_interval_s, commit_records: a transaction is committed after so long, or so many input records.
        commit_late_s: where all records are done late, a tenth of that time, but no more than this, takes the place of
            a shorter interval.
        poll_records: input records fetched at once: what may be waiting in memory.
        poll_timeout_s: longest wait for records.
        waiting_bytes, waiting_records: input that may wait in memory: in all, and of one partition.
        turn_s: how often input is looked at while there is something to do.
        overload, max_age_s: whether to shed, and records of which age when they are done; twice that where a stream is
            under suspicion.
        pipeline: threads and batches.
        live_streams: streams kept ready; others are kept as their state's bytes until their next record.
        kept_streams: streams whose state is kept at all, of all partitions together; beyond that those that are silent
            the longest are forgotten before `forget_s` is over.
        enrolments_s: how often the enrolments topic is looked at.
        idle_s: a stream of access units that sends nothing for so long no longer holds the committed offset back.
        forget_s: the state of a stream that sends nothing for so long is deleted: whoever uses its name later begins
            anew, with its enrolments. Ids that are made anew for every broadcast would else fill memory and topic.
        close_s: longest wait for the group when the worker leaves it of itself.
        drain_timeout_s: after `Worker.stop` everything is over within so long: what is in progress is finished or given
            back, committed, and the group left. Less than what a supervisor waits before it kills (Kubernetes: 30 s).
        metrics: what is told of single streams.
        retries: failed commits in a row before the worker gives up.
        broken_records: records in a row that make the analysis fail before the worker gives up.
    """

    inputs: list[str] = msgspec.field(default_factory=lambda: ["video.in"])
    group: str = "difffake"
    instance_id: str | None = None
    topics: Topics = Topics()
    commit_interval_s: float = 1.0
    commit_records: int = 2_000
    commit_late_s: float = 2.0
    poll_records: int = 16
    poll_timeout_s: float = 0.2
    waiting_bytes: int = 256 << 20
    waiting_records: int = 2_000
    turn_s: float = 0.04
    overload: Overload = Overload.WAIT
    max_age_s: float = 2.0
    pipeline: PipelineSettings = PipelineSettings()
    live_streams: int = 512
    kept_streams: int = 50_000
    enrolments_s: float = 1.0
    idle_s: float = 60.0
    forget_s: float = 7 * 86400.0
    close_s: float = 15.0
    drain_timeout_s: float = 25.0
    metrics: MetricsSettings = MetricsSettings()
    retries: int = 5
    broken_records: int = 20

    def __post_init__(self) -> None:
        numbers = {n: v for n in self.__struct_fields__ if isinstance(v := getattr(self, n), int | float)}
        wrong = {n: v for n, v in numbers.items() if not v > 0}
        if wrong or not self.inputs:
            raise ValueError(f"settings of a worker must be positive, with at least one input topic, not {wrong}")
