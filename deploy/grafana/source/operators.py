"""For operators: is every stream looked at, which alerts are there, and how many beside how many were allowed?"""

from __future__ import annotations

from panels import GREEN, RATE, RED, YELLOW, Json, Panel, coloured, dashboard, lines, named, query_variable, stat, table

_OF = 'job=~"$job", stream=~"$stream"'
_STREAM = f'{_OF}, stream!="_other"'
_SHARE_STEPS: tuple[tuple[float | None, str], ...] = ((None, RED), (0.5, YELLOW), (0.9, GREEN))
_GEARS = {"0": "shed", "1": "watch", "2": "analyse", "3": "scrutinise"}


def operators() -> Json:
    """Are all streams looked at? Which alerts? How many alerts beside how many were allowed?"""
    at_a_glance = [
        stat(
            "Streams",
            "Streams that sent something in the last quarter of an hour.",
            'sum(difffake_streams{job=~"$job"})',
        ),
        stat(
            "Looked at",
            "Share of the last five minutes of stream time that was scored with a usable face, or has no face in it.",
            'min(job:difffake_coverage:ratio_rate5m{job=~"$job"})',
            "percentunit",
            *_SHARE_STEPS,
        ),
        stat(
            "Streams not looked at",
            "Streams of which less than half of the last minute could be scored: unknown, not clean.",
            f"count(max by (job, stream) (difffake_stream_coverage_ratio{{{_STREAM}}}) < 0.5) or vector(0)",
            "short",
            (None, GREEN),
            (1, RED),
        ),
        stat(
            "Streams with an open alert",
            "Streams on which DiffFake has evidence against a face now.",
            f"sum(max by (job, stream) (difffake_stream_alert_open{{{_STREAM}}})) or vector(0)",
            "short",
            (None, GREEN),
            (1, RED),
        ),
        stat(
            "Behind",
            "Age of the oldest record that was read and is not done.",
            'max(job:difffake_lag_seconds:max{job=~"$job"})',
            "s",
            (None, GREEN),
            (10, YELLOW),
            (60, RED),
        ),
        stat(
            "Faults of DiffFake itself",
            "Alerting rules that fire; docs/runbook.md says what to do about each.",
            'count(ALERTS{alertname=~"DiffFake.+", alertstate="firing", kind!="detection", job=~"$job"}) or vector(0)',
            "short",
            (None, GREEN),
            (1, YELLOW),
        ),
    ]
    streams = [
        table(
            "Every stream",
            "Clean is only what was looked at: read `looked at` before `alert`.",
            "stream",
            {
                "looked at": (f"max by (stream) (difffake_stream_coverage_ratio{{{_OF}}})", "percentunit"),
                "alert": (f"max by (stream) (difffake_stream_alert_open{{{_OF}}})", "short"),
                "last frame": (
                    f"time() - max by (stream) (difffake_stream_last_frame_timestamp_seconds{{{_OF}}})",
                    "s",
                ),
                "last looked at": (
                    f"time() - (max by (stream) (difffake_stream_last_covered_timestamp_seconds{{{_OF}}}) > 0)",
                    "s",
                ),
                "gear": (f"max by (stream) (difffake_stream_gear{{{_OF}}})", "short"),
                "p artifact": (
                    f'min by (stream) (difffake_stream_evidence_p_value{{{_OF}, evidence="artifact"}})',
                    "none",
                ),
                "p anchor": (f'min by (stream) (difffake_stream_evidence_p_value{{{_OF}, evidence="anchor"}})', "none"),
                "p identity": (
                    f'min by (stream) (difffake_stream_evidence_p_value{{{_OF}, evidence="identity"}})',
                    "none",
                ),
                "oldest anchor": (f"max by (stream) (difffake_stream_anchor_age_seconds{{{_OF}}})", "s"),
            },
            looked_at=coloured(*_SHARE_STEPS),
            alert=coloured((None, GREEN), (1, RED), names={"0": "none", "1": "OPEN"}),
            last_frame=coloured((None, "transparent"), (60, YELLOW)),
            gear=named(_GEARS),
        ),
        Panel(
            "state-timeline",
            "Looked at, over time",
            "Share of the last minute of each stream that was looked at; a gap: no worker told of it.",
            {"{{stream}}": f"max by (stream) (difffake_stream_coverage_ratio{{{_STREAM}}})"},
            "percentunit",
            12,
            10,
            _SHARE_STEPS,
            defaults={"color": {"mode": "thresholds"}, "custom": {"fillOpacity": 70, "lineWidth": 0}},
            options={"mergeValues": True, "showValue": "never", "rowHeight": 0.85, "legend": {"showLegend": False}},
        ),
        lines(
            "Why streams were not looked at",
            "Seconds of stream time in each second that nobody can call clean, by reason.",
            {"{{reason}}": f"sum by (reason) (rate(difffake_stream_uncovered_seconds_total{{{_OF}}}{RATE}))"},
            width=12,
            stack=True,
        ),
    ]
    alerts = [
        lines(
            "Alerts per stream-hour, beside the budget",
            "Opened, true ones included, over hours of stream that were looked at. The budget bounds the false ones.",
            {
                "last day": 'job:difffake_alerts_opened:per_stream_hour1d{job=~"$job"}',
                "last hour": 'job:difffake_alerts_opened:per_stream_hour1h{job=~"$job"}',
                "budget": 'job:difffake_alert_budget:per_stream_hour{job=~"$job"}',
            },
            "none",
            width=12,
        ),
        lines(
            "Alerts opened",
            "In the hour before each moment.",
            {
                "{{kind}}, {{evidence}}": "sum by (kind, evidence) "
                '(increase(difffake_alerts_total{job=~"$job", state="opened"}[1h]))'
            },
            width=12,
            stack=True,
        ),
        Panel(
            "bargauge",
            "Alerts opened by stream",
            "In the time that is shown; the ten most.",
            {
                "{{stream}}": "topk(10, sum by (stream) "
                f"(increase(difffake_stream_alerts_opened_total{{{_OF}}}[$__range])))"
            },
            "short",
            8,
            8,
            defaults={"min": 0, "decimals": 0},
            options={"orientation": "horizontal", "displayMode": "basic", "reduceOptions": {"calcs": ["lastNotNull"]}},
        ),
        lines(
            "Smallest p-value",
            "Of the faces of a stream, over the running window; under real footage small ones are as rare as they say.",
            {"{{stream}}, {{evidence}}": f"min by (stream, evidence) (difffake_stream_evidence_p_value{{{_STREAM}}})"},
            "none",
            scaleDistribution={"type": "log", "log": 10},
        ),
        lines(
            "Realised share of p-values up to .01",
            "Over a day: .01 where all footage is real and the calibration holds for it.",
            {"{{evidence}}": 'job_evidence:difffake_p_value_to_001:ratio1d{job=~"$job"}'},
            "percentunit",
        ),
    ]
    anchors = [
        lines(
            "Age of anchors",
            "In stream time; of what faces are held against.",
            {"{{stream}}, {{origin}}": f"max by (stream, origin) (difffake_stream_anchor_age_seconds{{{_STREAM}}})"},
            "s",
            width=12,
        ),
        lines(
            "Faces by the state of their anchor",
            "Faces in a second. COLLECTING: not held against anything yet.",
            {
                "{{state}}, {{origin}}": "sum by (state, origin) "
                f'(rate(difffake_face_anchors_total{{job=~"$job"}}{RATE}))'
            },
            width=12,
            stack=True,
        ),
    ]
    variables = [
        query_variable("job", "Deployment", "label_values(difffake_worker_info, job)"),
        query_variable("stream", "Stream", 'label_values(difffake_stream_coverage_ratio{job=~"$job"}, stream)'),
    ]
    rows = {"At a glance": at_a_glance, "Is every stream looked at?": streams, "Alerts": alerts, "Anchors": anchors}
    return dashboard(
        "difffake-operators", "DiffFake: streams", str(operators.__doc__), variables, rows, link="engineers"
    )
