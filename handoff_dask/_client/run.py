"""The client's handle to a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from handoff_dask._adapter.tracebacks import UserFrames
from handoff_dask._client.gather import gather
from handoff_dask._client.result import Result, Values
from handoff_dask._client.results import Results
from handoff_dask._client.run_lifecycle import RunLifecycle
from handoff_dask._model.hooks import module_for
from handoff_dask._model.records import Event, Records, events_of
from handoff_dask._scheduling.runs import ENDED

if TYPE_CHECKING:
    from handoff_dask._display.timeline import Timeline


class Run(RunLifecycle):
    """Handle to a run on a cluster, returned by :func:`handoff_dask.submit`.

    With a blocking client, all methods block. With an asynchronous client, methods and properties that need
    the cluster return awaitables, and awaiting the run itself gives its :class:`Result`.

    Attributes
    ----------
    id : str
        Unique id of the run.
    dag : DAG
        The submitted DAG.
    futures : dict
        Function id → ``distributed.Future``, for every function whose result is kept. Dask accepts these
        futures like any other. The results stay on the cluster while their futures are referenced.
    restored : tuple of ids
        Functions that did not need to run because their results were in the checkpoint directory.
    """

    @property
    def status(self) -> str:
        """Current status of the run.

        ``"submitting"``, ``"pending"`` (waiting for nodes), ``"running"``, ``"finished"``, ``"failed"`` or
        ``"cancelled"``.
        """
        return self._current_status

    def done(self) -> bool:
        """Whether the run has ended, whatever its outcome."""
        return self._current_status in ENDED

    def __repr__(self) -> str:
        return f"<Run {self.id} of DAG {self.dag.id!r}: {self._status_text}>"

    def _repr_html_(self) -> str:
        return module_for("html").run(self)

    def _ipython_display_(self) -> None:
        module_for("live").show(self)

    # ------------------------------------------------------------------ waiting

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until the run ends.

        Parameters
        ----------
        timeout : float, optional
            Maximum time to wait, in seconds.

        Returns
        -------
        bool
            Whether the run has ended. With an asynchronous client, an awaitable of it.
        """
        return self._client.sync(self._wait, timeout)

    def result(self, timeout: float | None = None) -> Result:
        """Wait until the run ends, and gather its results.

        Parameters
        ----------
        timeout : float, optional
            Maximum time to wait, in seconds.

        Returns
        -------
        Result
            With an asynchronous client, an awaitable of it.

        Raises
        ------
        TimeoutError
            The run has not ended in time. It continues.
        FunctionFailedError
            A function failed permanently; ``__cause__`` is its last exception.
        AllocationError
            Functions fit on no node.
        AllocatorError
            The run's custom allocator raised an exception or proposed an invalid placement.
        RunCancelledError
            The run was cancelled, or its client was closed.
        """
        with UserFrames():
            result: Result = self._client.sync(self._result, timeout)
            return result

    async def _result(self, timeout: float | None = None) -> Result:
        if not await self._wait(timeout):
            raise TimeoutError(f"run {self.id} of DAG {self.dag.id!r} has not ended within {timeout:g} s")
        with UserFrames():
            error = await self._find_error()
            if error is not None:
                raise error
            values = await gather(self, self.futures)
        records = await self._records()
        return Result(
            dag_id=self.dag.id,
            results=Values(values, self.dag.id, records),
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
        """Seconds since submission; once the run has ended, its duration."""
        return self._elapsed

    # ------------------------------------------------------------------ results

    @property
    def results(self) -> Results:
        """Function id → value, for finished functions; fetched on access."""
        return Results(self)

    # ------------------------------------------------------------------ records

    @property
    def records(self) -> Records:
        """Function id → :class:`FunctionRecord`: node, attempts, times, cost and size of the result."""
        records: Records = self._sync(self._records)
        return records

    def _sync(self, question: Callable[[], Any]) -> Any:
        """Run a coroutine function on the event loop; on a new one if the client and its loop are closed."""
        if self._client.status == "closed" and not self._client.asynchronous:
            return asyncio.run(question())
        return self._client.sync(question)

    def timeline(self, other: Any = None) -> Timeline:
        """Return a timeline so far: which function ran where and when.

        Parameters
        ----------
        other : Schedule, Run, Result, Records or Timeline, optional
            Shown below on the same time axis: for example a simulation of the same DAG, or another run.

        Returns
        -------
        Timeline
            With an asynchronous client, an awaitable of it.
        """
        timeline: Timeline = self._sync(partial(self._timeline, other))
        return timeline

    async def _timeline(self, other: Any) -> Timeline:
        now = None if self.done() else time.time()
        title, records = f"run of DAG {self.dag.id!r}", await self._records()
        return module_for("timeline").timeline_of(title, records, other, now=now)

    @property
    def allocations(self) -> Any:
        """Function id → name of the node that the function was last placed on."""
        return self._sync(self._allocations)

    async def _allocations(self) -> dict[Hashable, Any]:
        return (await self._records()).allocations

    def explain(self, id: Hashable) -> Any:
        """Explain why a function is not running.

        Parameters
        ----------
        id : hashable
            Id of the function.

        Returns
        -------
        str
            What the function waits for: results of dependencies, the time of its retry, limits of the run, or
            a node. In the last case the text lists the amounts asked for and the free amounts of each node,
            in the same form as an :class:`AllocationError` for functions that fit on no node. With an
            asynchronous client, an awaitable of it.

        Raises
        ------
        KeyError
            The DAG has no such function.
        """
        if id not in self.dag:
            raise KeyError(self.dag._no_function(id))
        return self._sync(partial(self._explain, id))

    async def _explain(self, id: Hashable) -> str:
        if self.dag[id].type == "inline":
            return f"function {id!r} is inline: it is evaluated inside each function that depends on it"
        if id not in self._compiled.ids:
            return f"function {id!r} need not run: its result, or every result downstream, is in a checkpoint"
        await self._wait_started()
        text: str | None = await self._ask("explain", number=self._compiled.ids.index(id))
        if text is not None:
            return text
        how = ENDED.get(self.status, "is unknown to the scheduler")
        why = (
            f": {self._unreachable_reason}" if self._unreachable_reason and self.status == "cancelled" else ""
        )
        return f"function {id!r} is not waiting: its run {how}{why}"

    def events(self) -> Any:
        """Return the events of the run so far, in chronological order.

        Returns
        -------
        list of Event
            When each placed attempt was ready, started and ended, and on which node. With an asynchronous
            client, an awaitable of it.
        """
        return self._sync(self._events)

    async def _events(self) -> list[Event]:
        return events_of(await self._records())

    # ------------------------------------------------------------------ ending

    def cancel(self) -> Any:
        """Cancel the run: drop functions that have not started, and end running ones that have a ``timeout``.

        Other running functions are never interrupted: they hold their allocations until they end.

        Returns
        -------
        bool
            Whether there was anything to cancel. With an asynchronous client, an awaitable of it.
        """
        return self._client.sync(self._cancel)
