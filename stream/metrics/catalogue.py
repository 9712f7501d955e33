"""Every metric that a worker exposes, declared once: rules, dashboards and ``docs/metrics.md`` stand on these names.

A name, its labels and its unit are a contract with those who wrote rules against them: they may be added to, not
changed. Seconds, bytes and ratios (0 to 1) are the only units; counters end in ``_total``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

#: Label of everything that is told of one stream; streams beyond the bound share the value `OTHER_STREAMS`.
STREAM = "stream"
OTHER_STREAMS = "_other"


class Type(StrEnum):
    """As Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric.

    Args:
        name: as it is written in a query; for histograms without ``_bucket``, ``_sum`` and ``_count``.
        type: see there.
        help: one sentence.
        labels: name -> what its values are.
        buckets: upper bounds of a histogram, rising, without infinity.
        section: of the documentation.
    """

    name: str
    type: Type
    help: str
    labels: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    section: str = ""

    @property
    def series(self) -> tuple[str, ...]:
        """Names that a query may use."""
        if self.type is Type.HISTOGRAM:
            return tuple(self.name + suffix for suffix in ("_bucket", "_sum", "_count"))
        return (self.name,)

    @property
    def query_labels(self) -> frozenset[str]:
        """Labels that a query may use, besides those that a scrape adds (``instance``, ``job``)."""
        return frozenset(self.labels) | ({"le"} if self.type is Type.HISTOGRAM else set())

    @property
    def is_per_stream(self) -> bool:
        """Whether its series come and go with streams, and are bounded in number."""
        return STREAM in self.labels


#: Name -> metric, in the order of the documentation.
CATALOGUE: dict[str, Metric] = {}
_section = ""


def _begin(title: str) -> None:
    global _section
    _section = title


def _declare(
    kind: Type, name: str, text: str, labels: Mapping[str, str] | None = None, buckets: tuple[float, ...] = ()
) -> Metric:
    metric = CATALOGUE[name] = Metric(name, kind, text, labels or {}, buckets, _section)
    return metric


def _counter(name: str, text: str, /, **labels: str) -> Metric:
    return _declare(Type.COUNTER, name, text, labels)


def _gauge(name: str, text: str, /, **labels: str) -> Metric:
    return _declare(Type.GAUGE, name, text, labels)


def _info(name: str, text: str, /, **labels: str) -> Metric:
    return _declare(Type.INFO, name, text, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], /, **labels: str) -> Metric:
    return _declare(Type.HISTOGRAM, name, text, labels, buckets)


_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLOW_S = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_EVIDENCE = "`artifact`, `anchor` or `identity`"
_WHICH = "id of the stream; `_other`: all those beyond the bound together"

# ----------------------------------------------------------------------------------------------------------------------
_begin("Is every stream looked at?")
STREAM_SECONDS = _counter(
    "difffake_stream_seconds_total",
    "Stream time that passed, by the times of the frames that were due; covered and uncovered together.",
    stream=_WHICH,
)
STREAM_COVERED = _counter(
    "difffake_stream_covered_seconds_total",
    "Stream time that was really looked at: its frames were scored with a usable face, or have none at all.",
    stream=_WHICH,
)
STREAM_UNCOVERED = _counter(
    "difffake_stream_uncovered_seconds_total",
    "Stream time that nobody can call clean.",
    stream=_WHICH,
    reason="`warming_up`: no anchor yet; `low_quality`: faces, but none fit for scoring; `decode_error`; `shed`; "
    "`dead_letter`: in records that could not be used, or not whole; `gap`: nothing came for it",
)
STREAM_COVERAGE = _gauge(
    "difffake_stream_coverage_ratio",
    "Covered share of about the last minute of stream time; falls to 0 when no frame comes. Below 1, a stream without "
    "alerts is not simply clean.",
    stream=_WHICH,
)
STREAM_LAST_FRAME = _gauge(
    "difffake_stream_last_frame_timestamp_seconds",
    "When the last due frame of the stream was committed, whatever became of it; seconds since the epoch.",
    stream=_WHICH,
)
STREAM_LAST_COVERED = _gauge(
    "difffake_stream_last_covered_timestamp_seconds",
    "When the last frame that was really looked at was committed; seconds since the epoch, 0 before the first.",
    stream=_WHICH,
)
STREAM_GEAR = _gauge(
    "difffake_stream_gear",
    "How closely the stream is looked at: 0 shed, 1 watch (key frames), 2 analyse, 3 scrutinise.",
    stream=_WHICH,
)
COVERED = _counter(
    "difffake_covered_seconds_total", "Stream time that was really looked at, all streams: the stream-hours of a rate."
)
OBSERVED = _counter("difffake_observed_seconds_total", "Stream time that passed, all streams, covered or not.")
STREAMS_SEEN = _gauge("difffake_streams", "Streams that sent something lately and are told of.")
STREAMS_FOLDED = _gauge(
    "difffake_streams_folded", 'Of these, those beyond the bound: they share the series of stream="_other".'
)

# ----------------------------------------------------------------------------------------------------------------------
_begin("Faces, evidence, alerts")
FACES = _counter(
    "difffake_faces_total",
    "Faces found, by fitness for scoring.",
    quality="`ok`, or the first reason why not, as in score records",
)
P_VALUE = _histogram(
    "difffake_evidence_p_value",
    "p-values of single faces: under real footage the share up to x should be x, so its bucket over its count is the "
    "realised rate.",
    (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0),
    evidence=_EVIDENCE,
)
ALERTS = _counter(
    "difffake_alerts_total",
    "Alert records.",
    kind="as in alert records: `threshold`, `spike`, `sustained`, `identity-switch`, `stranger`",
    evidence=_EVIDENCE,
    state="`opened`, `updated` or `closed`; alerts are counted by `opened`",
)
ALERT_BUDGET = _gauge(
    "difffake_alert_budget_per_stream_hour",
    "False alerts for each hour of each stream that operators allow, from the settings: beside it stands the rate of "
    "opened alerts over covered stream-hours, true ones included.",
)
STREAM_ALERT_OPEN = _gauge("difffake_stream_alert_open", "Whether any alert of the stream is open.", stream=_WHICH)
STREAM_ALERTS = _counter(
    "difffake_stream_alerts_opened_total", "Alerts of the stream that opened.", stream=_WHICH, evidence=_EVIDENCE
)
STREAM_P_VALUE = _gauge(
    "difffake_stream_evidence_p_value",
    "Smallest p-value among the faces of the last scored frame, over the running window where it is long enough.",
    stream=_WHICH,
    evidence=_EVIDENCE,
)
STREAM_ANCHOR_AGE = _gauge(
    "difffake_stream_anchor_age_seconds",
    "Age in stream time of the oldest anchor that faces of the last such frame were held against.",
    stream=_WHICH,
    origin="`self`: the stream's own first good frames; `enrolled`: trusted footage",
)
FACE_ANCHORS = _counter(
    "difffake_face_anchors_total",
    "Faces by the state of their person's anchor.",
    state="`COLLECTING`, `READY`, `FROZEN` or `EXPIRED`",
    origin="`self`, `enrolled`, or `none` where there is no anchor yet",
)

# ----------------------------------------------------------------------------------------------------------------------
_begin("Records and frames, by how they ended")
RECORDS = _counter(
    "difffake_records_total",
    "Input records that are done and committed.",
    outcome="`analysed`; `shed`; `lost`: its due pictures could not be had; `dead_letter`; `nothing_due`: none of its "
    "pictures was due in this gear; `no_picture_yet`: its decoder gave nothing out yet",
)
GONE_UNREAD = _counter(
    "difffake_input_gone_records_total",
    "Input records that were deleted before a worker came to them (retention): nobody looked at them.",
)
INPUT_REMADE = _counter(
    "difffake_input_remade_total",
    "Partitions whose topic was deleted and made again: they were read from their beginning.",
)
RECORD_BYTES = _counter("difffake_record_bytes_total", "Bytes of values of these records.")
PICTURES = _counter("difffake_pictures_total", "Pictures that these records held, due or not.")
FRAMES = _counter(
    "difffake_frames_total",
    "Due frames by what became of them.",
    status="`SCORED`, `WARMING_UP`, `NO_FACE`, `LOW_QUALITY`, `DECODE_ERROR`, `SHED` or `STALE`",
)
LOST = _counter(
    "difffake_lost_frames_total",
    "Due frames that were not analysed, those whose time is not known included.",
    reason="`stale`, `waiting_for_key_frame`, `damaged`, `beyond_limit` or `shed`",
)
SHED = _counter(
    "difffake_shed_records_total",
    "Records that nobody had time for.",
    reason="`too_old`; `too_old_urgent`: of a stream under suspicion, at twice the age",
)
DEAD_LETTERS = _counter(
    "difffake_dead_letters_total",
    "Dead letters.",
    stage="`decode` or `analyse`",
    error="class of the error",
)
WARNINGS = _counter("difffake_decode_warnings_total", "What decoders found odd.", code="a word for it")

# ----------------------------------------------------------------------------------------------------------------------
_begin("Where time goes")
LATENCY = _histogram(
    "difffake_end_to_end_seconds",
    "From the timestamp of an input record to the commit of what became of it.",
    _SLOW_S,
)
STAGE = _histogram(
    "difffake_stage_seconds",
    "Wall time of one run of a stage.",
    _FAST_S,
    stage="`decode`: the next due frame; `find`, `align`, `extractor`, `identity`: one batch; `score`: what was seen "
    "of one record; `commit`: one transaction",
)
STAGE_ITEMS = _counter(
    "difffake_stage_items_total",
    "What went through a stage, for its cost by frame or face.",
    stage="`decode`, `find`, `score`: frames; `align`, `extractor`, `identity`: faces; `commit`: records",
)
BATCH_WAIT = _histogram("difffake_batch_wait_seconds", "How long a frame waited for company in a batch.", _FAST_S)
BATCH_LIMIT = _gauge("difffake_batch_limit_frames", "Most frames in a batch, as it is set now (`difffake batch`).")
BATCH_DEADLINE = _gauge("difffake_batch_deadline_seconds", "Longest wait of a frame for company, as it is set now.")
BATCHES = _counter("difffake_batches_total", "Batches of the networks.")
BATCH_FRAMES = _counter("difffake_batch_frames_total", "Frames in these batches; over the room: how full they were.")
BATCH_ROOM = _counter("difffake_batch_room_frames_total", "Frames that these batches had room for.")

# ----------------------------------------------------------------------------------------------------------------------
_begin("Backlog")
_TOPIC, _PARTITION = "input topic", "number of the partition"
LAG_SECONDS = _gauge(
    "difffake_lag_seconds",
    "Age of the oldest record of a partition that was read and is not done; 0 when all is done. Scale on this.",
    topic=_TOPIC,
    partition=_PARTITION,
)
LAG_RECORDS = _gauge(
    "difffake_lag_records",
    "Records of a partition that are not done, those not yet read included.",
    topic=_TOPIC,
    partition=_PARTITION,
)
WAITING_RECORDS = _gauge("difffake_waiting_records", "Records in memory that were not begun.")
WAITING_BYTES = _gauge("difffake_waiting_bytes", "Bytes of these records.")
IN_PROGRESS = _gauge("difffake_in_progress_records", "Records in decoders and networks.")
PAUSED = _gauge("difffake_partitions_paused", "Partitions that are not read on, because enough of them is in memory.")

# ----------------------------------------------------------------------------------------------------------------------
_begin("Exactly once")
COMMITS = _counter("difffake_commits_total", "Transactions that were committed.")
COMMIT_FAILURES = _counter(
    "difffake_commit_failures_total",
    "Transactions that failed: nothing of them is visible, all is done again.",
    error="class of the error; `FencedError`: another worker has this one's name",
)
LAST_COMMIT = _gauge(
    "difffake_last_commit_timestamp_seconds", "When the last commit succeeded; seconds since the epoch, 0 before it."
)
REWINDS = _counter("difffake_rewinds_total", "Times that everything was read back from what is committed.")
REBALANCES = _counter(
    "difffake_rebalances_total", "What the group did to this worker.", event="`assigned`, `revoked` or `lost`"
)
PARTITIONS = _gauge("difffake_partitions_assigned", "Input partitions that are this worker's.")
RESTORE = _histogram(
    "difffake_restore_seconds", "Time to read the state of one partition, before its first record.", _FAST_S
)
RESTORED = _counter("difffake_restored_streams_total", "Streams whose state was read back.")
STATE_LOST = _counter(
    "difffake_state_lost_total",
    "Streams whose state could not be read, and partitions that it is gone of: they began anew.",
)
COMMANDS = _counter("difffake_commands_total", "Enrolments and operator commands that were applied to streams.")
COMMAND_WARNINGS = _counter("difffake_command_warnings_total", "Of these, what could not be done as asked.")
COMMANDS_REFUSED = _gauge("difffake_commands_refused", "Records of the enrolments topic that mean nothing.")

# ----------------------------------------------------------------------------------------------------------------------
_begin("The worker itself")
BUILD = _info(
    "difffake_build_info",
    "The program and the model; always 1.",
    version="of DiffFake",
    model_id="of the scores: the bundle and its engines",
)
WORKER = _info("difffake_worker_info", "Who this worker is; always 1.", group="consumer group", worker="its name")
ENGINE = _info(
    "difffake_engine_info",
    "What runs a network; always 1.",
    network="`extractor`, `identity` or `detector`",
    engine="its kind, with eight digits that stand for its files",
    asked="the kind that was asked for",
    reason="why a better engine that lies ready does not run; empty where it does",
)
ENGINE_FALLBACK = _gauge(
    "difffake_engine_fallback",
    "1 where a network runs on another engine than the best that was asked for and lies ready.",
    network="`extractor`, `identity` or `detector`",
)
DECODE_HARDWARE = _counter("difffake_decode_hardware_total", "Decoders that run on the GPU.")
DECODE_FALLBACK = _counter(
    "difffake_decode_fallback_total",
    "Decoders that were asked to run on the GPU and run in software.",
    reason="why",
)
GPU = _info("difffake_gpu_info", "The GPU, where there is one; always 1.", device="its number", name="of the card")
GPU_USED = _gauge("difffake_gpu_memory_used_bytes", "Memory in use, by whomever.", device="its number")
GPU_TOTAL = _gauge("difffake_gpu_memory_bytes", "Memory that the GPU has.", device="its number")
KAFKA = _gauge(
    "difffake_kafka_connected",
    "1 while Kafka answers; 0 while the worker looks for it, or has had no answer for 20 s. After a minute of that "
    "it ends, to be started again: what was last told counts.",
)
READY = _gauge("difffake_ready", "1 while the worker has partitions, its engine is open and their state restored.")
DRAINING = _gauge("difffake_draining", "1 from SIGTERM on.")
LOOP = _gauge("difffake_loop_timestamp_seconds", "When the worker's loop last turned over; seconds since the epoch.")
HTTP_REQUESTS = _counter(
    "difffake_http_requests_total",
    "Requests to the worker's HTTP door.",
    path="`/metrics`, `/startupz`, `/livez`, `/readyz` or `other`",
    code="status of the answer",
)

# ----------------------------------------------------------------------------------------------------------------------
_begin("The process (names that all Prometheus clients share)")
_gauge("process_resident_memory_bytes", "Resident memory.")
_gauge("process_virtual_memory_bytes", "Virtual memory.")
_gauge("process_start_time_seconds", "When the process began; seconds since the epoch.")
_counter("process_cpu_seconds_total", "Processor time, user and system.")
_gauge("process_open_fds", "Open file descriptors.")
_gauge("process_max_fds", "The most that there may be.")
