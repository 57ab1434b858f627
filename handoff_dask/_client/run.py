"""A run, seen from the client that submitted it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from handoff_dask._client.gather import gather
from handoff_dask._client.result import Result
from handoff_dask._client.results import Results
from handoff_dask._client.run_lifecycle import RunLifecycle
from handoff_dask._model.hooks import module_for
from handoff_dask._model.records import Event, events_of
from handoff_dask._scheduling.runs import ENDED

if TYPE_CHECKING:
    from handoff_dask._display.timeline import Timeline


class Run(RunLifecycle):
    """A run on a cluster. Made by :func:`handoff_dask.submit`.

    With a blocking client the methods block; with an asynchronous one those that talk to the cluster
    return awaitables, and the run itself can be awaited for its :class:`Result`.

    Attributes
    ----------
    id : str
        New for every run.
    dag : DAG
        What was submitted.
    futures : dict
        Function id → ``distributed.Future``, of every function whose result is kept. They work wherever
        Dask takes futures, and keep the results on the cluster as long as they are referenced.
    restored : tuple of ids
        Functions that did not have to run since their results were in the checkpoint directory.
    """

    @property
    def status(self) -> str:
        """How the run stands.

        ``"submitting"``, ``"pending"`` (waits for nodes), ``"running"``, ``"finished"``, ``"failed"`` or
        ``"cancelled"``.
        """
        return self._current_status

    def done(self) -> bool:
        """Whether the run has ended, however it did."""
        return self._current_status in ENDED

    def __repr__(self) -> str:
        return f"<Run {self.id} of DAG {self.dag.id!r}: {self._status_text}>"

    def _repr_html_(self) -> str:
        return module_for("html").run(self)

    def _ipython_display_(self) -> None:
        module_for("live").show(self)

    # ------------------------------------------------------------------ waiting

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the end.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether the run has ended.
        """
        return self._client.sync(self._wait, timeout)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and gather the results.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        Result

        Raises
        ------
        TimeoutError
            The run goes on.
        FunctionFailedError
            A function failed for good; ``__cause__`` is its exception.
        AllocationError
            Functions fit on no node.
        AllocatorError
            The run's own allocator raised an exception, or proposed what cannot be done.
        RunCancelledError
            The run was cancelled, or its client was closed.
        """
        return self._client.sync(self._result, timeout)

    async def _result(self, timeout: float | None = None) -> Result:
        if not await self._wait(timeout):
            raise TimeoutError(f"run {self.id} of DAG {self.dag.id!r} has not ended within {timeout:g} s")
        error = await self._find_error()
        if error is not None:
            raise error
        values = await gather(self, self.futures)
        records = await self._records()
        return Result(
            dag_id=self.dag.id,
            results=values,
            allocations=records.allocations,
            records=records,
            elapsed=self.elapsed,
            run_id=self.id,
            restored=self.restored,
        )

    def __await__(self) -> Generator[Any, None, Result]:
        return self._result().__await__()

    @property
    def elapsed(self) -> float:
        """Seconds since it was submitted, or until it ended."""
        return self._elapsed

    # ------------------------------------------------------------------ results

    @property
    def results(self) -> Results:
        """Function id → value, of functions that have finished, gathered when looked at."""
        return Results(self)

    # ------------------------------------------------------------------ what is known

    @property
    def records(self) -> Any:
        """Function id → :class:`FunctionRecord`, with node, attempts, times, cost and size of the result."""
        return self._sync(self._records)

    def _sync(self, question: Callable[[], Any]) -> Any:
        """Answer on the event loop, also when the client is closed and its loop with it."""
        if self._client.status == "closed" and not self._client.asynchronous:
            return asyncio.run(question())
        return self._client.sync(question)

    def timeline(self, other: Any = None) -> Any:
        """Which function ran where and when, so far.

        Parameters
        ----------
        other : Schedule, Run, Result, Records or Timeline, optional
            To be shown below, on the same time axis: a simulation of the same DAG, or another run.

        Returns
        -------
        Timeline
            With an asynchronous client an awaitable of it.
        """
        return self._sync(partial(self._timeline, other))

    async def _timeline(self, other: Any) -> Timeline:
        now = None if self.done() else time.time()
        title, records = f"run of DAG {self.dag.id!r}", await self._records()
        return module_for("timeline").timeline_of(title, records, other, now=now)

    @property
    def allocations(self) -> Any:
        """Mapping of function id to the name of the node it was last placed on."""
        return self._sync(self._allocations)

    async def _allocations(self) -> dict[Hashable, Any]:
        return (await self._records()).allocations

    def explain(self, id: Hashable) -> Any:
        """Why a function is not running.

        Parameters
        ----------
        id : hashable
            Id of the function.

        Returns
        -------
        str
            What it waits for: results, the time of its retry, limits of the run, or a node, and then for each
            node what is asked and what is free there. An :class:`AllocationError` says the same of functions
            that fit on no node. With an asynchronous client an awaitable.

        Raises
        ------
        KeyError
            The DAG has no such function.
        """
        if id not in self.dag:
            raise KeyError(f"DAG {self.dag.id!r} has no function {id!r}")
        return self._sync(partial(self._explain, id))

    async def _explain(self, id: Hashable) -> str:
        if self.dag[id].type == "inline":
            return f"function {id!r} is inline: it is evaluated inside each function that depends on it"
        if id not in self._compiled.ids:
            return f"function {id!r} need not run: its result, or what follows from it, is in a checkpoint"
        await self._wait_started()
        text: str | None = await self._ask("explain", number=self._compiled.ids.index(id))
        if text is not None:
            return text
        how = ENDED.get(self.status, "is not known there")
        why = (
            f": {self._unreachable_reason}" if self._unreachable_reason and self.status == "cancelled" else ""
        )
        return f"function {id!r} is not waiting: its run {how}{why}"

    def events(self) -> Any:
        """What has happened so far, in the order of time.

        Returns
        -------
        list of Event
            When each attempt of a function could have started, was started and ended, and where: of attempts
            that have been placed. With an asynchronous client an awaitable.
        """
        return self._sync(self._events)

    async def _events(self) -> list[Event]:
        return events_of(await self._records())

    # ------------------------------------------------------------------ ending

    def cancel(self) -> Any:
        """Start nothing more of this run, release what waits, and stop functions that have a ``timeout``.

        Other functions that run are not interrupted: they keep what they hold of their nodes until they end.

        Returns
        -------
        bool
            Whether there was anything to cancel.
        """
        return self._client.sync(self._cancel)
