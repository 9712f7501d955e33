"""`stream.tracing` by OpenTelemetry (extra ``otel``). Its own variables tell where spans go and how many are kept:
``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import difffake
from stream.broker.contract import Headers, Record
from stream.tracing import Trace

_CARRIED = ("traceparent", "tracestate")
#: W3C Trace Context asks for 512 characters of ``tracestate`` to be passed on.
_MAX_HEADER_BYTES = 512
_MAX_LINKS = 128
_CONTEXT = TraceContextTextMapPropagator()


class _OtelTrace:
    def __init__(self, span: Span, tracer: OpenTelemetryTraces) -> None:
        self.span, self._tracer = span, tracer
        self._begun_ns = time.time_ns()
        self._scoring_ns = self._begun_ns
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, set_span_in_context(span))
        self.headers: Headers = tuple((name, value.encode()) for name, value in carrier.items())

    def decoded(self, seconds: float) -> None:
        """A span that begins with the record and lasts as long as decoding took; the networks come in between."""
        self._below("difffake.decode", self._begun_ns, self._begun_ns + round(seconds * 1e9))

    def scoring(self) -> None:
        """See `Trace`."""
        self._scoring_ns = time.time_ns()

    def scored(self) -> None:
        """See `Trace`."""
        self._below("difffake.score", self._scoring_ns, time.time_ns())

    def _below(self, name: str, begin_ns: int, end_ns: int) -> None:
        context = set_span_in_context(self.span)
        self._tracer.tracer.start_span(name, context, start_time=begin_ns).end(end_ns)

    def end(self, outcome: str, frames: int, error: Exception | None = None) -> None:
        """See `Trace`."""
        self.span.set_attributes({"difffake.outcome": outcome, "difffake.frames": frames})
        if error is not None:
            self.span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:256]))
        self.span.end()


class OpenTelemetryTraces:
    """See `stream.tracing.Tracing`; call `close` to send what waits.

    Args:
        provider: of spans; by default one that sends them in the background, in batches, and drops what it cannot send.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        if provider is None:
            service = Resource.create({SERVICE_NAME: "difffake"}).merge(Resource.create())
            provider = TracerProvider(resource=service)
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._provider = provider
        self.tracer = provider.get_tracer("difffake", difffake.__version__)

    def begin(self, record: Record) -> Trace:
        """See `Tracing`."""
        carrier = {
            name: value.decode("ascii", errors="replace")
            for name, value in record.headers
            if name in _CARRIED and value is not None and len(value) <= _MAX_HEADER_BYTES
        }
        span = self.tracer.start_span(
            "difffake.record",
            _CONTEXT.extract(carrier),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "difffake.stream": (record.key or b"").decode(errors="replace")[:256],
            },
        )
        return _OtelTrace(span, self)

    @contextmanager
    def commit(self, traces: Sequence[Trace]) -> Iterator[None]:
        """See `Tracing`."""
        spans = [trace.span for trace in traces[:_MAX_LINKS] if isinstance(trace, _OtelTrace)]
        links = [Link(span.get_span_context()) for span in spans]
        with self.tracer.start_as_current_span(
            "difffake.commit", links=links, attributes={"difffake.records": len(traces)}
        ):
            yield

    def close(self) -> None:
        """Send what waits, for no longer than a few seconds."""
        self._provider.shutdown()
