"""On a node: the one function that runs all functions."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from distributed.metrics import time
from distributed.protocol import pickle, serialize

from handoff_dask._adapter import checkpoint
from handoff_dask._adapter._dask.running import Running, attempt_id, enclose
from handoff_dask._adapter.current import current, facts_of, find_task
from handoff_dask._adapter.killable import StoppedError, run_killable
from handoff_dask._adapter.messages import NAME, Blob, Program, Report, Shape, unsealed_id
from handoff_dask.exceptions import RunEndedError

#: Types of which everything pickles.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})

#: Codes that stay loaded. A function that runs keeps its own, however many are loaded meanwhile.
_CACHED = 512
_cache: OrderedDict[tuple[str, bytes], _Code] = OrderedDict()
_cache_lock = threading.Lock()


class InterruptedFunctionError(Exception):
    """A function raised ``SystemExit`` or ``KeyboardInterrupt``, which would take its whole node down.

    Attributes
    ----------
    original : BaseException
        What was raised.
    """

    def __init__(self, original: BaseException) -> None:
        super().__init__(original)
        self.original = original

    def __repr__(self) -> str:
        return repr(self.original)


def load_code(run_id: str, code: bytes | str) -> Callable[..., Any]:
    """The callable itself. Loaded once per run, so that state in it is shared by no other run.

    It is loaded again when :data:`_CACHED` others were used since it was last.
    """
    if isinstance(code, str):
        module, _, name = code.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise TypeError(f"{code!r} is not callable, but {found!r}")
        loaded: Callable[..., Any] = found
        return loaded
    key = (run_id, code)
    with _cache_lock:
        cached = _cache.get(key)
        if cached is None:
            cached = _cache[key] = _Code(code)
            while len(_cache) > _CACHED:
                _cache.popitem(last=False)
        else:
            _cache.move_to_end(key)
    return cached.load()


class _Code:
    """Pickled code, which the first thread that needs it loads, while others that need it wait."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._lock = threading.RLock()

    def load(self) -> Callable[..., Any]:
        if self._data is not None:
            with self._lock:
                if self._data is not None:
                    self._callable: Callable[..., Any] = pickle.loads(self._data)
                    self._data = None
        return self._callable


def _after_fork() -> None:
    """Other threads may have held the locks."""
    global _cache_lock
    _cache_lock = threading.Lock()
    _cache.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def call(
    code: Callable[..., Any],
    shape: Shape,
    values: Sequence[Any],
    extra: bytes | None,
    nodes: Sequence[Any] = (),
) -> Any:
    """Call ``code`` with results and extra arguments, as ``shape`` says."""
    kwargs: dict[str, Any] = {}
    if shape.names:
        n = len(values) - len(shape.names)
        kwargs.update(zip(shape.names, values[n:], strict=True))
        values = values[:n]
    args: Sequence[Any] = (list(values),) if shape.as_list else values
    if nodes:
        args = (*args, *nodes)
    if extra is not None:
        extra_args, extra_kwargs = pickle.loads(extra)
        args = (*args, *extra_args)
        kwargs.update(extra_kwargs)
    result = code(*args, **kwargs)
    if inspect.iscoroutine(result):
        return asyncio.run(result)
    return result


def evaluate(program: Program, values: Sequence[Any], nodes: Sequence[Any] = ()) -> Any:
    """Call a function after the inline functions it depends on."""
    if program.steps:
        available = list(values)
        for step in program.steps:
            code = load_code(program.run_id, step.code)
            available.append(call(code, step.shape, [available[s] for s in step.slots], step.extra))
        values = tuple(available[s] for s in program.slots)
    code = load_code(program.run_id, program.code)
    return call(code, program.shape, values, program.extra, nodes)


def run_function(program: Program, *values: Any) -> Any:
    """Run one attempt of a function in the thread of a Dask worker.

    Parameters
    ----------
    program : Program
    *values
        Results of the functions it depends on, directly or through inline functions.
    """
    shape = program.shape
    found = find_task()
    number = 0 if found is None else attempt_id(found.task)
    started = time()
    try:
        nodes = _transfer_nodes(program, found) if shape.transfer else ()
        # An attempt before this one may have finished, on a node that was then lost.
        again = found is not None and "attempt" in facts_of(found.task)
        kept = checkpoint.recall(program.store) if again and program.store is not None else ()
        if kept:
            (result,) = kept
        elif shape.timeout is None:
            result = evaluate(program, values, nodes)
        else:
            facts = None if found is None else current()
            attempt = object() if found is None else (found.task.key, facts_of(found.task).get("attempt", 1))
            result = run_killable(evaluate, (program, values, nodes), facts, shape.timeout, attempt)
        if program.store is not None and not kept:
            checkpoint.store(program.store, unsealed_id(program.function_id), result)
        elif shape.kept and shape.timeout is None and found is not None:
            _check_pickles(result, found.worker)
    except BaseException as error:
        if found is not None:
            outcome = "stopped" if isinstance(error, StoppedError) else "failed"
            retryable = _is_retryable(error, shape.retry_on)
            _report(found, Report(number, started, time(), outcome, retryable))
        if isinstance(error, StoppedError):
            ids = unsealed_id(program.dag_id), program.run_id, unsealed_id(program.function_id)
            raise RunEndedError(*ids, "ended") from None
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise InterruptedFunctionError(error) from error
        raise
    if found is not None:
        _report(found, Report(number, started, time(), "loaded" if kept else "finished"))
    return None if shape.discard else result


def _transfer_nodes(program: Program, found: Running | None) -> tuple[Any, Any]:
    """Names of the producer's and the consumer's node."""
    if found is None:
        return "local", "local"
    worker, task = found
    peer = facts_of(task).get("peer")
    serializing = unsealed_id(program.function_id)[0] == "serialize"
    return (worker.name, peer) if serializing else (peer, worker.name)


def _check_pickles(result: Any, worker: Any) -> None:
    """Find out while it can be tried again that a client would not get a result.

    Arrays are not copied by this; what is pickled piece by piece takes as long as sending it.
    """
    if type(result) in _PLAIN or worker.address.startswith("inproc://"):
        return
    try:
        serialize(result, on_error="raise")
    except Exception as error:
        cause = error.__cause__ or error
        name = type(result).__qualname__
        raise TypeError(f"its result, of type {name}, does not pickle: {cause}") from cause


def _is_retryable(error: BaseException, retry_on: Blob | None) -> bool:
    """Whether the policy of a function, which is given in pickled form, retries such a failure."""
    return isinstance(error, Exception if retry_on is None else pickle.loads(retry_on.data))


def _report(found: Running, report: Report) -> None:
    """Tell the scheduler what an attempt was.

    Dask's own times are no substitute: they are shifted by its estimate of the clocks' difference, which
    wanders by milliseconds, so that two attempts which followed each other on a node would seem to overlap.
    """
    enclose(found, NAME, tuple(report), time())
