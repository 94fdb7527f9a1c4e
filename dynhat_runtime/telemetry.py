"""Spans for OpenTelemetry: one for each answered request, sent to a collector over OTLP/HTTP. Extra `otel`.

The only importer of opentelemetry. A span tells route, method, status, request id and operating point; never an
address, a query, a key or a text. What the collector does not take is dropped: it holds up no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from dynhat_runtime import __version__
from dynhat_runtime.errors import SettingsError

EXPORT_TIMEOUT_S = 2


class RequestSpans:
    """Makes a span of each answered request; a client's `traceparent` becomes its parent."""

    def __init__(self, endpoint: str) -> None:
        """Send to `endpoint`, such as http://127.0.0.1:4318/v1/traces.

        Raises:
            SettingsError: The libraries are not installed; it says how to.
        """
        if not all(map(_is_installed, ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter"))):
            raise SettingsError(
                "tracing_endpoint needs OpenTelemetry: pip install 'dynhat-runtime[otel]', or leave it out"
            )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource({"service.name": "dynhat-runtime", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("dynhat_runtime")
        self._propagator = TraceContextTextMapPropagator()

    def answered(
        self,
        name: str,
        headers: Mapping[str, str],
        attributes: Mapping[str, str | int],
        began_ns: int,
        ended_ns: int,
    ) -> None:
        """One request, after its answer.

        Args:
            name: Method and route.
            headers: The request's; only `traceparent` and `tracestate` are read.
            attributes: What there is to say of it.
            began_ns: Since the epoch.
            ended_ns: Likewise.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode

        carrier = {key: headers[key] for key in ("traceparent", "tracestate") if key in headers}
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=dict(attributes),
            start_time=began_ns,
        )
        if int(attributes.get("http.response.status_code", 0)) >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=ended_ns)

    def close(self) -> None:
        """Send what has not been sent, and end."""
        self._provider.shutdown()


def _is_installed(module: str) -> bool:
    """Whether there is such a module; asked of a package before what is in it."""
    return find_spec(module) is not None
