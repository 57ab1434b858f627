"""A run, seen from the client that submitted it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Generator, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import Client

from handoff_dask._adapter.compile import Compiled
from handoff_dask._client.connection import connection_of, drop, is_closed, retried, why_closed
from handoff_dask._client.gathering import gather
from handoff_dask._client.node_wait import NodeWait
from handoff_dask._client.outcome import find_error
from handoff_dask._client.recording import record_run, with_hints
from handoff_dask._client.result import Result
from handoff_dask._client.results import Results
from handoff_dask._client.session import ensure_plugin
from handoff_dask._client.submission import Submission, pickled
from handoff_dask._client.summaries import Summaries
from handoff_dask._model.dag import DAG
from handoff_dask._model.hooks import module_for
from handoff_dask._model.progress import Progress
from handoff_dask._model.records import Event, Records, Summary, events_of, inputs_by_id
from handoff_dask._scheduling.runs import ENDED
from handoff_dask.exceptions import (
    AllocationError,
    ClusterNotReadyError,
    FunctionFailedError,
    HandoffError,
    RunError,
    RunTimeoutError,
)

if TYPE_CHECKING:
    from handoff_dask._display.timeline import Timeline

#: Seconds between looks at whether the client is still connected while waiting for a run.
_CHECK_INTERVAL = 0.5


class Run:
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

    def __init__(
        self,
        dag: DAG,
        compiled: Compiled,
        client: Client,
        restored: tuple[Hashable, ...] = (),
        history: str | None = None,
    ) -> None:
        self.id = compiled.spec.run_id
        self.dag = dag
        self._submission = Submission(client, compiled)
        self.futures = self._submission.futures
        self.restored = restored
        self._client = client
        self._compiled = compiled
        self._status = "submitting"
        self._ended = asyncio.Event()
        self._fetched: dict[Hashable, Any] = {}
        self._summaries = Summaries()
        self._reason: str | None = None
        self._error: RunError | None = None
        self._begin = time.time()
        self._end: float | None = None
        self._starting: asyncio.Task[None] | None = None
        self._history = history
        self._recording: asyncio.Task[None] | None = None
        self._timed_out: float | None = None
        self._seen: Progress | None = None
        self._node_wait = NodeWait(self.id, dag.id)
        self._followers: set[asyncio.Task[None]] = set()
        weakref.finalize(self, drop, weakref.ref(client), self.id)

    # ------------------------------------------------------------------ starting (on the event loop)

    async def _start(self) -> None:
        try:
            await self._open_history()
            await self._announce()
        except OSError as error:
            self._finish("failed")
            await self._recorded()
            raise ClusterNotReadyError(f"the scheduler did not answer: {error!r}") from error
        except BaseException:
            self._finish("failed")
            await self._recorded()
            raise

    async def _open_history(self) -> None:
        """See that the run can be written when it ends, and how long functions took before."""
        path, self._history = self._history, None  # if that is not so, it will not be tried again
        if path is not None:
            # Others may be writing there for a while, and this loop may be that of the whole cluster.
            self._compiled = await asyncio.to_thread(with_hints, self._compiled, path)
            self._history = path

    async def _announce(self) -> None:
        spec = pickled(self._compiled, self.dag.id)
        await ensure_plugin(self._client)
        if not self._compiled.keys:
            self._finish("finished")
            return
        connection_of(self._client).add(self)
        try:
            answer = await self._submission.announce(self.dag.id, spec, self._ask)
        except AllocationError as error:
            self._error = self._with_run(error)
            raise
        if answer["status"] in ENDED:  # asked again, it had been announced already
            self._finish(answer["status"])
        elif not self._ended.is_set():
            if self._status == "submitting":  # it may have begun since this was answered
                self._status = answer["status"]
                self._wait_for(answer.get("waiting"))
            self._submission.send()

    def _start_soon(self) -> None:
        """Start in the background, on the event loop that calls this."""
        self._starting = asyncio.ensure_future(self._start())
        # Whoever awaits the run gets the error; when nobody does, it is not the loop's to complain about.
        self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _wait_for(self, waiting: Any) -> None:
        """Take note of what it waits for before it begins, if it does."""
        if self._status == "pending":
            self._node_wait.note(waiting)

    def _begun(self) -> None:
        """It has the nodes that it waited for."""
        if self._status in ("submitting", "pending"):
            self._status = "running"
            self._node_wait.over(self._status)

    def _resume(self, status: str, arrived: bool) -> None:
        """The scheduler has the run still; what was sent while the connection broke may not have arrived."""
        if self._ended.is_set():
            return
        if status == "running":
            self._begun()
        if status in ENDED:
            self._finish(status)
        elif self._submission.sent and not arrived:
            self._submission.send()

    def _lose(self, reason: str) -> None:
        """The scheduler does not have the run any more."""
        if not self._submission.sent:
            return  # it is being announced
        self._reason = reason
        self._submission.lose(reason)
        if not self._ended.is_set():
            self._finish("cancelled")

    def _finish(self, status: str) -> None:
        """Take note of the end: nothing else gives a run a final status. On the event loop."""
        if self._ended.is_set():
            return
        self._status = status
        self._node_wait.over(status)
        self._end = time.time()
        self._submission.ended()
        self._ended.set()
        if self._history is not None and self._recording is None:
            self._recording = asyncio.ensure_future(record_run(self, self._history))
            # Whoever waits for the run gets the error, where warnings are errors.
            self._recording.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _recorded(self) -> None:
        """Wait until the run is in its history, if it has one."""
        if self._recording is not None:
            await asyncio.shield(self._recording)

    # ------------------------------------------------------------------ state

    @property
    def status(self) -> str:
        """How the run stands.

        ``"submitting"``, ``"pending"`` (waits for nodes), ``"running"``, ``"finished"``, ``"failed"`` or
        ``"cancelled"``.
        """
        return "cancelled" if self._status not in ENDED and self._closed else self._status

    @property
    def _closed(self) -> bool:
        return is_closed(self._client)

    @property
    def _why_gone(self) -> str | None:
        """Why the scheduler cannot be asked about this run any more; None if it can."""
        if self._reason is not None or not self._closed:
            return self._reason
        return why_closed(self._client, self.futures.values())

    def done(self) -> bool:
        """Whether the run has ended, however it did."""
        return self.status in ENDED

    def __repr__(self) -> str:
        return f"<Run {self.id} of DAG {self.dag.id!r}: {self._stands}>"

    @property
    def _stands(self) -> str:
        """The status, and what it waits for, or why it is lost if it is."""
        waiting = self._node_wait.now
        if waiting is not None and self.status == "pending":
            return f"{self.status}, {waiting}"
        lost = self.status == "cancelled" and self._why_gone is not None
        return f"{self.status}, since {self._why_gone}" if lost else self.status

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

    async def _wait(self, timeout: float | None = None) -> bool:
        await self._started()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.is_set():
            left = _CHECK_INTERVAL if deadline is None else min(_CHECK_INTERVAL, deadline - time.monotonic())
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), left)
            if not self._ended.is_set() and self._closed:
                self._finish("cancelled")
        await self._recorded()
        if self._followers:  # what a notebook shows of it, is the end; but nobody waits long for a picture
            await asyncio.wait(self._followers, timeout=1)
        return True

    async def _started(self) -> None:
        if self._starting is not None:
            await asyncio.shield(self._starting)

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
        return (time.time() if self._end is None else self._end) - self._begin

    # ------------------------------------------------------------------ results

    @property
    def results(self) -> Results:
        """Function id → value, of functions that have finished, gathered when looked at."""
        return Results(self)

    # ------------------------------------------------------------------ what is known

    async def _ask(self, question: str, **arguments: Any) -> Any:
        """Ask the plugin about this run; None when nobody there knows it, or can be asked any more.

        Raises
        ------
        ClusterNotReadyError
            There is a connection, but nobody answers.
        """

        async def ask() -> Any:
            if not await connection_of(self._client).settled() or self._reason is not None:
                return None
            return await getattr(self._client.scheduler, f"handoff_{question}")(**arguments)

        if question != "prepare":
            arguments["run_id"] = self.id
        try:
            return await retried(self._client, ask)
        except OSError as error:
            raise ClusterNotReadyError(f"the scheduler does not answer: {error!r}") from error

    async def _fetch_report(self) -> dict[str, Any]:
        """How the run stands, and why: ``{}`` when the scheduler does not know."""
        if not self._compiled.keys:
            return {}
        return await self._ask("report") or {}

    async def _fetch_summaries(self) -> Summaries:
        """What is known of each function, as far as the scheduler knows or was asked before."""
        if self._compiled.keys:
            await self._summaries.update(self._ask)
        return self._summaries

    @property
    def records(self) -> Any:
        """Function id → :class:`FunctionRecord`, with node, attempts, times, cost and size of the result."""
        return self._sync(self._records)

    def _sync(self, question: Callable[[], Any]) -> Any:
        """Answer on the event loop, also when the client is closed and its loop with it."""
        if self._client.status == "closed" and not self._client.asynchronous:
            return asyncio.run(question())
        return self._client.sync(question)

    async def _progress(self, seen: int) -> dict[str, Any]:
        if not self._compiled.keys:
            return {}
        answer: dict[str, Any] = await self._ask("progress", seen=seen) or {}
        self._wait_for(answer.get("waiting"))
        return answer

    async def _records(self) -> Records:
        await self._started()
        fetched = await self._fetch_summaries()
        # Results keep the records: what these need of a run must not keep the run itself.
        spec, ids, summaries = self._compiled.spec, self._compiled.ids, list(fetched.by_number)
        number_of = dict(zip(ids, range(len(summaries)), strict=False))
        kinds, kind_of = spec.kinds, spec.kind_of

        def summary(id: Hashable) -> Summary:
            return summaries[number_of[id]]

        return Records(
            number_of,
            summary,
            lambda id: dict(kinds[kind_of[number_of[id]]].asked),
            lambda: inputs_by_id(ids, spec.dependents),
            fetched.nodes,
        )

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
        await self._started()
        text: str | None = await self._ask("explain", number=self._compiled.ids.index(id))
        if text is not None:
            return text
        how = ENDED.get(self.status, "is not known there")
        why = f": {self._why_gone}" if self._why_gone and self.status == "cancelled" else ""
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

    async def _cancel(self) -> bool:
        with contextlib.suppress(HandoffError):
            await self._started()
        if self.done():
            return False
        cancelled = await self._ask("cancel")
        if cancelled:
            await self._wait()
        return bool(cancelled)

    async def _time_out(self, timeout: float) -> RunError:
        """End the run because it took too long."""
        self._timed_out = timeout
        await self._cancel()
        summaries = (await self._fetch_summaries()).by_number
        finished = sum(summary.status == "finished" for summary in summaries)
        self._error = self._with_run(
            RunTimeoutError(self.dag.id, self.id, timeout, finished, len(self._compiled.ids))
        )
        return self._error

    async def _find_error(self) -> RunError | None:
        """The error with which this run ended."""
        if self._error is None and self.status != "finished":
            report, summaries = await self._fetch_report(), await self._fetch_summaries()
            error = find_error(self._compiled, self.dag.id, self._status, self._why_gone, report, summaries)
            if report.get("broken"):  # a graph that the scheduler could not read: the futures know why
                error.__cause__ = self._submission.why_unread()
            self._error = self._with_run(error)
        return self._error

    def _with_run(self, error: RunError, cause: BaseException | None = None) -> RunError:
        for each in error.failures if isinstance(error, FunctionFailedError) else (error,):
            each.run = self
        if cause is not None:
            error.__cause__ = cause
        return error
