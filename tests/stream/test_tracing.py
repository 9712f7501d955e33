"""Traces: from the input's header to those of what comes of it; nothing where nobody asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_worker import ALERTS, LIVE, SETTINGS, World
from tiny import write_tiny_bundle

from stream.broker.contract import Headers
from stream.decode import DecodeSettings
from stream.live import LiveModels
from stream.publish import Form
from stream.worker import Worker

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")

from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from stream.opentelemetry_traces import OpenTelemetryTraces  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveModels]:
    path = write_tiny_bundle(tmp_path_factory.mktemp("tracing") / "tiny", identity=True).path
    with LiveModels.load(path, LIVE) as loaded:
        yield loaded


@pytest.fixture
def world(models: LiveModels, clips: dict[str, Path]) -> World:
    return World(models, clips)


def traced(world: World, exporter: InMemorySpanExporter) -> Worker:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Worker(
        world.broker,
        world.models,
        SETTINGS,
        name="traced",
        decode=DecodeSettings(fps=5.0),
        live=LIVE,
        alerts=ALERTS,
        tracing=OpenTelemetryTraces(provider),
    )


def republish(world: World, headers: Headers) -> None:
    """The records of a clip once more, with headers of a trace."""
    for record in world.records("video.in"):
        world.send(b"traced", record.value, *record.headers, *headers)


def headers_of(world: World, topic: str) -> list[dict[str, bytes]]:
    return [dict(record.headers) for record in world.records(topic) if record.key == b"traced"]


def test_what_comes_of_a_record_carries_its_trace_on(world: World) -> None:
    world.publish(Form.FRAMES, streams=("a",))
    republish(world, [("traceparent", f"00-{TRACE}-{PARENT}-01".encode())])
    exporter = InMemorySpanExporter()
    world.drain(traced(world, exporter))
    spans = exporter.get_finished_spans()
    records = [s for s in spans if s.name == "difffake.record" and s.attributes["difffake.stream"] == "traced"]
    assert records
    assert {format(s.context.trace_id, "032x") for s in records} == {TRACE}
    assert {format(s.parent.span_id, "016x") for s in records} == {PARENT}
    assert {s.attributes["difffake.outcome"] for s in records} == {"done"}
    ours = {format(s.context.span_id, "016x") for s in records}
    for topic in ("difffake.scores", "difffake.alerts"):
        parents = [h["traceparent"].decode().split("-") for h in headers_of(world, topic)]
        assert parents
        assert all(trace == TRACE and span in ours for _, trace, span, _ in parents)
    below = [s for s in spans if s.parent is not None and format(s.parent.span_id, "016x") in ours]
    assert {s.name for s in below} == {"difffake.decode", "difffake.score"}
    linked = {link.context.span_id for s in spans if s.name == "difffake.commit" for link in s.links}
    assert {s.context.span_id for s in records} <= linked


@pytest.mark.parametrize("value", [b"", b"\xff" * 40, b"00-zz", b"x" * 100_000])
def test_a_header_that_is_no_trace_begins_a_new_one(world: World, value: bytes) -> None:
    world.publish(Form.FRAMES, streams=("a",))
    republish(world, [("traceparent", value), ("tracestate", value)])
    exporter = InMemorySpanExporter()
    world.drain(traced(world, exporter))
    found = [s for s in exporter.get_finished_spans() if s.name == "difffake.record"]
    assert found
    assert all(s.parent is None for s in found)


def test_a_record_that_becomes_a_dead_letter_says_so(world: World) -> None:
    world.publish(Form.FRAMES, streams=("a",))
    world.send(b"a", b"no picture")
    exporter = InMemorySpanExporter()
    world.drain(traced(world, exporter))
    (buried,) = [
        s for s in exporter.get_finished_spans() if (s.attributes or {}).get("difffake.outcome") == "dead_letter"
    ]
    assert not buried.status.is_ok


def test_without_tracing_nothing_is_added(world: World) -> None:
    world.publish(Form.FRAMES, streams=("a",))
    world.drain(world.worker())
    assert all(record.headers == () for record in world.records("difffake.scores"))
