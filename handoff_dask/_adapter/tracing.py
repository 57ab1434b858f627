"""OpenTelemetry spans of runs and attempts.

A run's span starts in the client's process, as a child of the caller's span. Its context travels to the nodes
as a Dask annotation of the run's tasks, in the format of W3C Trace Context. There, each attempt gets a span,
during which it is the current one, so that spans of the function's own code are its children.

Nothing is traced, or sent, unless the client's process has loaded OpenTelemetry and a tracer is configured.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter._dask.running import Running, annotation
from handoff_dask._adapter.current import attempt_metadata
from handoff_dask._adapter.messages import Program, unsealed_id
from handoff_dask._model.safe_repr import safe_str
from handoff_dask._model.used import Used
from handoff_dask._version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

#: The annotation of tasks that carries the context of their run's span.
TRACE = "handoff-trace"

#: Headers of W3C Trace Context and W3C Baggage: name → value.
Carrier = Mapping[str, str]


class RunSpan:
    """The span of a run; nothing if no tracer is configured.

    Parameters
    ----------
    dag_id : hashable
    run_id : str

    Attributes
    ----------
    carrier : mapping of str to str
        The context of the span, for its attempts. Empty if there is no trace.
    """

    def __init__(self, dag_id: Hashable, run_id: str) -> None:
        self.carrier: Carrier = {}
        self._span: Span | None = None
        if "opentelemetry.trace" not in sys.modules:
            return  # no tracer can be configured, and there is no span that could be its parent
        from opentelemetry import trace

        span = _tracer().start_span(
            f"run {safe_str(dag_id)}",
            kind=trace.SpanKind.PRODUCER,
            attributes={"handoff.dag.id": safe_str(dag_id), "handoff.run.id": run_id},
        )
        if span.get_span_context().is_valid:  # also if it is not sampled: its attempts are not, either
            self._span = span
            self.carrier = _carrier_of(trace.set_span_in_context(span))

    def end(self, status: str) -> None:
        """End the span. Later calls have no effect.

        Parameters
        ----------
        status : str
            Final status of the run, or ``"released"`` if its handle was garbage-collected before its end.
        """
        span, self._span = self._span, None
        if span is None:
            return
        from opentelemetry.trace import StatusCode

        span.set_attribute("handoff.run.status", status)
        if status == "failed":
            span.set_status(StatusCode.ERROR, "the run has failed")
        span.end()


def carrier_in(running: Running | None) -> Carrier:
    """Return the context of the run's span that came with a task; empty if its run is not traced."""
    return {} if running is None else annotation(running.task, TRACE)


@contextlib.contextmanager
def attempt_span(carrier: Carrier, program: Program, running: Running | None) -> Iterator[Span | None]:
    """Make the span of an attempt the current one, and yield it. An exception is recorded in it.

    Does nothing on a node without OpenTelemetry.
    """
    if running is None or not _is_installed():
        yield None
        return
    from opentelemetry.trace import SpanKind

    name, _ = running.task.key
    metadata = attempt_metadata(running.task)
    cost = metadata.get("cost", program.shape.asked)
    attributes = {
        "handoff.dag.id": _id_text(program.dag_id),
        "handoff.run.id": program.run_id,
        "handoff.function.id": _id_text(program.function_id),
        "handoff.attempt": metadata.get("attempt", 1),
        "handoff.node": safe_str(running.worker.name),
        **{f"handoff.cost.{resource}": amount for resource, amount in cost.items()},
    }
    with (
        _continued(carrier),
        _tracer().start_as_current_span(
            f"attempt {name.rpartition('-')[0]}", kind=SpanKind.CONSUMER, attributes=attributes
        ) as span,
    ):
        yield span


def add_usage(span: Span | None, usage: Used) -> None:
    """Add what an attempt used to its span, if it has one. What was not measured is left out."""
    if span is None:
        return
    if usage.cpu_seconds is not None:
        span.set_attribute("handoff.cpu_seconds", usage.cpu_seconds)
    if usage.peak_memory is not None:
        span.set_attribute("handoff.peak_memory", usage.peak_memory)
        span.set_attribute("handoff.peak_exact", usage.peak_exact)


def _id_text(id: Any) -> str:
    """Return an id as text, even if the node lacks the module of its type."""
    try:
        return safe_str(unsealed_id(id))
    except Exception:
        return "unreadable"


def in_process(
    carrier: Carrier, function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function to call in another process, and its arguments, such that it continues the trace.

    Returns
    -------
    function, args
        Unchanged if the run is not traced.
    """
    if not carrier or not _is_installed():
        return function, args
    return _call_in, (_carrier_of(None), function, *args)


def _call_in(carrier: Carrier, function: Callable[..., Any], *args: Any) -> Any:
    with _continued(carrier):
        return function(*args)


@contextlib.contextmanager
def _continued(carrier: Carrier) -> Iterator[None]:
    """Continue the trace of another process, and apply its baggage."""
    from opentelemetry import context

    token = context.attach(_propagator().extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


@cache
def _is_installed() -> bool:
    try:
        import opentelemetry.trace  # noqa: F401
    except ImportError:
        return False
    return True


def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("handoff_dask", __version__)


@cache
def _propagator() -> Any:
    """Return the propagator for both ends, whatever the application uses for its own requests."""
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


def _carrier_of(context: Any) -> Carrier:
    carrier: dict[str, str] = {}
    _propagator().inject(carrier, context=context)
    return carrier
