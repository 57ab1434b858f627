"""Costs that are callables: a node computes them, because only nodes need the modules of the user's code.

The scheduler passes the callable on as bytes and validates the amounts that come back. A callable that blocks
holds a thread of that node, and fails its function after ``handoff.cost-timeout``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Hashable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask._adapter._dask.workers import call_on
from handoff_dask._adapter.messages import unsealed_id
from handoff_dask._model.need import Need, evaluate_cost
from handoff_dask._scheduling.decisions import ComputeCost
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.state import SchedulingState
from handoff_dask.exceptions import CostError

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Maximum number of costs that one node computes at once, each in a thread.
BATCH = 16

#: Seconds after which a node answers without the costs that are not computed yet.
PATIENCE = 0.2

#: Number of nodes to ask, and seconds between two.
TRIES, PAUSE = 5, 0.5


class Request(NamedTuple):
    """What a node needs to compute a cost. Ids are as in messages: see :func:`messages.wire_id`."""

    code: bytes
    attempt: int
    inputs: tuple[tuple[Hashable, float], ...]
    seen_peak: float | None


class Computed(NamedTuple):
    """What a node has computed: the amounts, or the text and the traceback of an error."""

    amounts: dict[str, Any] | None
    error: str = ""
    traceback: str | None = None


class CostComputer:
    """Lets nodes compute costs, and tells the core the results.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    state : SchedulingState
    seconds : float
        For which a callable may run.
    failed : callable
        Called with a function, the pickled error and its text before the function fails.
    wake : callable
        Called when there may be something to decide.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        state: SchedulingState,
        seconds: float,
        failed: Callable[[FunctionState, bytes, str], None],
        wake: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._state = state
        self._seconds = seconds
        self._failed = failed
        self._wake = wake
        self._turn = count()
        self._tasks: set[asyncio.Task[None]] = set()

    def compute(self, decisions: Sequence[ComputeCost]) -> None:
        """Let nodes compute costs in the background."""
        for first in range(0, len(decisions), BATCH):
            self._start(decisions[first : first + BATCH])

    def _start(self, decisions: Sequence[ComputeCost]) -> None:
        task = asyncio.get_running_loop().create_task(self._compute(decisions))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop waiting for nodes."""
        for task in self._tasks:
            task.cancel()

    async def _compute(self, decisions: Sequence[ComputeCost]) -> None:
        requests = []
        for f, attempt, inputs, seen_peak in decisions:
            spec = f.run.spec
            sizes = tuple((spec.ids[number], megabytes) for number, megabytes in inputs)
            requests.append(Request(spec.cost_code[f.number], attempt, sizes, seen_peak))
        try:
            answers = await self._ask(requests)
        except Exception as error:  # a bug: no function may wait for ever
            logger.exception("handoff_dask could not let a node compute costs")
            answers = [Computed(None, f"{type(error).__name__}: {error}")] * len(requests)
        for decision, answer in zip(decisions, answers, strict=True):
            if answer is None:
                self._start([decision])  # alone, so that it delays no other
            else:
                self._report(decision, answer)
        self._wake()

    async def _ask(self, requests: list[Request]) -> Sequence[Computed | None]:
        """Return what a node has computed; None for what takes long, unless it is the only request."""
        problem: object = "the cluster has no node that accepts functions"
        seconds = self._seconds if len(requests) == 1 else min(PATIENCE, self._seconds)
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE)
            nodes = [n.name for n in self._state.placement.nodes.ordered if n.accepting]
            address = self._scheduler.aliases.get(nodes[next(self._turn) % len(nodes)]) if nodes else None
            if address is None:
                continue
            try:
                answer = await call_on(
                    self._scheduler, address, compute_costs, requests=requests, seconds=seconds
                )
            except OSError as error:
                problem = error
                continue
            if answer.problem is None:
                late = None
                if len(requests) == 1:
                    late = Computed(None, f"it did not return within {seconds:g} s")
                return [late if computed is None else Computed(*computed) for computed in answer.value]
            problem = answer.problem
        return [Computed(None, f"no node could compute it: {problem}")] * len(requests)

    def _report(self, decision: ComputeCost, answer: Computed) -> None:
        f = decision.function
        if f.run.spec.run_id not in self._state.runs:
            return
        error = answer.error
        if answer.amounts is not None:
            try:
                self._state.cost_computed(f, time(), answer.amounts)
                return
            except ValueError as invalid:
                error = str(invalid)
        failure = CostError(f.id, decision.attempt, error)
        self._failed(f, pickle.dumps(failure), str(failure))
        self._state.cost_failed(f, time(), repr(failure), answer.traceback)


# ---------------------------------------------------------------------- on the node


async def compute_costs(requests: Sequence[Request], seconds: float) -> list[Computed | None]:
    """Compute costs, each in a thread; None for those that take longer. Called on a node."""
    return list(await asyncio.gather(*(_compute_within(request, seconds) for request in requests)))


async def _compute_within(request: Request, seconds: float) -> Computed | None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Computed] = loop.create_future()

    def finish(computed: Computed) -> None:
        if not future.done():
            future.set_result(computed)

    def work() -> None:
        computed = _compute(request)
        with contextlib.suppress(RuntimeError):  # the node has stopped meanwhile
            loop.call_soon_threadsafe(finish, computed)

    # A daemon thread: it must not keep the node from exiting.
    threading.Thread(target=work, name="handoff-cost", daemon=True).start()
    try:
        return await asyncio.wait_for(future, seconds)
    except TimeoutError:
        return None


def _compute(request: Request) -> Computed:
    try:
        inputs = {unsealed_id(id): megabytes for id, megabytes in request.inputs}
        return Computed(
            evaluate_cost(pickle.loads(request.code), Need(request.attempt, inputs, request.seen_peak))
        )
    except BaseException as error:
        cause = error.__cause__ or error
        where = "".join(traceback.format_tb(cause.__traceback__))
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return Computed(None, text, where)
