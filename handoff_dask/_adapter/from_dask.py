"""Dask collections and graphs as functions of a DAG."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import dask
from dask.base import is_dask_collection
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict, funcname

from handoff_dask._adapter._dask.graphs import (
    Alias,
    DataNode,
    Dict,
    GraphNode,
    List,
    NestedContainer,
    Set,
    Task,
    TaskRef,
    Tuple,
    convert_graph,
    is_given,
)
from handoff_dask._model.function import Function
from handoff_dask.exceptions import InvalidFunctionError, MissingFunctionError

#: What a Dask key ends in when nobody gave it a name: a hash or a random number.
_TOKEN = re.compile(r"-(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$")

#: Literals of these types are passed by value; any other is a function, so that it is sent only once.
_SMALL = (type(None), bool, int, float, complex, type(Ellipsis), slice)
_SHORT = 100  # characters up to which a text counts as small

_RESULT = "result"

Chooser = Any  # a value for all, or callable(key, task)


# ---------------------------------------------------------------------- what runs on the node


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """Stands for one of the results that a function is given, by position."""

    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Nested:
    """A call inside another one's arguments."""

    code: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Call:
    """Calls a function whose results to pass are not simply its first arguments.

    Parameters
    ----------
    code : callable
        It is called by the name of this, in keys and drawings.
    """

    def __init__(self, code: Callable[..., Any]) -> None:
        self.code = code
        self.__qualname__ = self.__name__ = funcname(code)

    def __call__(self, *given: Any) -> Any:
        """Takes the results, then the arguments and keyword arguments with a :class:`Slot` for each."""
        *values, args, kwargs = given
        return self.code(
            *[_filled(a, values) for a in args], **{name: _filled(a, values) for name, a in kwargs.items()}
        )

    def __repr__(self) -> str:
        return f"<call of {self.__name__}>"


def _filled(part: Any, values: list[Any]) -> Any:
    if type(part) is Slot:
        return values[part.number]
    if type(part) is Nested:
        args = [_filled(a, values) for a in part.args]
        return part.code(*args, **{name: _filled(a, values) for name, a in part.kwargs.items()})
    return part


def literal(value: Any) -> Any:
    """Return ``value``: the code of a function that stands for data in a Dask graph."""
    return value


def collect(kind: type, *items: Any) -> Any:
    """Make a list, tuple or set."""
    return kind(items)


def collect_dict(*items: Any) -> dict[Any, Any]:
    """Make a dict of keys and values in turn."""
    return dict(zip(items[::2], items[1::2], strict=True))


def same(value: Any) -> Any:
    """Return ``value``: the code of a function that is another name for one."""
    return value


# ---------------------------------------------------------------------- from Dask


def functions_of_collection(obj: Any, dag_id: Hashable, cost: Chooser, node: Chooser) -> Iterator[Function]:
    """Functions of a Dask collection, or of lists, tuples, sets and dicts with collections in them.

    The last of them gives what ``dask.compute(obj)`` gives; no other function needs it, and it needs all.

    Raises
    ------
    TypeError
        There is no Dask collection in it.
    """
    collections: list[Any] = []
    whole = _assembled(obj, collections)
    if not collections:
        raise TypeError(
            "DAG.from_delayed takes a Dask collection, such as dask.delayed makes, or a list, tuple, set or"
            f" dict with some, not {obj!r}"
        )
    graph: dict[Any, Any] = {}
    annotations: dict[Any, dict[str, Any]] = {}
    for collection in collections:
        part = getattr(collection, "dask", None)
        if not isinstance(part, HighLevelGraph):
            part = collection.__dask_graph__()
        annotations.update(_annotations_of(part))
        graph.update(ensure_dict(part))
    if isinstance(whole, TaskRef):
        return _Conversion(dag_id, graph, annotations, cost, node).functions([whole.key], readable=True)
    output = object()  # no key of the graph is equal to it
    conversion = _Conversion(dag_id, graph, annotations, cost, node, {output: whole})
    return conversion.functions([output], readable=True)


def functions_of_graph(
    graph: Any, outputs: Any, dag_id: Hashable, cost: Chooser, node: Chooser
) -> Iterator[Function]:
    """Functions of a low-level Dask graph, by the keys they have there.

    Raises
    ------
    TypeError
        The graph is not a mapping.
    """
    if not isinstance(graph, Mapping):
        raise TypeError(f"graph must be a Dask graph, a mapping of keys to tasks, not {graph!r}")
    conversion = _Conversion(dag_id, ensure_dict(graph), _annotations_of(graph), cost, node)
    return conversion.functions(list(_flat(outputs)), readable=False)


def _flat(outputs: Any) -> Iterator[Hashable]:
    if isinstance(outputs, list):
        for each in outputs:
            yield from _flat(each)
    else:
        yield outputs


def _annotations_of(graph: Any) -> dict[Any, dict[str, Any]]:
    """Key → what ``dask.annotate`` said of it."""
    found: dict[Any, dict[str, Any]] = {}
    for layer in graph.layers.values() if isinstance(graph, HighLevelGraph) else ():
        if layer.annotations:
            for key in layer:
                said = {n: v(key) if callable(v) else v for n, v in layer.annotations.items()}
                # Dask puts such objects where nothing was said.
                found[key] = {n: v for n, v in said.items() if is_given(v)}
    return found


def _assembled(obj: Any, collections: list[Any]) -> Any:
    """What ``dask.compute`` would make of ``obj``, as a task; the collections in it are added to the list."""
    if is_dask_collection(obj):
        collections.append(obj)
        finish, extra = obj.__dask_postcompute__()
        keys = obj.__dask_keys__()
        if hasattr(obj, "key") and keys == [obj.key] and not extra and funcname(finish) == "single_key":
            return TaskRef(obj.key)
        return Task(None, finish, _referring(keys), *extra)
    kind = type(obj)
    before = len(collections)
    made: Any = obj
    if kind in (list, tuple, set):
        container = List if kind is list else Tuple if kind is tuple else Set
        made = container(*[_assembled(each, collections) for each in obj])
    elif isinstance(obj, dict):
        items = [_assembled(part, collections) for item in obj.items() for part in item]
        made = Task(None, collect_dict, *items)
    elif dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        values = [_assembled(getattr(obj, f.name), collections) for f in dataclasses.fields(obj)]
        made = Task(None, kind, *values)
    elif isinstance(obj, tuple) and hasattr(obj, "_fields"):
        made = Task(None, kind, *[_assembled(each, collections) for each in obj])
    return made if len(collections) > before else obj


def _referring(keys: Any) -> Any:
    return List(*[_referring(key) for key in keys]) if isinstance(keys, list) else TaskRef(keys)


class _Conversion:
    """One graph on its way to functions."""

    def __init__(
        self,
        dag_id: Hashable,
        graph: Mapping[Any, Any],
        annotations: Mapping[Any, Mapping[str, Any]],
        cost: Chooser,
        node: Chooser,
        extra: Mapping[Any, Any] | None = None,
    ) -> None:
        if not (cost is None or callable(cost) or isinstance(cost, Mapping)):
            raise TypeError(f"cost must be a mapping, or a callable of key and task, not {cost!r}")
        self.dag_id = dag_id
        self.graph: dict[Any, GraphNode] = convert_graph(graph)
        self.result = next(iter(extra), None) if extra else None
        self.graph.update(extra or {})
        self.annotations = annotations
        self.everywhere = {n: _of_key(v) for n, v in dask.get_annotations().items()}
        self.cost = cost
        self.node = node
        self.ids: dict[Any, Hashable] = {}
        self.outputs: set[Any] = set()
        self._calls: dict[int, Call] = {}

    def functions(self, outputs: Iterable[Any], *, readable: bool) -> Iterator[Function]:
        outputs = list(outputs)
        self.outputs.update(outputs)
        order = self._order(outputs)
        if readable:
            self.ids = _readable(order, self.result)
        else:
            self.ids = {key: key for key in order}
        return (self._function(key) for key in order)

    def _order(self, outputs: list[Any]) -> list[Any]:
        """Keys of the functions that are needed, each after those it depends on, unless there is a cycle."""
        order: list[Any] = []
        seen: set[Any] = set()
        missing: list[tuple[Any, Any]] = []
        missing.extend((None, key) for key in outputs if key not in self.graph)
        stack = [(key, False) for key in reversed(outputs) if key in self.graph]
        while stack:
            key, left = stack.pop()
            if left:
                order.append(key)
            elif key not in seen:
                seen.add(key)
                stack.append((key, True))
                for need in reversed(self._needs(key)):
                    if need not in self.graph:
                        missing.append((key, need))
                    elif need not in seen:
                        stack.append((need, False))
        if missing:
            texts = [
                f"output {need!r} is not a key of the graph"
                if key is None
                else f"task {key!r} needs {need!r}, which is not in the graph: a future or persisted data on"
                " a cluster, perhaps; pass its value instead"
                for key, need in missing
            ]
            raise MissingFunctionError(self.dag_id, texts, missing)
        return order

    def _needs(self, key: Any) -> list[Any]:
        """Keys of the functions whose results a task takes, in the order in which it names them."""
        found: dict[Any, None] = {}
        stack: list[Any] = [self.graph[key]]
        while stack:
            part = stack.pop()
            if isinstance(part, (TaskRef, Alias)):
                target, _ = self._resolved(part)
                if target is not None:
                    found[target.key] = None
            elif isinstance(part, Task):
                stack.extend(reversed([*part.args, *part.kwargs.values()]))
        return list(found)

    def _resolved(self, part: Any) -> tuple[TaskRef | None, Any]:
        """What a reference is to, past other names; or None and the value, if that is small."""
        key = _target(part)
        seen = set()
        while isinstance(task := self.graph.get(key), Alias) and key not in self.outputs and key not in seen:
            seen.add(key)
            key = task.target
        if isinstance(task, DataNode) and key not in self.outputs and _is_small(task.value):
            return None, task.value
        return TaskRef(key), None

    # ------------------------------------------------------------------ one function

    def _function(self, key: Any) -> Function:
        task = self.graph[key]
        id = self.ids[key]
        if isinstance(task, DataNode):
            return Function(id, literal, extra_args=[task.value])
        if isinstance(task, Alias):
            target, value = self._resolved(task)
            if target is None:
                return Function(id, literal, extra_args=[value])
            return Function(id, same, args=[self.ids[target.key]])
        if not isinstance(task, Task) or type(task) not in _TASKS:
            raise InvalidFunctionError(
                self.dag_id,
                [
                    f"task {key!r} is a {type(task).__name__}, which works only by its own key in Dask; of"
                    " shuffles and rechunking use another method than p2p:"
                    ' dask.config.set({"dataframe.shuffle.method": "tasks", "array.rechunk.method": "tasks"})'
                ],
                [key],
            )
        return self._called(id, key, task, self._fields(key, task))

    def _called(self, id: Hashable, key: Any, task: Task, fields: dict[str, Any]) -> Function:
        slots: dict[Any, int] = {need: n for n, need in enumerate(self._needs(key))}
        nested = self._nested(task, slots)
        args, kwargs = nested.args, nested.kwargs
        leading = 0
        while leading < len(args) and type(args[leading]) is Slot:
            leading += 1
        if _is_plain(args[leading:]) and all(type(v) is not Nested for v in kwargs.values()):
            needs = list(slots)
            return Function(
                id,
                nested.code,
                args=[self.ids[needs[a.number]] for a in args[:leading]],
                extra_args=args[leading:],
                kwargs={n: self.ids[needs[v.number]] for n, v in kwargs.items() if type(v) is Slot},
                extra_kwargs={n: v for n, v in kwargs.items() if type(v) is not Slot},
                **fields,
            )
        code = self._call(nested.code)
        return Function(id, code, args=[self.ids[n] for n in slots], extra_args=[args, kwargs], **fields)

    def _call(self, code: Callable[..., Any]) -> Call:
        # One for all functions of the same code: they are then sent, and known, as one.
        call = self._calls.get(id(code))
        if call is None:
            call = self._calls[id(code)] = Call(code)
        return call

    def _part(self, part: Any, slots: Mapping[Any, int]) -> Any:
        """A task's argument without anything of Dask's in it."""
        if isinstance(part, (TaskRef, Alias)):
            target, value = self._resolved(part)
            return value if target is None else Slot(slots[target.key])
        if isinstance(part, DataNode):
            return part.value
        if not isinstance(part, Task):
            return part
        nested = self._nested(part, slots)
        if isinstance(part, NestedContainer) and _is_plain(nested.args):
            return nested.code(*nested.args)
        return nested

    def _nested(self, task: Task, slots: Mapping[Any, int]) -> Nested:
        args = tuple(self._part(a, slots) for a in task.args)
        if isinstance(task, Dict):
            return Nested(collect_dict, args, {})
        if isinstance(task, NestedContainer):
            return Nested(collect, (task.klass, *args), {})
        return Nested(task.func, args, {name: self._part(a, slots) for name, a in task.kwargs.items()})

    def _fields(self, key: Any, task: Any) -> dict[str, Any]:
        """Cost, node, retries and priority: of annotations first, then of what was given for all."""
        whole = key is self.result and self.result is not None
        said = {n: _chosen(v, key, task, whole) for n, v in self.everywhere.items()}
        said.update(self.annotations.get(key, {}))
        cost = _chosen(self.cost, key, task, whole)
        resources = said.get("resources")
        if isinstance(resources, Mapping):
            cost = {**(cost or {}), **resources}
        node = _chosen(self.node, key, task, whole)
        if said.get("workers") is not None and not said.get("allow_other_workers"):
            node = said["workers"]
        fields = {"cost": cost, "node": node, "max_retries": said.get("retries")}
        if said.get("priority") is not None:
            fields["priority"] = said["priority"]
        return fields


#: Types of task of which we know what they do.
_TASKS = (Task, List, Tuple, Set, Dict)


def _chosen(choose: Chooser, key: Any, task: Any, whole: bool) -> Any:
    if callable(choose):
        return None if whole else choose(key, task)
    return choose


def _of_key(annotation: Any) -> Chooser:
    """Annotations are callables of the key alone."""
    return (lambda key, task: annotation(key)) if callable(annotation) else annotation


def _target(part: TaskRef | Alias) -> Any:
    return part.target if isinstance(part, Alias) else part.key


def _is_small(value: Any) -> bool:
    return type(value) in _SMALL or (type(value) in (str, bytes) and len(value) <= _SHORT)


def _is_plain(parts: Iterable[Any]) -> bool:
    return not any(type(part) in (Slot, Nested) for part in parts)


def _readable(order: list[Any], result: Any) -> dict[Any, Hashable]:
    """Key → id: the key without hash, numbered where another one is called so.

    ``"inc-6c4c…"`` → ``"inc"``, the next one ``"inc-2"``; ``("add-30da…", 0, 1)`` → ``("add", 0, 1)``. A key
    without hash was named by a person and is left as it is.
    """
    heads = {key: key[0] if isinstance(key, tuple) and key else key for key in order if key is not result}
    hashed = {h: h[: m.start()] for h in heads.values() if isinstance(h, str) and (m := _TOKEN.search(h))}
    taken: set[Any] = {h for h in heads.values() if h not in hashed}
    count: dict[str, int] = {}
    names: dict[Any, Any] = {}
    for head, name in hashed.items():
        names[head] = _free(name, taken, count)
    ids: dict[Any, Hashable] = {}
    for key, head in heads.items():
        name = names.get(head, head)
        ids[key] = (name, *key[1:]) if isinstance(key, tuple) and key else name
    if result is not None:
        ids[result] = _free(_RESULT, taken, count)
    return ids


def _free(name: str, taken: set[Any], count: dict[str, int]) -> str:
    """``name``, or with the first number that makes it new."""
    free = name
    while free in taken:
        count[name] = count.get(name, 1) + 1
        free = f"{name}-{count[name]}"
    taken.add(free)
    return free
