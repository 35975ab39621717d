"""Traces: one question on its way through all services, from the capture of what it saw to its
spoken answer, as OpenTelemetry's spans.

Off unless a service's …_TRACES names where spans go (OTLP over HTTP); nothing of OpenTelemetry is
imported then, and every function here does nothing. Set up once, from `__main__`, as logging is.
Between services a trace travels as `traceparent` in gRPC's metadata (W3C Trace Context).
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from services.common.config import ConfigError, ServiceConfig

log = logging.getLogger(__name__)

HEADER = "traceparent"
FLUSH_MS = 2_000
Metadata = Iterable[Any]
_traces: "_Traces | None" = None


class _Traces:
    """OpenTelemetry, imported and set up."""

    def __init__(self, service: str, endpoint: str, share: float) -> None:
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.context, self.trace = context, trace
        self.propagator = TraceContextTextMapPropagator()
        self.provider = TracerProvider(
            resource=Resource.create({"service.name": f"sightline.{service}"}),
            sampler=ParentBased(TraceIdRatioBased(share)),
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self.provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self.tracer = self.provider.get_tracer("sightline")


def set_up_tracing(service: str, config: ServiceConfig) -> None:
    """Send the whole process's spans where its settings say. Call once, from `__main__`. Raises
    ConfigError without the packages that this needs."""
    global _traces
    if config.traces is None:
        return
    if urlsplit(config.traces).scheme not in ("http", "https"):  # it may hold a password
        raise ConfigError(f"{config.prefix}TRACES is no http:// URL of a collector")
    try:
        _traces = _Traces(service, config.traces, config.traces_share)
    except ImportError as error:
        raise ConfigError(
            f"{config.prefix}TRACES needs `pip install -r services/common/requirements-traces.txt`"
        ) from error


def shut_down_tracing() -> None:
    """Send what is left; takes no longer than some seconds."""
    if _traces is not None:
        _traces.provider.force_flush(FLUSH_MS)
        _traces.provider.shutdown()


@contextlib.contextmanager
def span(name: str, **attributes: str | float | bool) -> Iterator[None]:
    """A part of the trace that there is, or the first of a new one, for as long as it lasts. Not
    around a `yield` of a generator, whose callers would be within it."""
    if _traces is None:
        yield
        return
    with _traces.tracer.start_as_current_span(name, attributes=attributes):
        yield


@contextlib.contextmanager
def within(metadata: Metadata | None) -> Iterator[None]:
    """Be part of the caller's trace, where its metadata names one."""
    parent = _parent(metadata)
    if _traces is None or parent is None:
        yield
        return
    token = _traces.context.attach(parent)
    try:
        yield
    finally:
        _traces.context.detach(token)


@contextlib.contextmanager
def served(method: str, metadata: Metadata | None) -> Iterator[None]:
    """The span of a call that a service serves, where the caller's metadata names a trace."""
    if _traces is None or _parent(metadata) is None:
        yield
        return
    with within(metadata), span(method.rpartition("/")[2], **{"rpc.method": method}):
        yield


def record(name: str, start_ns: int, end_ns: int = 0, **attributes: str | float | bool) -> None:
    """A part of the current trace that is over; end_ns 0: now. Times since the Unix epoch."""
    if _traces is None or not _traces.trace.get_current_span().get_span_context().is_valid:
        return
    made = _traces.tracer.start_span(name, start_time=start_ns, attributes=attributes)
    made.end(max(start_ns, end_ns or time.time_ns()))


def trace_headers() -> list[tuple[str, str]] | None:
    """Metadata that makes a call part of the current trace; None where there is none."""
    if _traces is None:
        return None
    carrier: dict[str, str] = {}
    _traces.propagator.inject(carrier)
    return list(carrier.items()) or None


def _parent(metadata: Metadata | None) -> Any:
    if _traces is None:
        return None
    for name, value in metadata or ():
        if name == HEADER and isinstance(value, str):
            return _traces.propagator.extract({HEADER: value})
    return None
