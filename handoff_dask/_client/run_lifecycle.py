"""Lifecycle of a run as its client sees it, from registration to the end, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Hashable
from typing import Any

from distributed import Client

from handoff_dask._adapter._dask.client import request
from handoff_dask._adapter.compile import Compiled
from handoff_dask._adapter.tracing import RunSpan
from handoff_dask._client.connection import (
    connection_of,
    explain_closed,
    is_closed,
    release_run,
    retry_on_disconnect,
)
from handoff_dask._client.node_wait import NodeWait
from handoff_dask._client.recording import record_run, with_estimates
from handoff_dask._client.run_errors import find_error
from handoff_dask._client.session import ensure_plugin
from handoff_dask._client.submission import Submission, pickle_spec
from handoff_dask._client.summaries import Summaries
from handoff_dask._model.dag import DAG
from handoff_dask._model.progress import Progress
from handoff_dask._model.records import Records, Summary, inputs_by_id
from handoff_dask._model.runinfo import CANCEL_CALLED, timeout_reason
from handoff_dask._scheduling.runs import ENDED
from handoff_dask.exceptions import (
    AllocationError,
    ClusterNotReadyError,
    FunctionFailedError,
    HandoffError,
    RunError,
    RunTimeoutError,
)

#: Seconds between checks, while waiting for a run, that its client is still open.
_CHECK_INTERVAL = 0.5

#: Seconds for which the end of a run waits at most until notebooks show its final state.
_SHOW_TIMEOUT = 1.0


class RunLifecycle:
    """Asynchronous implementation of :class:`Run`, for the client's own modules.

    Everything here runs on the client's event loop; :class:`Run` adds the public methods.
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
        self._span = RunSpan(dag.id, self.id)
        self._submission = Submission(client, compiled, self._span.carrier)
        self.futures = self._submission.futures
        self.restored = restored
        self._client = client
        self._compiled = compiled
        self._status = "submitting"
        self._ended = asyncio.Event()
        self._fetched_results: dict[Hashable, Any] = {}
        self._summaries = Summaries()
        self._lost_reason: str | None = None
        self._error: RunError | None = None
        self._submitted_at = time.time()
        self._ended_at: float | None = None
        self._starting: asyncio.Task[None] | None = None
        self._history = history
        self._recording: asyncio.Task[None] | None = None
        self._cancel_reason: str | None = None
        self._last_progress: Progress | None = None
        self._node_wait = NodeWait(self.id, dag.id)
        self._display_tasks: set[asyncio.Task[None]] = set()
        weakref.finalize(self, release_run, weakref.ref(client), self.id)
        weakref.finalize(self, self._span.end, "released")

    # ------------------------------------------------------------------ start and scheduler messages

    async def _start(self) -> None:
        try:
            await self._open_history()
            await self._register()
        except OSError as error:
            self._finish("failed")
            await self._wait_recorded()
            raise ClusterNotReadyError(f"the scheduler did not answer: {error!r}") from error
        except BaseException:
            self._finish("failed")
            await self._wait_recorded()
            raise

    async def _open_history(self) -> None:
        """Check that the history is writable, and read how long functions took in earlier runs."""
        path, self._history = self._history, None  # do not try to write there at the end if this fails
        if path is not None:
            # Other processes may hold the file's lock, and this may be the event loop of the whole cluster.
            self._compiled = await asyncio.to_thread(with_estimates, self._compiled, self.dag, path)
            self._history = path

    async def _register(self) -> None:
        spec = pickle_spec(self._compiled, self.dag.id)
        await ensure_plugin(self._client)
        if not self._compiled.keys:
            self._finish("finished")
            return
        connection_of(self._client).add(self)
        try:
            answer = await self._submission.register(self.dag.id, spec, self._ask)
        except AllocationError as error:
            self._error = self._with_run(error)
            raise
        if answer["status"] in ENDED:  # a repeated request: the run had been registered before
            self._finish(answer["status"])
        elif not self._ended.is_set():
            if self._status == "submitting":  # "begun" may have overtaken this answer
                self._status = answer["status"]
                self._note_node_wait(answer.get("waiting"))
            self._submission.send()

    def _start_in_background(self) -> None:
        """Start in the background, on the calling thread's event loop."""
        self._starting = asyncio.ensure_future(self._start())
        # Retrieve the error so that asyncio does not log it; awaiting the run raises it.
        self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _note_node_wait(self, waiting: Any) -> None:
        """Store what the run waits for before it begins, if it waits."""
        if self._status == "pending":
            self._node_wait.update(waiting)

    def _on_begun(self) -> None:
        """Handle the scheduler's message that the run has begun."""
        if self._status in ("submitting", "pending"):
            self._status = "running"
            self._node_wait.end(self._status)

    def _on_reattached(self, status: str, arrived: bool) -> None:
        """Handle a reconnect to a scheduler that has the run. Resend the graph if it had not arrived."""
        if self._ended.is_set():
            return
        if status == "running":
            self._on_begun()
        if status in ENDED:
            self._finish(status)
        elif self._submission.sent and not arrived:
            self._submission.send()

    def _on_lost(self, reason: str) -> None:
        """Handle a reconnect to a scheduler that does not know the run."""
        if not self._submission.sent:
            return  # registration is in progress and will be retried
        self._lost_reason = reason
        self._submission.cancel_futures(reason)
        if not self._ended.is_set():
            self._finish("cancelled")

    def _finish(self, status: str) -> None:
        """Set the final status; no other method does. On the event loop."""
        if self._ended.is_set():
            return
        self._status = status
        self._node_wait.end(status)
        self._span.end(status)
        self._ended_at = time.time()
        self._submission.release_unkept()
        self._ended.set()
        if self._history is not None and self._recording is None:
            self._recording = asyncio.ensure_future(record_run(self, self._history))
            # Retrieve the error so that asyncio does not log it; waiting for the run raises it.
            self._recording.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _wait_recorded(self) -> None:
        """Wait until the run is written to its history, if it has one."""
        if self._recording is not None:
            await asyncio.shield(self._recording)

    # ------------------------------------------------------------------ state

    @property
    def _current_status(self) -> str:
        """The status; ``"cancelled"`` if the client was closed before the run ended."""
        return "cancelled" if self._status not in ENDED and self._closed else self._status

    @property
    def _elapsed(self) -> float:
        return (time.time() if self._ended_at is None else self._ended_at) - self._submitted_at

    @property
    def _status_text(self) -> str:
        """The status, with the nodes that the run waits for or the reason why it was lost."""
        waiting = self._node_wait.current
        if waiting is not None and self._current_status == "pending":
            return f"{self._current_status}, {waiting}"
        lost = self._current_status == "cancelled" and self._unreachable_reason is not None
        return f"{self._current_status}, because {self._unreachable_reason}" if lost else self._current_status

    @property
    def _closed(self) -> bool:
        return is_closed(self._client)

    @property
    def _unreachable_reason(self) -> str | None:
        """Why the scheduler can no longer be asked about this run; None if it can."""
        if self._lost_reason is not None or not self._closed:
            return self._lost_reason
        return explain_closed(self._client, self.futures.values())

    # ------------------------------------------------------------------ waiting

    async def _wait(self, timeout: float | None = None) -> bool:
        await self._wait_started()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.is_set():
            left = _CHECK_INTERVAL if deadline is None else min(_CHECK_INTERVAL, deadline - time.monotonic())
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), left)
            if not self._ended.is_set() and self._closed:
                self._finish("cancelled")
        await self._wait_recorded()
        if self._display_tasks:  # let notebooks show the final state, but do not wait long for that
            await asyncio.wait(self._display_tasks, timeout=_SHOW_TIMEOUT)
        return True

    async def _wait_started(self) -> None:
        if self._starting is not None:
            await asyncio.shield(self._starting)

    # ------------------------------------------------------------------ asking

    async def _ask(self, question: str, **arguments: Any) -> Any:
        """Ask the plugin about this run. Return None if the run is unknown or the scheduler unreachable.

        Raises
        ------
        ClusterNotReadyError
            The client is connected, but the scheduler does not answer.
        """

        async def ask() -> Any:
            if not await connection_of(self._client).wait_until_attached() or self._lost_reason is not None:
                return None
            return await request(self._client, f"handoff_{question}", **arguments)

        if question != "prepare":
            arguments["run_id"] = self.id
        try:
            return await retry_on_disconnect(self._client, ask)
        except OSError as error:
            raise ClusterNotReadyError(f"the scheduler does not answer: {error!r}") from error

    async def _fetch_report(self) -> dict[str, Any]:
        """Return the scheduler's report on the run: status and errors. ``{}`` if it does not know the run."""
        if not self._compiled.keys:
            return {}
        return await self._ask("report") or {}

    async def _fetch_summaries(self) -> Summaries:
        """Return the summaries of the functions, updated if the scheduler still knows the run."""
        if self._compiled.keys:
            await self._summaries.update(self._ask)
        return self._summaries

    async def _progress(self, seen: int) -> dict[str, Any]:
        if not self._compiled.keys:
            return {}
        answer: dict[str, Any] = await self._ask("progress", seen=seen) or {}
        self._note_node_wait(answer.get("waiting"))
        return answer

    async def _records(self) -> Records:
        await self._wait_started()
        fetched = await self._fetch_summaries()
        # A Result keeps its records alive, and these must not keep the run alive: capture single fields.
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

    # ------------------------------------------------------------------ ending

    async def _cancel(self, reason: str = CANCEL_CALLED) -> bool:
        with contextlib.suppress(HandoffError):
            await self._wait_started()
        if self._current_status in ENDED:
            return False
        self._cancel_reason = reason
        cancelled = await self._ask("cancel", reason=reason)
        if cancelled:
            await self._wait()
        return bool(cancelled)

    async def _time_out(self, timeout: float) -> RunError:
        """Cancel the run because it exceeded its timeout, and return the error."""
        await self._cancel(timeout_reason(timeout))
        summaries = (await self._fetch_summaries()).by_number
        finished = sum(summary.status == "finished" for summary in summaries)
        self._error = self._with_run(
            RunTimeoutError(self.dag.id, self.id, timeout, finished, len(self._compiled.ids))
        )
        return self._error

    async def _find_error(self) -> RunError | None:
        """Return the error that the run ended with, or None if it finished."""
        if self._error is None and self._current_status != "finished":
            report, summaries = await self._fetch_report(), await self._fetch_summaries()
            error = find_error(
                self._compiled, self.dag.id, self._status, self._unreachable_reason, report, summaries
            )
            if report.get("broken"):  # if the scheduler could not read the graph, the futures carry the error
                error.__cause__ = self._submission.graph_error()
            self._error = self._with_run(error)
        return self._error

    def _with_run(self, error: RunError, cause: BaseException | None = None) -> RunError:
        for each in error.failures if isinstance(error, FunctionFailedError) else (error,):
            each.run = self
        if cause is not None:
            error.__cause__ = cause
        return error
