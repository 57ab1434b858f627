"""The parts of a DAG: functions, their arguments, and collocation."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, TypedDict, get_args

from handoff_dask._model.hooks import module_for
from handoff_dask._model.resources import MEMORY, is_auto, parse_memory
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._model.safe_repr import safe_repr
from handoff_dask._suggest import suggest_fields

FunctionType = Literal["regular", "inline", "input"]
ArgumentInclusion = Literal["variadic", "as_list"]

#: Where an attempt runs: in a thread of its node, or in a process of its own.
Isolation = Literal["thread", "process"]
ISOLATION: tuple[Isolation, ...] = get_args(Isolation)


@dataclass(frozen=True, slots=True)
class Collocated:
    """A value for a function's ``node``: run on the same node as another function.

    Attributes
    ----------
    id : hashable
        Id of the other function. Functions that are collocated with each other, directly or transitively,
        form a group that is placed on one node.
    """

    id: Hashable


@suggest_fields
@dataclass(frozen=True, slots=True)
class Argument:
    """A dependency whose result is transformed on its way from the producer to the consumer.

    Both transformations become functions of the DAG, with their own results and allocations. They are called
    with ``(data, source_node, target_node, *extra_args)``, where the nodes are names.

    Attributes
    ----------
    id : hashable
        Id of the producer.
    serialize : callable or str, optional
        Runs on the producer's node as the function ``("serialize", producer, consumer, position)``. The
        default returns the data unchanged.
    deserialize : callable or str, optional
        Runs on the consumer's node as the function ``("deserialize", producer, consumer, position)``. The
        default returns the data unchanged.
    serialize_extra_args, deserialize_extra_args : sequence
        Values appended to the arguments of ``serialize`` and ``deserialize``.
    """

    id: Hashable
    serialize: Callable[..., Any] | str | None = None
    deserialize: Callable[..., Any] | str | None = None
    serialize_extra_args: Sequence[Any] = ()
    deserialize_extra_args: Sequence[Any] = ()


def pass_data(data: Any, source_node: Any, target_node: Any, *extra_args: Any) -> Any:
    """Return ``data`` unchanged: the default transformation of an :class:`Argument`."""
    return data


@suggest_fields
@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """One function of a DAG: its code, the sources of its arguments, and what it needs to run.

    Attributes
    ----------
    id : hashable
        Unique within the DAG.
    code : callable or str
        The callable, or an import path ``"package.module:qualname"`` that is resolved on the node.
    args : sequence of ids or Argument
        Functions whose results are the first positional arguments, in this order.
    extra_args : sequence
        Values passed after the results of ``args``.
    kwargs : mapping of str to id or Argument
        Parameter name → function whose result is passed as this parameter.
    extra_kwargs : mapping of str to value
        Parameter name → value.
    cost : mapping of str to number or str, or callable, optional
        Amount of each resource that the function occupies on its node while it runs: ``cpu`` in cores,
        ``memory`` in MB (2**20 bytes), ``gpu`` in devices, and any other resource in the unit in which nodes
        offer it. ``memory`` may be a string with a unit, which has the same meaning as for Dask: ``"4GB"`` is
        4 × 10⁹ bytes and ``"4GiB"`` 4 × 2³⁰ bytes, rounded down to whole MB; the field then has the number.
        ``memory`` and ``cpu`` may be ``"auto"``: estimated from what functions use, which implies
        ``isolation="process"``. A callable of a :class:`Need` gives the cost of each attempt.
        Every placed function also occupies one thread.
    node : str, int, list of these, or Collocated, optional
        Pin: the names, addresses or hosts of the only nodes that may run the function. Or the function with
        which it is collocated.
    type : {"regular", "inline"}
        An ``"inline"`` function is evaluated inside each function that depends on it; it is never placed and
        has no result of its own.
    argument_inclusion : {"variadic", "as_list"}
        Calling convention: ``code(*args, *extra_args)`` or ``code([*args], *extra_args)``.
    max_retries : int, optional
        Maximum number of retries after the first attempt. None inherits that of the retry policy.
    retry : RetryPolicy, optional
        None inherits the policy of the run.
    timeout : float, optional
        Seconds that one attempt may take; None means no limit. An attempt that exceeds its timeout is
        terminated, whatever its code is doing, and fails with :class:`FunctionTimeoutError`. Implies
        ``isolation="process"``.
    priority : float
        Of the functions that are ready to start, those with a higher priority go first.
    isolation : {"thread", "process"}, optional
        Whether an attempt runs in a thread of its node, or in a process of its own, which adds the cost of
        pickling code, arguments and result. None inherits that of the run.

    Notes
    -----
    The constructor checks nothing: :meth:`DAG.validate` reports all problems of all functions together.
    Corresponds to ``lib/handoff/function.ex`` of Handoff.
    """

    id: Hashable
    code: Callable[..., Any] | str | None = None
    args: Sequence[Any] = ()
    extra_args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    extra_kwargs: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None = None
    node: Any = None
    type: FunctionType = "regular"
    argument_inclusion: ArgumentInclusion = "variadic"
    max_retries: int | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    priority: float = 0
    isolation: Isolation | None = None
    # Streaming only, like the type "input". validate() checks them; nothing uses them yet, so the signature
    # and the documentation leave them out.
    init: Callable[..., Any] | str | None = None
    parallelism: int = 1
    batch_size: int | None = None
    batch_timeout: float | None = None

    def __post_init__(self) -> None:
        # Copy the collections, so that changing them later does not change a validated function. A value of
        # the wrong kind is kept as it is, for validate() to report.
        for name, wanted in (("args", tuple), ("extra_args", tuple)):
            value = getattr(self, name)
            if type(value) is not wanted and _is_plain_iterable(value):
                object.__setattr__(self, name, wanted(value))
        for name in ("kwargs", "extra_kwargs", "cost"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, dict(value))
        if type(self.cost) is dict and type(memory := self.cost.get(MEMORY)) is str:
            with contextlib.suppress(ValueError):  # validate() reports it
                self.cost[MEMORY] = parse_memory(memory)
        if type(self.node) in (list, set, frozenset):
            object.__setattr__(self, "node", tuple(self.node))

    @property
    def dependencies(self) -> tuple[Hashable, ...]:
        """Ids of the functions whose results it takes, in the order of the arguments, with repeats."""
        # Malformed args and kwargs count as empty, so that an invalid DAG still has a repr and a drawing.
        args = self.args if type(self.args) is tuple else ()
        if type(self.kwargs) is not dict or not self.kwargs:
            return args
        return (*args, *self.kwargs.values())

    def replace(self, **changes: Any) -> Function:
        """Return a copy with the given fields changed."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        parts = [f"id={safe_repr(self.id)}"]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "id" or value is None or value in ((), {}) or value == f.default:
                continue
            parts.append(f"{f.name}={code_name(value) if f.name == 'code' else safe_repr(value)}")
        return f"Function({', '.join(parts)})"

    def _repr_html_(self) -> str:
        text: str = module_for("html").function(self)
        return text


#: The fields of :class:`Function` that only streaming will use.
STREAMING_FIELDS = ("init", "parallelism", "batch_size", "batch_timeout")


def _hide_streaming_fields() -> None:
    signature = inspect.signature(Function)
    shown = [p for p in signature.parameters.values() if p.name not in STREAMING_FIELDS]
    Function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]


_hide_streaming_fields()


class FunctionFields(TypedDict, total=False):
    """The fields of :class:`Function` that ``@dag.function(…)`` takes, for editors and type checkers."""

    args: Sequence[Any]
    extra_args: Sequence[Any]
    kwargs: Mapping[str, Any]
    extra_kwargs: Mapping[str, Any]
    cost: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None
    node: Any
    type: FunctionType
    argument_inclusion: ArgumentInclusion
    max_retries: int | None
    retry: RetryPolicy | None
    timeout: float | None
    priority: float
    isolation: Isolation | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Transfer(Function):
    """The serializer or the deserializer of an :class:`Argument`.

    Its code is called with the data, the name of the producer's node and that of the consumer's node.

    Attributes
    ----------
    peer : hashable
        Id of the matching deserializer or serializer.
    """

    peer: Hashable = None


#: Code name of the function that loads a checkpoint instead of computing a result. Not a valid identifier, so
#: that the learnt durations of loading never mix with those of a user's function.
LOADING = "load-checkpoint"


def _is_plain_iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def code_name(code: Any) -> str:
    """Return a short display name: ``inner`` for ``module:outer.inner``. Partials are unwrapped."""
    while isinstance(code, partial):
        code = code.func
    name = code if isinstance(code, str) else getattr(code, "__qualname__", None) or type(code).__qualname__
    return name.rpartition(":")[2].rpartition(".")[2].strip("<>") or "function"


def is_isolated(f: Function, default: Isolation) -> bool:
    """Return whether a function runs in a process of its own, given the isolation of its run."""
    return f.timeout is not None or (f.isolation or default) == "process" or has_auto(f)


def declared_cost(f: Function) -> Mapping[str, Any]:
    """Return the amounts for which a function asks, empty if they are computed when it is ready."""
    return f.cost if isinstance(f.cost, Mapping) else {}


def has_auto(f: Function) -> bool:
    """Return whether any amount of a function's cost is to be estimated."""
    return isinstance(f.cost, Mapping) and any(map(is_auto, f.cost.values()))


def policy_of(f: Function, default: RetryPolicy) -> RetryPolicy:
    """Return the function's or else the run's policy, with the function's ``max_retries`` if it is set."""
    policy = f.retry or default
    if f.max_retries is None or f.max_retries == policy.max_retries:
        return policy
    return policy.with_max_retries(f.max_retries)


def expand_arguments(function: Function) -> tuple[Function, list[Function]]:
    """Replace every :class:`Argument` of ``function`` with a pair of functions.

    Returns
    -------
    function : Function
        A copy that depends on the deserializers.
    synthetic : list of Function
        The serializers and deserializers, each serializer before its deserializer.
    """
    synthetic: list[Function] = []

    def expand(argument: Any, position: Any) -> Any:
        if type(argument) is not Argument:
            return argument
        route = (argument.id, function.id, position)
        serializer = Transfer(
            id=("serialize", *route),
            peer=("deserialize", *route),
            code=argument.serialize or pass_data,
            args=(argument.id,),
            extra_args=argument.serialize_extra_args,
            node=Collocated(argument.id),
        )
        deserializer = Transfer(
            id=("deserialize", *route),
            peer=serializer.id,
            code=argument.deserialize or pass_data,
            args=(serializer.id,),
            extra_args=argument.deserialize_extra_args,
            node=Collocated(function.id),
        )
        synthetic.extend((serializer, deserializer))
        return deserializer.id

    args = function.args
    kwargs = function.kwargs
    if type(args) is tuple and Argument in map(type, args):
        args = tuple(expand(a, n) for n, a in enumerate(args))
    if type(kwargs) is dict and Argument in map(type, kwargs.values()):
        kwargs = {name: expand(a, name) for name, a in kwargs.items()}
    if synthetic:
        function = function.replace(args=args, kwargs=kwargs)
    return function, synthetic
