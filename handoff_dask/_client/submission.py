"""Submission of a run: its registration with the plugin, its graph, and its futures."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any

import dask
import distributed
from distributed import Client, Future
from distributed.protocol import pickle

from handoff_dask._adapter._dask import client as dask_client
from handoff_dask._adapter.compile import Compiled, NumberOrder
from handoff_dask._adapter.install import check_protocol, explain_unusable
from handoff_dask._adapter.messages import PROTOCOL
from handoff_dask._adapter.texts import id_text
from handoff_dask._adapter.tracing import TRACE, Carrier
from handoff_dask._adapter.versions import with_versions
from handoff_dask._client.run_errors import allocation_error
from handoff_dask._client.session import ensure_plugin
from handoff_dask.exceptions import ClusterNotReadyError, SerializationError


class Submission:
    """The client's side of sending a run to the scheduler.

    Attributes
    ----------
    futures : dict
        Function id → future, of every function whose result is kept.
    sent : bool
        Whether the graph has been sent to the scheduler.

    Parameters
    ----------
    client : distributed.Client
    compiled : Compiled
    carrier : mapping of str to str
        The context of the run's OpenTelemetry span; empty if there is none.
    """

    def __init__(self, client: Client, compiled: Compiled, carrier: Carrier) -> None:
        self.futures: dict[Hashable, Future] = {}
        self.sent = False
        self._client = client
        self._compiled = compiled
        self._unkept: list[Future] = []
        self._annotations: dict[str, Any] = {"span": dask_span(id_text(compiled.spec.dag_id))}
        if carrier:
            self._annotations[TRACE] = carrier

    async def register(
        self, dag_id: Hashable, spec: bytes, ask: Callable[..., Awaitable[Any]]
    ) -> Mapping[str, Any]:
        """Register the run with the plugin. Retry if the plugin is removed before it answers.

        Parameters
        ----------
        dag_id : hashable
        spec : bytes
            From :func:`pickle_spec`.
        ask : callable
            Asks the plugin: ``await ask("prepare", ...)``.

        Returns
        -------
        mapping
            The plugin's answer, with the run's ``status``.

        Raises
        ------
        ClusterNotReadyError, AllocationError
        """
        for _ in range(3):
            answer: Mapping[str, Any] | None = await ask(
                "prepare", spec=spec, client=self._client.id, protocol=PROTOCOL
            )
            if answer is not None and answer["status"] != "removed":
                try:
                    self._check(answer, dag_id)
                except ClusterNotReadyError as error:
                    if answer["status"] == "unreadable":
                        raise  # different versions would not explain it
                    raise await with_versions(self._client, error) from None
                return answer
            await ensure_plugin(self._client)  # raises if the client is closed
        raise ClusterNotReadyError(
            "the handoff_dask plugin was removed from the scheduler each time it was installed:"
            " start the scheduler with `dask scheduler --preload handoff_dask.preload`"
        )

    def _check(self, answer: Mapping[str, Any], dag_id: Hashable) -> None:
        if answer["status"] == "protocol":
            check_protocol(answer)
        if answer["status"] == "unusable":
            raise ClusterNotReadyError(explain_unusable(answer["workers"]))
        if answer["status"] == "unreadable":
            raise ClusterNotReadyError(
                f"the scheduler cannot load the run's allocation_strategy: {answer['error']}."
                " Its code must be importable there."
            )
        if answer["status"] == "unplaceable":
            raise allocation_error(self._compiled, dag_id, answer["shortfalls"])

    def send(self) -> None:
        """Send the graph to the scheduler, without the Dask annotations in force here."""
        compiled = self._compiled

        def send_graph() -> dict[Any, Future]:
            with dask.annotate(**self._annotations):
                keys = [compiled.keys[n] for n in compiled.wanted]
                return dask_client.send_graph(self._client, compiled.graph, keys, NumberOrder())

        futures = contextvars.Context().run(send_graph)
        self.sent = True
        kept = set(compiled.kept)
        for number in compiled.wanted:
            future = futures[compiled.keys[number]]
            if number in kept:
                self.futures[compiled.ids[number]] = future
            else:
                self._unkept.append(future)

    def revive_futures(self) -> list[int]:
        """Make futures that Dask cancelled on a disconnect pending again. Return their function numbers."""
        numbers = []
        for future in (*self.futures.values(), *self._unkept):
            if dask_client.is_referenced(self._client, future):  # not released in the meantime
                dask_client.reset_to_pending(self._client, future)
                numbers.append(future.key[1])
        return numbers

    def cancel_futures(self, reason: str) -> None:
        """Cancel the futures locally, since the scheduler no longer knows the run."""
        for future in (*self.futures.values(), *self._unkept):
            dask_client.cancel_locally(self._client, future, reason)

    def release_unkept(self) -> None:
        """Release the futures of functions whose results are not kept."""
        self._unkept.clear()

    def graph_error(self) -> BaseException | None:
        """Return the error with which the scheduler failed to read the graph, as the futures carry it."""
        failed = (dask_client.error_of(f) for f in self.futures.values() if f.status == "error")
        return next(failed, None)


def dask_span(name: str) -> Any:
    """Return the annotation of a new Dask span, inside the caller's span if there is one.

    Dask's dashboard groups tasks by span. All other annotations of the caller are ignored.
    """
    with distributed.span(name):
        return dask.get_annotations()["span"]


def pickle_spec(compiled: Compiled, dag_id: Hashable) -> bytes:
    """Pickle a run's spec for the scheduling core.

    Raises
    ------
    SerializationError
        The allocator cannot be pickled.
    """
    try:
        data: bytes = pickle.dumps(compiled.spec)
    except Exception as error:
        problem = f"the allocation_strategy {compiled.spec.strategy!r} cannot be pickled: {error}"
        raise SerializationError(dag_id, [problem]) from error
    return data
