"""Messages between client, scheduler and nodes, which the scheduler can read without the user's modules."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._model.used import UNKNOWN

if TYPE_CHECKING:
    from handoff_dask._adapter.checkpoint import CheckpointFile

#: Version of the messages. Increment it with every change that a peer of another version would misunderstand.
PROTOCOL = 8

#: Name of the plugins, of their task annotation, and of the scheduler's metadata entry that announces them.
NAME = "handoff"

#: Stream message from a client: it has released its handle to a run, and sends no more requests about it.
RUN_RELEASED = "handoff-run-released"

#: Stream message to a client: the nodes that its run waited for are available.
RUN_BEGUN = "handoff-run-begun"

#: Stream message to a client: its run has reached a final status.
RUN_ENDED = "handoff-run-ended"


class Report(NamedTuple):
    """A node's report of an ended attempt, successful or not, carried by Dask's own message about the task.

    All fields are plain values. The defaults stand for an attempt without a report, for example one whose
    code could not be loaded.

    Attributes
    ----------
    attempt : int
        Dask's id of the attempt. It distinguishes attempts of a task that is retried on the same worker.
    started, stopped : float or None
        Seconds since the epoch, by the node's clock.
    outcome : str or None
        ``"finished"``, ``"loaded"`` (from a checkpoint), ``"failed"`` or ``"stopped"`` (the run has ended).
    retryable : bool
        Whether the retry policy allows a retry after this exception.
    usage : tuple
        The fields of :class:`Used`.
    out_of_memory : bool
        Whether the attempt failed because it ran out of memory.
    """

    attempt: int = -1
    started: float | None = None
    stopped: float | None = None
    outcome: str | None = None
    retryable: bool = True
    usage: tuple[Any, ...] = UNKNOWN
    out_of_memory: bool = False


class Blob(NamedTuple):
    """A pickled value, unpickled only by the code that needs it."""

    data: bytes


class Shape(NamedTuple):
    """How to call a function. Many functions share one shape, which is sent only once.

    Attributes
    ----------
    as_list : bool
        Pass the results as one list.
    names : tuple of str
        Parameters that take the last results, by name.
    transfer : bool
        Pass the names of the source and the target node after the data.
    discard : bool
        Return None instead of the result, which is neither kept nor needed.
    kept : bool
        Whether the client may fetch the result.
    retry_on : Blob or None
        Exception types to retry; None stands for the default of :class:`RetryPolicy`.
    asked : dict
        The cost as declared.
    timeout : float or None
        Time limit of an attempt, in seconds.
    isolated : bool
        Whether each attempt runs in a process of its own.
    full_tracebacks : bool
        Whether tracebacks of failed attempts keep the frames that are not the user's.
    """

    as_list: bool = False
    names: tuple[str, ...] = ()
    transfer: bool = False
    discard: bool = False
    kept: bool = False
    retry_on: Blob | None = None
    asked: Mapping[str, float] = {}
    timeout: float | None = None
    isolated: bool = False
    full_tracebacks: bool = False


class Step(NamedTuple):
    """An inline function to evaluate inside another function. Its result is appended to the values so far.

    ``slots`` are the positions of its arguments among these values.
    """

    code: bytes | str
    slots: tuple[int, ...]
    shape: Shape
    extra: bytes | None


class Program(NamedTuple):
    """The node-side form of a function: everything needed to run it except its inputs.

    Attributes
    ----------
    run_id, dag_id, function_id
        Ids for :func:`handoff_dask.current`. An id that is not a plain value is a :class:`Blob`.
    code : bytes or str
        Pickled code, or its import path.
    shape : Shape
    extra : bytes or None
        Pickled ``(extra_args, extra_kwargs)``.
    steps : tuple of Step
        Inline functions to evaluate first, in this order.
    slots : tuple of int
        Positions of the arguments among the inputs and the results of the steps; () if there are no steps.
    checkpoint : CheckpointFile or None
        Where to write the result.
    """

    run_id: str
    dag_id: Any
    function_id: Any
    code: bytes | str
    shape: Shape
    extra: bytes | None
    steps: tuple[Step, ...] = ()
    slots: tuple[int, ...] = ()
    checkpoint: CheckpointFile | None = None

    def __repr__(self) -> str:
        # Workers log this when a function fails. The full fields may contain credentials among the arguments.
        id = "?" if type(self.function_id) is Blob else repr(self.function_id)
        return f"<program of function {id} in run {self.run_id}>"


def is_plain(id: Any) -> bool:
    """Return whether an id is readable everywhere: str, int, float, bool, None, or a tuple of these."""
    if type(id) is tuple:
        return all(is_plain(part) for part in id)
    return id is None or type(id) in (str, int, float, bool)


def wire_id(id: Any) -> Any:
    """Return an id as the scheduler sees it: unchanged if plain, otherwise its ``repr``."""
    return id if is_plain(id) else repr(id)


def sealed_id(id: Any) -> Any:
    """Return an id as a node sees it: unchanged if plain, otherwise a :class:`Blob`."""
    return id if is_plain(id) else Blob(pickle.dumps(id))


def unsealed_id(id: Any) -> Any:
    """Return the id that was passed to :func:`sealed_id`."""
    return pickle.loads(id.data) if type(id) is Blob else id
