"""What goes over the wire: forms that the scheduler can read without the user's own modules."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from handoff_dask._adapter.checkpoint import CheckpointFile

#: Raised by one whenever client and scheduler of different versions could misunderstand each other.
PROTOCOL = 4

#: Name of the plugins, of their annotation, and of the scheduler's metadata entry that shows they are there.
NAME = "handoff"


#: Stream message of a client: nobody will ask about this run any more.
RUN_DROPPED = "handoff-run-dropped"


#: Stream message to a client: its run, which waited for nodes, has them.
RUN_BEGUN = "handoff-run-begun"

#: Stream message to a client: its run has reached a final status.
RUN_ENDED = "handoff-run-ended"


class Report(NamedTuple):
    """What a node says of an attempt that has ended, however it did. Dask's own message about it carries it.

    Its fields are plain values. The defaults hold for an attempt of which nothing was said, such as one that
    could not be loaded.

    Attributes
    ----------
    attempt : int
        By which Dask knows the attempt: a task may be tried again on a worker that still has it.
    started, stopped : float or None
        Seconds since the epoch, by the node's clock.
    outcome : str or None
        ``"finished"``, ``"loaded"`` (from a checkpoint), ``"failed"`` or ``"stopped"`` (its run has ended).
    retryable : bool
        Whether the retry policy counts such a failure as one that may be tried again.
    """

    attempt: int = -1
    started: float | None = None
    stopped: float | None = None
    outcome: str | None = None
    retryable: bool = True


class Blob(NamedTuple):
    """A pickled value that only the code which needs it unpickles."""

    data: bytes


class Shape(NamedTuple):
    """How a function is called: the same for many functions, and sent once for all of them.

    Attributes
    ----------
    as_list : bool
        Pass the results as one list.
    names : tuple of str
        Parameters for which the last results are passed by name.
    transfer : bool
        Pass the names of both nodes of a transfer after the data.
    discard : bool
        Return nothing: nobody keeps or needs the result.
    kept : bool
        The client may fetch the result.
    retry_on : Blob or None
        Exception types that are retried, unless it is just ``Exception``.
    asked : dict
        The cost as given.
    timeout : float or None
        Seconds that an attempt may take.
    """

    as_list: bool = False
    names: tuple[str, ...] = ()
    transfer: bool = False
    discard: bool = False
    kept: bool = False
    retry_on: Blob | None = None
    asked: Mapping[str, float] = {}
    timeout: float | None = None


class Step(NamedTuple):
    """An inline function inside another one: its result is appended to the values there are.

    ``slots`` are the positions, among these values, of its arguments.
    """

    code: bytes | str
    slots: tuple[int, ...]
    shape: Shape
    extra: bytes | None


class Program(NamedTuple):
    """All that a node needs to run one function, apart from the results it takes.

    Attributes
    ----------
    run_id, dag_id, function_id
        For :func:`handoff_dask.current`. Ids that are not plain values are a :class:`Blob`.
    code : bytes or str
        Pickled code, or where to import it from.
    shape : Shape
    extra : bytes or None
        Pickled ``(extra_args, extra_kwargs)``.
    steps : tuple of Step
        Inline functions to evaluate before, in this order.
    slots : tuple of int
        Positions of the arguments among the results and the values of the steps; () when there are no steps.
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
        # Workers log this when a function fails; the whole would show arguments, and credentials among them.
        id = "?" if type(self.function_id) is Blob else repr(self.function_id)
        return f"<program of function {id} in run {self.run_id}>"


def is_plain(id: Any) -> bool:
    """Whether an id can be read anywhere: strings, numbers, None and tuples of these."""
    if type(id) is tuple:
        return all(is_plain(part) for part in id)
    return id is None or type(id) in (str, int, float, bool)


def wire_id(id: Any) -> Any:
    """An id as the scheduler sees it: itself when plain, otherwise its text."""
    return id if is_plain(id) else repr(id)


def sealed_id(id: Any) -> Any:
    """An id as a node sees it: itself when plain, otherwise a :class:`Blob`."""
    return id if is_plain(id) else Blob(pickle.dumps(id))


def unsealed_id(id: Any) -> Any:
    """The id that :func:`sealed_id` was given."""
    return pickle.loads(id.data) if type(id) is Blob else id
