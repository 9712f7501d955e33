"""For engineers: what do workers do, and what holds them up?"""

from __future__ import annotations

from panels import GREEN, RATE, RED, YELLOW, Json, Panel, coloured, dashboard, lines, named, query_variable, stat, table

_J = 'job=~"$job"'
_W = f'{_J}, instance=~"$instance"'


def _rate(name: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({name}{{{_W}{more}}}{RATE}))"


def _over(name: str, other: str, by: str) -> str:
    return f"{_rate(name, by)} / ({_rate(other, by)} > 0)"


def _quantile(share: float, name: str, by: str = "", more: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({name}_bucket{{{_W}{more}}}{RATE})))"


def _of_workers(name: str) -> str:
    """What every process exposes, of workers alone."""
    return f"max by (instance) ({name}{{{_W}}} and on (job, instance) difffake_worker_info)"


def engineers() -> Json:
    """Stages, backlog, batches, memory, commits, rebalances: what the workers do, and what holds them up."""
    good_is_zero: tuple[tuple[float | None, str], ...] = ((None, GREEN), (1, RED))
    at_a_glance = [
        stat("Workers ready", "Of those that answer.", f"sum(difffake_ready{{{_W}}})"),
        stat("Partitions", "That have a worker.", f"sum(difffake_partitions_assigned{{{_W}}})"),
        stat(
            "Frames scored in a second",
            "Of the last minutes.",
            f'sum(rate(difffake_frames_total{{{_W}, status="SCORED"}}[5m]))',
            "ops",
        ),
        stat(
            "End to end, p95",
            "From the timestamp of a record to the commit of its scores.",
            'max(job:difffake_end_to_end_seconds:p95_5m{job=~"$job"})',
            "s",
            (None, GREEN),
            (5, YELLOW),
            (30, RED),
        ),
        stat(
            "Failed commits in an hour",
            "Nothing is lost by one: all is done again.",
            f"sum(increase(difffake_commit_failures_total{{{_W}}}[1h])) or vector(0)",
            "short",
            (None, GREEN),
            (1, YELLOW),
            (10, RED),
        ),
        stat(
            "Fallbacks",
            "Networks on a slower engine than was meant, and decoders in software that were meant for the GPU.",
            f"sum(difffake_engine_fallback{{{_W}}})"
            f" + (sum(increase(difffake_decode_fallback_total{{{_W}}}[1h])) or vector(0))",
            "short",
            *good_is_zero,
        ),
    ]
    workers = [
        table(
            "Workers",
            "One row each.",
            "instance",
            {
                "ready": (f"max by (instance) (difffake_ready{{{_W}}})", "short"),
                "Kafka": (f"max by (instance) (difffake_kafka_connected{{{_W}}})", "short"),
                "draining": (f"max by (instance) (difffake_draining{{{_W}}})", "short"),
                "partitions": (f"max by (instance) (difffake_partitions_assigned{{{_W}}})", "short"),
                "streams": (f"max by (instance) (difffake_streams{{{_W}}})", "short"),
                "without own series": (f"max by (instance) (difffake_streams_folded{{{_W}}})", "short"),
                "behind": (f"max by (instance) (difffake_lag_seconds{{{_W}}})", "s"),
                "loop": (f"time() - max by (instance) (difffake_loop_timestamp_seconds{{{_W}}})", "s"),
                "last commit": (f"time() - max by (instance) (difffake_last_commit_timestamp_seconds{{{_W}}})", "s"),
                "memory": (_of_workers("process_resident_memory_bytes"), "bytes"),
                "up for": (f"time() - {_of_workers('process_start_time_seconds')}", "s"),
            },
            ready=coloured((None, RED), (1, GREEN), names={"0": "no", "1": "ready"}),
            Kafka=coloured((None, RED), (1, "transparent"), names={"0": "no answer", "1": ""}),
            draining=named({"0": "", "1": "draining"}),
            behind=coloured((None, "transparent"), (10, YELLOW), (60, RED)),
            loop=coloured((None, "transparent"), (60, RED)),
        ),
        Panel(
            "table",
            "Models and engines",
            "What runs each network; a reason says why a better engine does not.",
            {
                "engines": f"max by (instance, network, engine, asked, reason) (difffake_engine_info{{{_W}}})",
            },
            width=14,
            options={"showHeader": True, "cellHeight": "sm"},
            transformations=({"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}},),
        ),
        Panel(
            "table",
            "Versions and groups",
            "",
            {
                "build": f"max by (instance, version, model_id) (difffake_build_info{{{_W}}})",
                "worker": f"max by (instance, group, worker) (difffake_worker_info{{{_W}}})",
            },
            width=10,
            options={"showHeader": True, "cellHeight": "sm"},
            transformations=(
                {"id": "joinByField", "options": {"byField": "instance", "mode": "outer"}},
                {
                    "id": "organize",
                    "options": {
                        "excludeByName": {f"{name} {place}": True for name in ("Time", "Value") for place in (1, 2)}
                        | {"Time": True, "Value #A": True, "Value #B": True}
                    },
                },
            ),
        ),
    ]
    flow = [
        lines(
            "Frames by what became of them",
            "In a second.",
            {"{{status}}": _rate("difffake_frames_total", "status")},
            "ops",
            stack=True,
        ),
        lines(
            "Records by how they ended",
            "In a second.",
            {"{{outcome}}": _rate("difffake_records_total", "outcome")},
            "ops",
            stack=True,
        ),
        lines(
            "Input",
            "Bytes of records that are done.",
            {"{{instance}}": _rate("difffake_record_bytes_total", "instance")},
            "Bps",
        ),
        lines(
            "Dead letters",
            "In a second, by where and why.",
            {"{{stage}}: {{error}}": _rate("difffake_dead_letters_total", "stage, error")},
            "ops",
            stack=True,
        ),
        lines(
            "Frames lost, records shed",
            "In a second, by reason.",
            {
                "lost: {{reason}}": _rate("difffake_lost_frames_total", "reason"),
                "input gone unread": f"sum(rate(difffake_input_gone_records_total{{{_W}}}{RATE}))",
                "shed: {{reason}}": _rate("difffake_shed_records_total", "reason"),
            },
            "ops",
            stack=True,
        ),
        lines(
            "What decoders found odd",
            "In a second.",
            {"{{code}}": _rate("difffake_decode_warnings_total", "code")},
            "ops",
        ),
        lines(
            "Pictures in records, and those that were due",
            "In a second: decoding in gears leaves most of them out.",
            {
                "in records": f"sum(rate(difffake_pictures_total{{{_W}}}{RATE}))",
                "due": f"sum(rate(difffake_frames_total{{{_W}}}{RATE}))",
            },
            "ops",
        ),
        lines(
            "Faces by fitness",
            "In a second.",
            {"{{quality}}": _rate("difffake_faces_total", "quality")},
            "ops",
            stack=True,
        ),
        lines(
            "p-values up to x",
            "Realised share; under real footage it is x.",
            {
                f"{{{{evidence}}}}, {x}": "sum by (evidence) "
                f'(rate(difffake_evidence_p_value_bucket{{{_W}, le="{x}"}}[1h]))'
                f" / (sum by (evidence) (rate(difffake_evidence_p_value_count{{{_W}}}[1h])) > 0)"
                for x in ("0.05", "0.01", "0.001")
            },
            "percentunit",
        ),
    ]
    time = [
        Panel(
            "heatmap",
            "From a record's timestamp to the commit of its scores",
            "Records by delay.",
            {"{{le}}": f"sum by (le) (increase(difffake_end_to_end_seconds_bucket{{{_W}}}{RATE}))"},
            "short",
            12,
            8,
            options={
                "calculate": False,
                "yAxis": {"unit": "s"},
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "cellGap": 1,
                "legend": {"show": True},
                "tooltip": {"mode": "single"},
            },
        ),
        lines(
            "The same as quantiles",
            "",
            {f"p{int(share * 100)}": _quantile(share, "difffake_end_to_end_seconds") for share in (0.5, 0.95, 0.99)},
            "s",
            width=12,
        ),
        lines(
            "A run of each stage, p95",
            "decode: the next due frame; find to identity: a batch; score: a record; commit: a transaction.",
            {"{{stage}}": _quantile(0.95, "difffake_stage_seconds", "stage")},
            "s",
        ),
        lines(
            "Where time goes",
            "Threads busy with each stage.",
            {"{{stage}}": _rate("difffake_stage_seconds_sum", "stage")},
            stack=True,
        ),
        lines(
            "Cost of one frame, face or record",
            "Wall time of a stage over what went through it.",
            {"{{stage}}": _over("difffake_stage_seconds_sum", "difffake_stage_items_total", "stage")},
            "s",
        ),
        lines(
            "How full batches are",
            "Frames over room.",
            {"{{instance}}": _over("difffake_batch_frames_total", "difffake_batch_room_frames_total", "instance")},
            "percentunit",
        ),
        lines(
            "Size of batches",
            "Frames in one, and the most that are allowed (`difffake work --batch`, `difffake batch`).",
            {
                "{{instance}}": _over("difffake_batch_frames_total", "difffake_batches_total", "instance"),
                "{{instance}}, allowed": f"max by (instance) (difffake_batch_limit_frames{{{_W}}})",
            },
            "short",
        ),
        lines(
            "Waiting for company in a batch",
            "",
            {
                **{f"p{int(share * 100)}": _quantile(share, "difffake_batch_wait_seconds") for share in (0.5, 0.95)},
                "{{instance}}, deadline": f"max by (instance) (difffake_batch_deadline_seconds{{{_W}}})",
            },
            "s",
        ),
        lines("Batches", "In a second.", {"{{instance}}": _rate("difffake_batches_total", "instance")}, "ops"),
    ]
    backlog = [
        lines(
            "Behind, by partition",
            "The ten furthest behind.",
            {
                "{{topic}} {{partition}}": f"topk(10, max by (topic, partition) (difffake_lag_seconds{{{_W}}}))",
                "all": 'job:difffake_lag_seconds:max{job=~"$job"}',
            },
            "s",
        ),
        lines(
            "Records not done, by partition",
            "Those not yet read included.",
            {"{{topic}} {{partition}}": f"topk(10, max by (topic, partition) (difffake_lag_records{{{_W}}}))"},
        ),
        lines(
            "In memory",
            "Records that wait, and records in decoders and networks.",
            {
                "waiting": f"sum(difffake_waiting_records{{{_W}}})",
                "in progress": f"sum(difffake_in_progress_records{{{_W}}})",
                "partitions paused": f"sum(difffake_partitions_paused{{{_W}}})",
            },
        ),
        lines("Bytes that wait", "", {"{{instance}}": f"sum by (instance) (difffake_waiting_bytes{{{_W}}})"}, "bytes"),
    ]
    exactly_once = [
        lines("Commits", "In a second.", {"{{instance}}": _rate("difffake_commits_total", "instance")}, "ops"),
        lines(
            "A commit",
            "Time of one transaction.",
            {
                f"p{int(share * 100)}": _quantile(share, "difffake_stage_seconds", more=', stage="commit"')
                for share in (0.5, 0.95)
            },
            "s",
        ),
        lines(
            "Commits that failed, state read back",
            "In the hour before each moment.",
            {
                "{{error}}": f"sum by (error) (increase(difffake_commit_failures_total{{{_W}}}[1h]))",
                "rewinds": f"sum(increase(difffake_rewinds_total{{{_W}}}[1h]))",
                "states lost": f"sum(increase(difffake_state_lost_total{{{_W}}}[1h]))",
                "inputs made again": f"sum(increase(difffake_input_remade_total{{{_W}}}[1h]))",
            },
        ),
        lines(
            "Rebalances",
            "In the quarter of an hour before each moment.",
            {"{{event}}": f"sum by (event) (increase(difffake_rebalances_total{{{_W}}}[15m]))"},
        ),
        lines(
            "Partitions by worker",
            "",
            {"{{instance}}": f"max by (instance) (difffake_partitions_assigned{{{_W}}})"},
            stack=True,
        ),
        lines(
            "Reading the state of a partition",
            "p95, and streams read back in a second.",
            {
                "p95, s": f"histogram_quantile(0.95, sum by (le) (rate(difffake_restore_seconds_bucket{{{_W}}}[1h])))",
                "streams": f"sum(rate(difffake_restored_streams_total{{{_W}}}{RATE}))",
            },
            "none",
        ),
        lines(
            "Commands and enrolments",
            "Applied in a quarter of an hour; of these with a warning; records of the topic that mean nothing.",
            {
                "applied": f"sum(increase(difffake_commands_total{{{_W}}}[15m]))",
                "with a warning": f"sum(increase(difffake_command_warnings_total{{{_W}}}[15m]))",
                "refused": f"max(difffake_commands_refused{{{_W}}})",
            },
        ),
    ]
    host = [
        lines(
            "Memory",
            "Resident; of hooks and walls, too.",
            {"{{instance}}": f"max by (instance) (process_resident_memory_bytes{{{_W}}})"},
            "bytes",
        ),
        lines("Processors", "Cores in use.", {"{{instance}}": _rate("process_cpu_seconds_total", "instance")}),
        lines(
            "Open files",
            "",
            {"{{instance}}": f"max by (instance) (process_open_fds{{{_W}}})", "limit": f"min(process_max_fds{{{_W}}})"},
        ),
        lines(
            "GPU memory",
            "By whomever; empty on hosts without a GPU.",
            {
                "{{instance}} {{device}}": f"max by (instance, device) (difffake_gpu_memory_used_bytes{{{_W}}})",
                "{{instance}} {{device}} in all": f"max by (instance, device) (difffake_gpu_memory_bytes{{{_W}}})",
            },
            "bytes",
        ),
        lines(
            "Decoders",
            "Opened in a second: on the GPU, and in software instead. Empty where no GPU was asked for.",
            {
                "on the GPU": f"sum(rate(difffake_decode_hardware_total{{{_W}}}{RATE}))",
                "in software: {{reason}}": _rate("difffake_decode_fallback_total", "reason"),
            },
            "ops",
        ),
        lines(
            "Requests to the HTTP door",
            "In a second.",
            {"{{path}} {{code}}": _rate("difffake_http_requests_total", "path, code")},
            "reqps",
        ),
    ]
    # Hooks and walls are no workers: the choice of one says nothing of them.
    beside = [
        table(
            "Hooks",
            "One row each: what waits for its receiver, and when that last took something.",
            "instance",
            {
                "partitions": (f"max by (instance) (difffake_hooks_partitions_assigned{{{_J}}})", "short"),
                "waiting": (f"max by (instance) (difffake_hooks_waiting_alerts{{{_J}}})", "short"),
                "behind": (f"max by (instance) (difffake_hooks_lag_seconds{{{_J}}})", "s"),
                "last delivery": (
                    f"time() - (max by (instance) (difffake_hooks_last_delivery_timestamp_seconds{{{_J}}}) > 0)",
                    "s",
                ),
            },
            width=12,
            partitions=coloured((None, YELLOW), (1, "transparent")),
            behind=coloured((None, "transparent"), (60, YELLOW), (900, RED)),
        ),
        table(
            "Walls",
            "One row each.",
            "instance",
            {
                "Kafka": (f"max by (instance) (difffake_wall_connected{{{_J}}})", "short"),
                "behind": (f"max by (instance) (difffake_wall_lag_seconds{{{_J}}})", "s"),
                "pages": (f"max by (instance) (difffake_wall_pages{{{_J}}})", "short"),
                "streams": (f"max by (instance) (difffake_wall_streams{{{_J}}})", "short"),
                "open alerts": (f"max by (instance) (difffake_wall_open_alerts{{{_J}}})", "short"),
            },
            width=12,
            Kafka=coloured((None, RED), (1, GREEN), names={"0": "none", "1": "connected"}),
            behind=coloured((None, "transparent"), (10, YELLOW), (60, RED)),
        ),
        lines(
            "What became of alerts",
            "In an hour, by hooks. Refused, given up, expired and unreadable: nobody is told of them there.",
            {
                "{{instance}}: {{outcome}}": "sum by (instance, outcome) "
                f"(increase(difffake_hooks_alerts_total{{{_J}}}[1h]))"
            },
            stack=True,
        ),
        lines(
            "Attempts and retries",
            "Requests to receivers in an hour, and those of them that failed and are made again.",
            {
                "{{instance}}: attempts": f"sum by (instance) (increase(difffake_hooks_attempts_total{{{_J}}}[1h]))",
                "{{instance}}: again": f"sum by (instance) (increase(difffake_hooks_retries_total{{{_J}}}[1h]))",
            },
        ),
        lines(
            "Walls: read and left out",
            "Records in a second.",
            {
                "{{kind}}": f"sum by (kind) (rate(difffake_wall_records_total{{{_J}}}{RATE}))",
                "left out": f"sum(rate(difffake_wall_skipped_records_total{{{_J}}}{RATE}))",
                "unreadable": f"sum(rate(difffake_wall_unreadable_records_total{{{_J}}}{RATE}))",
            },
            "ops",
        ),
        lines(
            "Walls: operators and pages",
            "In a quarter of an hour: what operators did, requests that were refused, pages that took nothing.",
            {
                "{{outcome}}": f"sum by (outcome) (increase(difffake_wall_actions_total{{{_J}}}[15m]))",
                "refused: {{reason}}": f"sum by (reason) (increase(difffake_wall_logins_refused_total{{{_J}}}[15m]))",
                "pages let go": f"sum(increase(difffake_wall_pages_dropped_total{{{_J}}}[15m]))",
            },
            width=12,
        ),
        lines(
            "Requests to the HTTP door of hooks",
            "In a second.",
            {"{{path}} {{code}}": f"sum by (path, code) (rate(difffake_hooks_http_requests_total{{{_J}}}{RATE}))"},
            "reqps",
            width=12,
        ),
    ]
    variables = [
        query_variable("job", "Deployment", "label_values(difffake_worker_info, job)"),
        query_variable("instance", "Worker", 'label_values(difffake_worker_info{job=~"$job"}, instance)'),
    ]
    rows = {
        "At a glance": at_a_glance,
        "Workers": workers,
        "What comes in, what becomes of it": flow,
        "Where time goes": time,
        "Backlog": backlog,
        "Exactly once": exactly_once,
        "Beside workers: hooks and walls": beside,
        "Hosts": host,
    }
    return dashboard(
        "difffake-engineers", "DiffFake: workers", str(engineers.__doc__), variables, rows, link="operators"
    )
