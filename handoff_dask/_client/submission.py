"""What a client sends of a run to the scheduler, and the futures that it gets for it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any

import dask
from distributed import Client, Future
from distributed.protocol import pickle

from handoff_dask._adapter._dask import client as dask_client
from handoff_dask._adapter.compile import Compiled, NumberOrder
from handoff_dask._adapter.install import check_protocol, explain_unusable
from handoff_dask._adapter.messages import PROTOCOL
from handoff_dask._adapter.versions import with_versions
from handoff_dask._client.run_errors import allocation_error
from handoff_dask._client.session import ensure_plugin
from handoff_dask.exceptions import ClusterNotReadyError, SerializationError


class Submission:
    """A run on its way to the scheduler, and there.

    Attributes
    ----------
    futures : dict
        Function id → future, of every function whose result is kept.
    sent : bool
        Whether the graph was handed to the scheduler.
    """

    def __init__(self, client: Client, compiled: Compiled) -> None:
        self.futures: dict[Hashable, Future] = {}
        self.sent = False
        self._client = client
        self._compiled = compiled
        self._unkept: list[Future] = []

    async def register(
        self, dag_id: Hashable, spec: bytes, ask: Callable[..., Awaitable[Any]]
    ) -> Mapping[str, Any]:
        """Tell the plugin of the run; again if the plugin is removed before it answers.

        Parameters
        ----------
        dag_id : hashable
        spec : bytes
            What :func:`pickled` gives.
        ask : callable
            ``await ask("prepare", ...)``.

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
                        raise  # versions do not explain it
                    raise await with_versions(self._client, error) from None
                return answer
            await ensure_plugin(self._client)  # which raises an error when the client was closed
        raise ClusterNotReadyError(
            "the plugin of handoff_dask was removed from the scheduler as often as it was installed:"
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
        """Hand the graph to the scheduler. Of annotations in force where this is called only spans count."""
        span = dask.get_annotations().get("span")
        compiled = self._compiled

        def hand_over() -> dict[Any, Future]:
            with dask.annotate(span=span) if span else contextlib.nullcontext():
                keys = [compiled.keys[n] for n in compiled.wanted]
                return dask_client.send_graph(self._client, compiled.graph, keys, NumberOrder())

        futures = contextvars.Context().run(hand_over)
        self.sent = True
        kept = set(compiled.kept)
        for number in compiled.wanted:
            future = futures[compiled.keys[number]]
            if number in kept:
                self.futures[compiled.ids[number]] = future
            else:
                self._unkept.append(future)

    def revive_futures(self) -> list[int]:
        """Take up the futures that Dask cancelled when the connection broke: numbers of their functions."""
        numbers = []
        for future in (*self.futures.values(), *self._unkept):
            if dask_client.is_held(self._client, future):  # not released meanwhile
                dask_client.take_up(self._client, future)
                numbers.append(future.key[1])
        return numbers

    def cancel_futures(self, reason: str) -> None:
        """Cancel the futures: the scheduler does not have the run any more."""
        for future in (*self.futures.values(), *self._unkept):
            dask_client.cancel_here(self._client, future, reason)

    def release_unkept(self) -> None:
        """Give up what nobody keeps."""
        self._unkept.clear()

    def graph_error(self) -> BaseException | None:
        """Why the scheduler could not read the graph, as futures have it."""
        failed = (dask_client.error_of(f) for f in self.futures.values() if f.status == "error")
        return next(failed, None)


def pickle_spec(compiled: Compiled, dag_id: Hashable) -> bytes:
    """A run for the scheduling core, as bytes.

    Raises
    ------
    SerializationError
        Its allocator does not pickle.
    """
    try:
        data: bytes = pickle.dumps(compiled.spec)
    except Exception as error:
        problem = f"the allocation_strategy {compiled.spec.strategy!r} cannot be pickled: {error}"
        raise SerializationError(dag_id, [problem]) from error
    return data
