"""The catalogue, the container that fills it, and the page that is made of it."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from records_made_up import evidence, face, score
from test_tail import alert

from difffake import hardware
from difffake.anchors import AnchorState, Origin
from difffake.hardware import HardwareCounts
from difffake.networks import EngineUse
from stream.batcher import BatchSettings
from stream.broker.contract import Record, TopicPartition
from stream.broker.errors import StaleGroupError
from stream.decode import CorruptInputError, Gear, LossReason
from stream.messages import AlertState, FaceAnchor, Status
from stream.metrics.catalogue import CATALOGUE, Type
from stream.metrics.coverage import Coverage
from stream.metrics.instruments import OUTCOMES, Backlog, Metrics, Snapshot
from stream.metrics.processes import HOOKS, WALL
from stream.metrics.settings import MetricsSettings
from stream.metrics.store import MAX_SERIES, Store
from stream.stages import Stage

ROOT = Path(__file__).parents[2]
SOURCE = TopicPartition("video.in", 0)
KEY = SOURCE, "a"


@pytest.fixture(autouse=True)
def _counts_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "COUNTS", HardwareCounts())


def record(value: bytes = b"12345", timestamp_ms: int = -1) -> Record:
    return Record("video.in", 0, 7, b"a", value, (), timestamp_ms)


#: Sample name -> its labels, in the order of the catalogue.
LABELS = {name: (*metric.labels, "le") for metric in CATALOGUE.values() for name in metric.series}


def told(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name -> label values, in the order of the catalogue -> value, as a scrape has them."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse_text(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in LABELS[sample.name] if name in sample.labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def everything(metrics: Metrics) -> None:
    """One of all that can happen to a worker without a GPU."""
    anchor = FaceAnchor(origin=Origin.SELF, state=AnchorState.READY, frames=8, since_ns=0, age_s=4.0, frozen=False)
    shown = face(artifact=evidence(0.01), anchor=evidence(0.5, accumulated=0.2))
    seen = score("a", 1, type(shown)(**{n: getattr(shown, n) for n in shown.__struct_fields__} | {"anchor": anchor}))
    metrics.identify(group="g", worker="w", model_id="m", budget_per_stream_hour=0.01 / 24)
    metrics.engines([EngineUse("extractor", "onnx", "auto", "tensorrt-fp16: made for another card")])
    metrics.frames(KEY, [score("a", 0), seen, score("a", 2, status=Status.SHED)], Coverage(), Gear.ANALYSE,
                   is_alert_open=True)  # fmt: skip
    metrics.alert(SOURCE, alert(1))
    for outcome in OUTCOMES:
        metrics.record(record(timestamp_ms=round((time.time() - 1) * 1e3)), outcome, 25)
    metrics.lost(LossReason.DAMAGED)
    metrics.warning("clock: it fell back")
    metrics.dead_letter(CorruptInputError("damaged", hint="none"), "decode")
    metrics.buried(KEY, is_alert_open=True)
    metrics.shed(is_urgent=True)
    for stage in Stage:
        metrics.stage(stage, 0.01, 2)
    metrics.batch(8, [0.001, 0.02])
    metrics.batches(BatchSettings())
    metrics.rebalanced("assigned", [SOURCE])
    metrics.restored(0.2, 3)
    metrics.state_lost(1)
    metrics.commands(2, 1)
    metrics.failed(StaleGroupError("late", hint="none"))
    metrics.http("/metrics", 200)
    metrics.snapshot = Snapshot({SOURCE: Backlog(5, time.time() - 3)}, 1, 2, 3, 4, 5)
    metrics.ends = {SOURCE: 9}
    hardware.COUNTS.count("no GPU that decodes: a test")
    metrics.committed(0.02)


class TestCatalogue:
    def test_names_follow_the_rules_of_prometheus(self) -> None:
        for metric in CATALOGUE.values():
            assert re.fullmatch(r"(difffake|process)_[a-z_]+", metric.name)
            assert (metric.type is Type.COUNTER) == metric.name.endswith("_total"), metric.name
            assert (metric.type is Type.INFO) == metric.name.endswith("_info"), metric.name
            assert not re.search(r"_(ms|minutes|kb|mib|percent)(_|$)", metric.name)
            assert all(re.fullmatch(r"[a-z_]+", label) and label != "le" for label in metric.labels)
            assert bool(metric.buckets) == (metric.type is Type.HISTOGRAM)
            assert list(metric.buckets) == sorted(set(metric.buckets))
            assert metric.help.endswith(".")
            assert metric.section

    def test_what_is_declared_is_told_and_nothing_else(self) -> None:
        metrics = Metrics()
        everything(metrics)
        names = {name for metric in CATALOGUE.values() for name in metric.series}
        gpu = {name for name in names if "_gpu_" in name}
        assert set(told(metrics)) == names - gpu
        for family in metrics.registry.collect():
            for sample in family.samples:
                name = next(n for n, metric in CATALOGUE.items() if sample.name in metric.series)
                assert set(sample.labels) <= CATALOGUE[name].query_labels
                if name.startswith("difffake_"):
                    assert family.documentation == CATALOGUE[name].help
                    assert family.type == CATALOGUE[name].type.value

    def test_both_formats_say_the_same(self) -> None:
        metrics = Metrics()
        everything(metrics)
        open_metrics = generate_openmetrics(metrics.registry).decode()  # type: ignore[no-untyped-call]
        assert open_metrics.endswith("# EOF\n")
        assert {s.name for family in parse_openmetrics(open_metrics) for s in family.samples} == set(told(metrics))

    def test_the_page_is_of_today(self, tmp_path: Path) -> None:
        script = [sys.executable, ROOT / "scripts" / "metrics_page.py", tmp_path / "metrics.md"]
        subprocess.run(script, check=True, env={"PYTHONPATH": str(ROOT)})
        page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
        assert (tmp_path / "metrics.md").read_text(encoding="utf-8") == page, (
            "run `make docs` and commit docs/metrics.md"
        )
        queried = set(re.findall(r"\bdifffake_[a-z_]+", page))
        declared = CATALOGUE | HOOKS | WALL
        assert len(declared) == len(CATALOGUE) + len(HOOKS) + len(WALL)
        known = set(declared) | {name for metric in CATALOGUE.values() for name in metric.series}
        assert queried <= known


class TestCommits:
    def test_nothing_has_happened_before_it_is_committed(self) -> None:
        metrics = Metrics()
        before = told(metrics)
        metrics.frames(KEY, [score("a", 0), score("a", 1)], Coverage(), Gear.WATCH, is_alert_open=False)
        metrics.record(record(), "analysed", 25)
        metrics.alert(SOURCE, alert(1))
        metrics.dead_letter(CorruptInputError("damaged", hint="none"), "decode")
        unchanged = ("difffake_frames_total", "difffake_records_total", "difffake_alerts_total", "difffake_streams",
                     "difffake_dead_letters_total", "difffake_observed_seconds_total")  # fmt: skip
        assert {name: told(metrics)[name] for name in unchanged} == {name: before[name] for name in unchanged}
        metrics.committed(0.01)
        found = told(metrics)
        assert found["difffake_frames_total"]["SCORED",] == 2
        assert found["difffake_records_total"]["analysed",] == 1
        assert found["difffake_record_bytes_total"][()] == 5
        assert found["difffake_pictures_total"][()] == 25
        assert found["difffake_observed_seconds_total"][()] == found["difffake_covered_seconds_total"][()] == 1.0
        assert found["difffake_stream_gear"]["a",] == 1
        assert sum(found["difffake_alerts_total"].values()) == 1

    def test_what_is_thrown_away_never_happened(self) -> None:
        metrics = Metrics()
        metrics.frames(KEY, [score("a", 0)], Coverage(), Gear.WATCH, is_alert_open=False)
        metrics.alert(SOURCE, alert(1))
        metrics.rewound()
        metrics.committed(0.01)
        found = told(metrics)
        assert not sum(found["difffake_frames_total"].values())
        assert not sum(found["difffake_alerts_total"].values())
        assert "difffake_stream_gear" not in found
        assert found["difffake_rewinds_total"][()] == 1

    def test_latency_is_from_the_records_timestamp_to_the_commit(self) -> None:
        metrics = Metrics()
        for timestamp_ms in (-1, round((time.time() - 20) * 1e3), round((time.time() + 1e6) * 1e3)):
            metrics.record(record(timestamp_ms=timestamp_ms), "analysed")
        metrics.committed(0.01)
        found = told(metrics)
        assert found["difffake_end_to_end_seconds_count"][()] == 2, "a record without a timestamp has no latency"
        assert found["difffake_end_to_end_seconds_bucket"]["0.1",] == 1, "a producer's clock ahead of ours: no time"
        assert found["difffake_end_to_end_seconds_bucket"]["10.0",] == 1
        assert found["difffake_end_to_end_seconds_bucket"]["30.0",] == 2

    def test_a_stream_goes_with_its_partition_and_its_counts_stay_in_the_sum(self) -> None:
        metrics = Metrics()
        metrics.frames(KEY, [score("a", 0), score("a", 1)], Coverage(), Gear.ANALYSE, is_alert_open=False)
        metrics.committed(0.01)
        assert told(metrics)["difffake_stream_seconds_total"] == {("a",): 1.0}
        metrics.rebalanced("revoked", [SOURCE])
        found = told(metrics)
        assert "difffake_stream_seconds_total" not in found
        assert found["difffake_observed_seconds_total"][()] == 1.0
        assert found["difffake_rebalances_total"]["revoked",] == 1

    def test_frames_that_are_told_out_of_order_are_counted_in_order(self) -> None:
        metrics = Metrics()
        frames = [score("a", 0), score("a", 2), score("a", 1, status=Status.SHED)]
        metrics.frames(KEY, frames, Coverage(), Gear.ANALYSE, is_alert_open=False)
        metrics.committed(0.01)
        found = told(metrics)
        assert found["difffake_stream_covered_seconds_total"]["a",] == 1.0
        assert found["difffake_stream_uncovered_seconds_total"] == {("a", "shed"): 1.0}


class TestEvidence:
    def test_the_realised_rate_of_p_values_can_be_read_off(self) -> None:
        metrics = Metrics()
        values = [0.0009, 0.001, 0.01, 0.05, 0.0500001, 1.0]
        metrics.frames(KEY, [score("a", i, face(artifact=evidence(p))) for i, p in enumerate(values)], Coverage(),
                       Gear.ANALYSE, is_alert_open=False)  # fmt: skip
        metrics.committed(0.01)
        found = told(metrics)
        buckets = {le: n for (_, le), n in found["difffake_evidence_p_value_bucket"].items()}
        assert (buckets["0.001"], buckets["0.01"], buckets["0.05"], buckets["1.0"], buckets["+Inf"]) == (2, 3, 4, 6, 6)
        assert found["difffake_evidence_p_value_count"]["artifact",] == 6
        assert found["difffake_stream_evidence_p_value"]["a", "artifact"] == 1.0, "of the last frame"

    def test_the_worst_face_stands_for_its_frame(self) -> None:
        metrics = Metrics()
        faces = [face(artifact=evidence(0.3, accumulated=0.2)), face(1, artifact=evidence(0.001, accumulated=0.4))]
        metrics.frames(KEY, [score("a", 0, *faces)], Coverage(), Gear.ANALYSE, is_alert_open=False)
        metrics.committed(0.01)
        assert told(metrics)["difffake_stream_evidence_p_value"]["a", "artifact"] == 0.2

    def test_only_alerts_that_open_count_as_alerts_of_a_stream(self) -> None:
        metrics = Metrics()
        metrics.frames(KEY, [score("a", 0)], Coverage(), Gear.ANALYSE, is_alert_open=False)
        for state in AlertState:
            metrics.alert(SOURCE, alert(1, state))
        metrics.committed(0.01)
        found = told(metrics)
        assert sum(found["difffake_alerts_total"].values()) == 3
        assert found["difffake_stream_alerts_opened_total"]["a", "artifact"] == 1


class TestBacklog:
    def test_lag_is_the_age_of_the_oldest_record_that_is_not_done(self) -> None:
        metrics = Metrics()
        other = TopicPartition("video.in", 1)
        metrics.snapshot = Snapshot({SOURCE: Backlog(5, time.time() - 60), other: Backlog(9)})
        metrics.ends = {SOURCE: 25}
        found = told(metrics)
        assert found["difffake_lag_seconds"]["video.in", "0"] == pytest.approx(60, abs=5)
        assert found["difffake_lag_seconds"]["video.in", "1"] == 0
        assert found["difffake_lag_records"] == {("video.in", "0"): 20}, "an end that is not known is not made up"
        metrics.snapshot = Snapshot({other: Backlog(9)})
        assert set(told(metrics)["difffake_lag_seconds"]) == {("video.in", "1")}, "a partition that is gone has no lag"


class TestBounds:
    def test_a_label_from_outside_makes_no_more_series_than_there_may_be(self) -> None:
        store = Store()
        for number in range(10 * MAX_SERIES):
            store.add(CATALOGUE["difffake_decode_warnings_total"], 1, "x" * 1000 + str(number))
            store.add(CATALOGUE["difffake_dead_letters_total"], 1, "decode", f"Error{number}")
            store.observe(CATALOGUE["difffake_stage_seconds"], 0.1, str(number))
        for family in store.families():
            if family.name in ("difffake_decode_warnings", "difffake_dead_letters"):
                assert len(family.samples) <= MAX_SERIES + 1
                assert sum(s.value for s in family.samples) == 10 * MAX_SERIES, "what is beyond is counted together"
                assert all(len(v) <= 200 for s in family.samples for v in s.labels.values())
            if family.name == "difffake_stage_seconds":
                counts = [s for s in family.samples if s.name.endswith("_count")]
                assert len(counts) <= MAX_SERIES + 1
                assert sum(s.value for s in counts) == 10 * MAX_SERIES

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), unique=True, max_size=5)
    )
    def test_any_stream_id_survives_both_formats(self, streams: list[str]) -> None:
        metrics = Metrics()
        for stream in streams:
            metrics.frames((SOURCE, stream), [score(stream, 0)], Coverage(), Gear.ANALYSE, is_alert_open=False)
        metrics.committed(0.01)
        open_metrics = generate_openmetrics(metrics.registry).decode()  # type: ignore[no-untyped-call]
        for families in (parse_text(generate_latest(metrics.registry).decode()), parse_openmetrics(open_metrics)):
            found = [s.labels["stream"] for f in families for s in f.samples if s.name == "difffake_stream_gear"]
            assert sorted(found) == sorted(set(streams) - {"_other"})

    def test_wrong_settings_are_named(self) -> None:
        for wrong in ({"max_stream_series": -1}, {"series_idle_s": 0.0}, {"series_idle_s": float("nan")}):
            with pytest.raises(ValueError, match="max_stream_series"):
                MetricsSettings(**wrong)  # type: ignore[arg-type]

    def test_scrapes_while_everything_changes(self) -> None:
        metrics, errors, over = Metrics(MetricsSettings(max_stream_series=50)), [], threading.Event()

        def scrape() -> None:
            while not over.is_set():
                try:
                    generate_latest(metrics.registry)
                except Exception as error:
                    errors.append(error)

        def time_stages() -> None:
            for number in itertools.count():
                if over.is_set():
                    return
                metrics.stage(Stage.DECODE, 0.01, number % 2)
                metrics.batch(8, [0.001])

        threads = [threading.Thread(target=target) for target in (scrape, time_stages)]
        for thread in threads:
            thread.start()
        for number in range(300):
            stream = f"s{number % 70}"
            metrics.frames((SOURCE, stream), [score(stream, number)], Coverage(), Gear.ANALYSE, is_alert_open=False)
            metrics.warning(f"w{number}: x")
            metrics.committed(0.01)
            if number % 50 == 0:
                metrics.rebalanced("lost", [SOURCE])
        over.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert told(metrics)["difffake_frames_total"]["SCORED",] == 300
