"""The parts a DAG is made of: functions, their arguments and where they have to run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

from handoff_dask._model.hooks import module_for
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._model.safe_repr import safe_repr

FunctionType = Literal["regular", "inline", "input"]
ArgumentInclusion = Literal["variadic", "as_list"]


@dataclass(frozen=True, slots=True)
class Collocated:
    """A place: the node where another function runs.

    Attributes
    ----------
    id : hashable
        Id of the other function. Functions collocated with each other, directly or through others, form
        a group that is placed on one node.
    """

    id: Hashable


@dataclass(frozen=True, slots=True)
class Argument:
    """A dependency whose result is transformed on its way from the producer to the consumer.

    Both transformations are functions of the DAG of their own, with results and allocations. They are
    called with ``(data, source_node, target_node, *extra_args)``, the nodes by name.

    Attributes
    ----------
    id : hashable
        Id of the producer.
    serialize : callable or str, optional
        Runs on the producer's node, as function ``("serialize", producer, consumer, position)``.
    deserialize : callable or str, optional
        Runs on the consumer's node, as function ``("deserialize", producer, consumer, position)``.
    serialize_extra_args, deserialize_extra_args : sequence
        Appended to the arguments of each. The default of both is to pass the data on unchanged.
    """

    id: Hashable
    serialize: Callable[..., Any] | str | None = None
    deserialize: Callable[..., Any] | str | None = None
    serialize_extra_args: Sequence[Any] = ()
    deserialize_extra_args: Sequence[Any] = ()


def pass_data(data: Any, source_node: Any, target_node: Any, *extra_args: Any) -> Any:
    """Return ``data``: the transformation of an :class:`Argument` that names none."""
    return data


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """One function of a DAG: code, where its arguments come from, and what it needs to run.

    Attributes
    ----------
    id : hashable
        Unique within the DAG.
    code : callable or str
        What is called; or ``"package.module:qualname"``, imported on the node that runs it. None only for
        ``type="input"``.
    args : sequence of ids or Argument
        Functions whose results are passed first, in this order.
    extra_args : sequence
        Values passed after them.
    kwargs : mapping of str to id or Argument
        Parameter name → function whose result is passed for it.
    extra_kwargs : mapping of str to value
        Parameter name → value.
    cost : mapping of str to number, optional
        What it takes of its node while it runs: ``cpu`` in cores, ``memory`` in MB (2**20 bytes), ``gpu``
        in devices, any other name as you define it. Every placed function also takes one thread.
    node : str, int, list of these, or Collocated, optional
        Pin: the names, addresses or hosts of the nodes it may run on; or the function it runs beside.
    type : {"regular", "inline", "input"}
        ``"inline"``: evaluated inside every function that depends on it, never placed, no result of its
        own. ``"input"``: stands for a value given from outside (streaming only), has no code.
    argument_inclusion : {"variadic", "as_list"}
        ``code(*args, *extra_args)`` or ``code([*args], *extra_args)``.
    max_retries : int, optional
        Retries after a failure; None inherits from the policy or the run.
    retry : RetryPolicy, optional
        None inherits the run's.
    timeout : float, optional
        Seconds that one attempt may take. The attempt is then ended, whatever it does, and counts as a
        failure with :class:`FunctionTimeoutError`. Such a function runs in a process of its own, which costs
        some: code, arguments and result are pickled there and back.
    priority : float
        Higher goes first among functions that could start.
    init, parallelism, batch_size, batch_timeout
        Used by streaming only.

    Notes
    -----
    Nothing is checked here: :meth:`DAG.validate` reports all problems of all functions together.
    Handoff: ``lib/handoff/function.ex``.
    """

    id: Hashable
    code: Callable[..., Any] | str | None = None
    args: Sequence[Any] = ()
    extra_args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    extra_kwargs: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    node: Any = None
    type: FunctionType = "regular"
    argument_inclusion: ArgumentInclusion = "variadic"
    max_retries: int | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    priority: float = 0
    init: Callable[..., Any] | str | None = None
    parallelism: int = 1
    batch_size: int | None = None
    batch_timeout: float | None = None

    def __post_init__(self) -> None:
        # Copies, so that a list changed later does not change a function that was validated. What is not
        # the right kind of collection stays as it is, for validate() to name.
        for name, wanted in (("args", tuple), ("extra_args", tuple)):
            value = getattr(self, name)
            if type(value) is not wanted and _is_plain_iterable(value):
                object.__setattr__(self, name, wanted(value))
        for name in ("kwargs", "extra_kwargs", "cost"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, dict(value))
        if type(self.node) in (list, set, frozenset):
            object.__setattr__(self, "node", tuple(self.node))

    @property
    def dependencies(self) -> tuple[Hashable, ...]:
        """Ids of the functions whose results it takes, in order, repeated where they are."""
        # What is no list of ids is for DAG.validate() to name; it should not keep the DAG from being shown.
        args = self.args if type(self.args) is tuple else ()
        if type(self.kwargs) is not dict or not self.kwargs:
            return args
        return (*args, *self.kwargs.values())

    def replace(self, **changes: Any) -> Function:
        """A copy with these fields changed."""
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Transfer(Function):
    """One half of an :class:`Argument`: its serializer or its deserializer.

    Its code is called with the names of the producer's and the consumer's node after the data.

    Attributes
    ----------
    peer : hashable
        Id of the other half.
    """

    peer: Hashable = None


#: What the code is called that loads a result instead of computing it. No identifier, so that no function of
#: a user has that name and is taken for it where durations are learnt.
LOADING = "load-checkpoint"


#: The end of an id that numbers it, or tells it apart in hexadecimal.
_NUMBERING = re.compile(r"[\W_]*(?:\d+|[0-9a-f]{8,})$")

#: Up to so many stems of ids always tell sorts of functions of one code apart; more only if each is shared by
#: so many functions on average.
MOST_SORTS, MEMBERS = 64, 4


def _is_plain_iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def code_name(code: Any) -> str:
    """A short name of ``code`` for people: ``module:outer.inner`` → ``inner``, a partial's function."""
    while isinstance(code, partial):
        code = code.func
    name = code if isinstance(code, str) else getattr(code, "__qualname__", None) or type(code).__qualname__
    return name.rpartition(":")[2].rpartition(".")[2].strip("<>") or "function"


def policy_of(f: Function, default: RetryPolicy) -> RetryPolicy:
    """The retry policy in force: the function's own or its run's, with the function's number of retries."""
    policy = f.retry or default
    if f.max_retries is None or f.max_retries == policy.max_retries:
        return policy
    return policy.with_max_retries(f.max_retries)


def stem_of(id: Hashable) -> str:
    """The part of an id that functions of one sort share: ``blur-17`` and ``blur-3`` are ``blur``.

    Functions of the same code can differ in their arguments; their ids often tell the sorts apart.
    """
    while type(id) is tuple and id:
        id = id[0]
    return _NUMBERING.sub("", id) if type(id) is str else ""


def learning_names(functions: Mapping[Hashable, Function]) -> dict[Hashable, str]:
    """Id → name under which durations are learnt: that of the code, a space, and the stem of the id.

    Where ids tell no sorts apart, such as those made of file names, the stem is left out.
    """
    parts = {id: (code_name(f.code), stem_of(id)) for id, f in functions.items()}
    members = Counter(code for code, _ in parts.values())
    sorts = Counter(code for code, _ in set(parts.values()))
    apart = {code for code, n in sorts.items() if n <= MOST_SORTS or MEMBERS * n <= members[code]}
    return {id: f"{code} {stem if code in apart else ''}" for id, (code, stem) in parts.items()}


def expand_arguments(function: Function) -> tuple[Function, list[Function]]:
    """Replace every :class:`Argument` of ``function`` by a serialize/deserialize pair of functions.

    Returns
    -------
    function : Function
        Depends on the deserializers instead.
    synthetic : list of Function
        The pairs, each serializer before its deserializer.
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
    if type(args) is tuple and any(type(a) is Argument for a in args):
        args = tuple(expand(a, n) for n, a in enumerate(args))
    if type(kwargs) is dict and any(type(a) is Argument for a in kwargs.values()):
        kwargs = {name: expand(a, name) for name, a in kwargs.items()}
    if synthetic:
        function = function.replace(args=args, kwargs=kwargs)
    return function, synthetic
