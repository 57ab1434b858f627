"""Convert Dask collections and graphs to the functions of a DAG."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import dask
from dask.base import is_dask_collection
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict, funcname
from distributed import Future

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
    is_annotation_set,
)
from handoff_dask._model.function import Function
from handoff_dask.exceptions import InvalidFunctionError, MissingFunctionError

#: The end of a Dask key that was generated: a hash or a random UUID.
_TOKEN = re.compile(r"-(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$")

#: Literals of these types are inlined into arguments. Any other literal becomes a function, and is sent once.
_SMALL = (type(None), bool, int, float, complex, type(Ellipsis), slice)

#: A ``str`` or ``bytes`` up to this length is inlined too.
_SHORT = 100

_RESULT = "result"

#: One value for all tasks, or ``callable(key, task)``.
Chooser = Any


# ---------------------------------------------------------------------- what runs on the node


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """Placeholder for a result: its position among the results that the function takes."""

    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Nested:
    """A call within the arguments of another call."""

    code: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Call:
    """Adapter for code that takes results elsewhere than in its first positional arguments.

    Parameters
    ----------
    code : callable
        The adapter takes on its name, for keys and drawings.
    """

    def __init__(self, code: Callable[..., Any]) -> None:
        self.code = code
        self.__qualname__ = self.__name__ = funcname(code)

    def __call__(self, *given: Any) -> Any:
        """Call the code with its slots filled.

        ``given`` are the results, the positional arguments as a sequence, and the keyword arguments as a
        mapping. Both may contain :class:`Slot` and :class:`Nested` objects.
        """
        *values, args, kwargs = given
        return self.code(
            *[_fill(a, values) for a in args], **{name: _fill(a, values) for name, a in kwargs.items()}
        )

    def __repr__(self) -> str:
        return f"<call of {self.__name__}>"


def _fill(part: Any, values: list[Any]) -> Any:
    if type(part) is Slot:
        return values[part.number]
    if type(part) is Nested:
        args = [_fill(a, values) for a in part.args]
        return part.code(*args, **{name: _fill(a, values) for name, a in part.kwargs.items()})
    return part


def literal(value: Any) -> Any:
    """Return ``value``: the code of a function that stands for data in a Dask graph."""
    return value


def collect(kind: type, *items: Any) -> Any:
    """Return a list, tuple or set of the items."""
    return kind(items)


def collect_dict(*items: Any) -> dict[Any, Any]:
    """Return a dict of alternating keys and values."""
    return dict(zip(items[::2], items[1::2], strict=True))


def alias(value: Any) -> Any:
    """Return ``value``: the code of a function that stands for an alias of a key."""
    return value


# ---------------------------------------------------------------------- from Dask


def functions_of_collection(obj: Any, dag_id: Hashable, cost: Chooser, node: Chooser) -> Iterator[Function]:
    """Convert a Dask collection, or lists, tuples, sets and dicts that contain collections.

    Parameters
    ----------
    obj : object
    dag_id : hashable
        The DAG's id, for error messages.
    cost, node : Chooser
        As for ``DAG.from_delayed``.

    Returns
    -------
    iterator of Function
        The last function is the only sink. Its result is that of ``dask.compute(obj)``.

    Raises
    ------
    TypeError
        ``obj`` contains no Dask collection.
    MissingFunctionError
        A task refers to a future, or to persisted data.
    InvalidFunctionError
        A task cannot be converted. Raised by the iterator.
    """
    collections: list[Any] = []
    whole = _to_task(obj, collections)
    if not collections:
        text = (
            "DAG.from_delayed takes a Dask collection, such as one from dask.delayed, or a list, tuple, set"
            f" or dict of collections, not {obj!r}"
        )
        if any(isinstance(o, Future) for o in (obj if isinstance(obj, (list, tuple, set)) else [obj])):
            text += (
                ": convert the collection before compute(), or pass the value of the future, future.result()"
            )
        raise TypeError(text)
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
    """Convert a low-level Dask graph. Function ids are the keys of the graph.

    Parameters
    ----------
    graph : mapping
    outputs : key or (nested) list of keys
        Tasks that these keys do not need are left out.
    dag_id : hashable
        The DAG's id, for error messages.
    cost, node : Chooser
        As for ``DAG.from_graph``.

    Raises
    ------
    TypeError
        The graph is not a mapping.
    MissingFunctionError
        An output, or a key that a task refers to, is missing from the graph.
    InvalidFunctionError
        A task cannot be converted. Raised by the iterator.
    """
    if not isinstance(graph, Mapping):
        raise TypeError(f"graph must be a Dask graph, a mapping of keys to tasks, not {graph!r}")
    conversion = _Conversion(dag_id, ensure_dict(graph), _annotations_of(graph), cost, node)
    return conversion.functions(list(_flatten(outputs)), readable=False)


def _flatten(outputs: Any) -> Iterator[Hashable]:
    if isinstance(outputs, list):
        for each in outputs:
            yield from _flatten(each)
    else:
        yield outputs


def _annotations_of(graph: Any) -> dict[Any, dict[str, Any]]:
    """Return the annotations of a graph's layers: key → name → value."""
    found: dict[Any, dict[str, Any]] = {}
    for layer in graph.layers.values() if isinstance(graph, HighLevelGraph) else ():
        if layer.annotations:
            for key in layer:
                values = {n: v(key) if callable(v) else v for n, v in layer.annotations.items()}
                found[key] = {n: v for n, v in values.items() if is_annotation_set(v)}
    return found


def _to_task(obj: Any, collections: list[Any]) -> Any:
    """Convert ``obj`` to a task whose result is that of ``dask.compute(obj)``.

    Appends the collections that ``obj`` contains to ``collections``. Returns an object without collections
    unchanged.
    """
    if is_dask_collection(obj):
        collections.append(obj)
        finish, extra = obj.__dask_postcompute__()
        keys = obj.__dask_keys__()
        if hasattr(obj, "key") and keys == [obj.key] and not extra and funcname(finish) == "single_key":
            return TaskRef(obj.key)
        return Task(None, finish, _to_refs(keys), *extra)
    kind = type(obj)
    before = len(collections)
    task: Any = obj
    if kind in (list, tuple, set):
        container = List if kind is list else Tuple if kind is tuple else Set
        task = container(*[_to_task(each, collections) for each in obj])
    elif isinstance(obj, dict):
        items = [_to_task(part, collections) for item in obj.items() for part in item]
        task = Task(None, collect_dict, *items)
    elif dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        values = [_to_task(getattr(obj, f.name), collections) for f in dataclasses.fields(obj)]
        task = Task(None, kind, *values)
    elif isinstance(obj, tuple) and hasattr(obj, "_fields"):
        task = Task(None, kind, *[_to_task(each, collections) for each in obj])
    return task if len(collections) > before else obj


def _to_refs(keys: Any) -> Any:
    return List(*[_to_refs(key) for key in keys]) if isinstance(keys, list) else TaskRef(keys)


class _Conversion:
    """The conversion of one graph.

    Parameters
    ----------
    dag_id : hashable
        The DAG's id, for error messages.
    graph : mapping of key to task
    annotations : mapping of key to mapping
        From :func:`_annotations_of`.
    cost, node : Chooser
    extra : mapping of key to task, optional
        A task to add, which assembles the result from the collections.
    """

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
        #: Keys of results on a cluster, which the converted graph lacks.
        self.persisted = {key for key, task in graph.items() if isinstance(task, Future)}
        self.graph: dict[Any, GraphNode] = convert_graph(graph)
        self.result = next(iter(extra), None) if extra else None
        self.graph.update(extra or {})
        self.annotations = annotations
        #: Annotations of enclosing ``dask.annotate`` blocks: name → Chooser.
        self.ambient = {n: _ignore_task(v) for n, v in dask.get_annotations().items()}
        self.cost = cost
        self.node = node
        self.ids: dict[Any, Hashable] = {}
        self.outputs: set[Any] = set()
        self._calls: dict[int, Call] = {}

    def functions(self, outputs: Iterable[Any], *, readable: bool) -> Iterator[Function]:
        """Return the functions that the outputs need. ``readable`` turns keys into ids without tokens."""
        outputs = list(outputs)
        self.outputs.update(outputs)
        order = self._order(outputs)
        if readable:
            self.ids = _readable(order, self.result)
        else:
            self.ids = {key: key for key in order}
        return (self._function(key) for key in order)

    def _order(self, outputs: list[Any]) -> list[Any]:
        """Return the keys that the outputs need, in topological order; in any order if there is a cycle."""
        order: list[Any] = []
        seen: set[Any] = set()
        missing: list[tuple[Any, Any]] = []
        missing.extend((None, key) for key in outputs if key not in self.graph)
        stack = [(key, False) for key in reversed(outputs) if key in self.graph]
        while stack:
            key, expanded = stack.pop()
            if expanded:
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
            raise MissingFunctionError(
                self.dag_id,
                self._missing_texts(missing),
                [(self._name(key), need) for key, need in missing],
            )
        return order

    def _missing_texts(self, missing: list[tuple[Any, Any]]) -> list[str]:
        """Describe missing keys, each with the key that needs it, or None if it is requested itself."""
        texts = []
        if persisted := [need for _, need in missing if need in self.persisted]:
            texts.append(
                f"persisted results, such as {persisted[0]!r}, cannot be converted: compute them, or convert"
                " the collection before persist()"
            )
        for key, need in missing:
            if need in self.persisted:
                continue
            if key is None:
                texts.append(f"output {need!r} is not a key of the graph")
                continue
            dependent = "the result" if key is self.result else f"task {key!r}"
            texts.append(
                f"{dependent} needs {need!r}, which is missing from the graph: if it is a future or"
                " persisted data on a cluster, pass its value instead"
            )
        return texts

    def _name(self, key: Any) -> Any:
        return key if key is None or key is not self.result else _RESULT

    def _needs(self, key: Any) -> list[Any]:
        """Return the keys of the functions whose results a task takes, in the order of its arguments."""
        found: dict[Any, None] = {}
        stack: list[Any] = [self.graph[key]]
        while stack:
            part = stack.pop()
            if isinstance(part, (TaskRef, Alias)):
                target, _ = self._resolve(part)
                if target is not None:
                    found[target.key] = None
            elif isinstance(part, Task):
                stack.extend(reversed([*part.args, *part.kwargs.values()]))
        return list(found)

    def _resolve(self, part: Any) -> tuple[TaskRef | None, Any]:
        """Follow a reference through aliases.

        Returns
        -------
        target : TaskRef or None
            None if the reference leads to a small literal.
        value : object
            The literal; None if there is a target.
        """
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
            target, value = self._resolve(task)
            if target is None:
                return Function(id, literal, extra_args=[value])
            return Function(id, alias, args=[self.ids[target.key]])
        if not isinstance(task, Task) or type(task) not in _TASKS:
            raise InvalidFunctionError(
                self.dag_id,
                [
                    f"task {key!r} is a {type(task).__name__}, which Dask can run only under its own key;"
                    " for shuffles and rechunking use a method other than p2p:"
                    ' dask.config.set({"dataframe.shuffle.method": "tasks", "array.rechunk.method": "tasks"})'
                ],
                [key],
            )
        return self._call(id, key, task, self._fields(key, task))

    def _call(self, id: Hashable, key: Any, task: Task, fields: dict[str, Any]) -> Function:
        """Convert a task that calls code. Without an adapter if the results are its first arguments."""
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
        code = self._adapter(nested.code)
        return Function(id, code, args=[self.ids[n] for n in slots], extra_args=[args, kwargs], **fields)

    def _adapter(self, code: Callable[..., Any]) -> Call:
        # One object for all functions with this code, so that it is pickled once.
        call = self._calls.get(id(code))
        if call is None:
            call = self._calls[id(code)] = Call(code)
        return call

    def _part(self, part: Any, slots: Mapping[Any, int]) -> Any:
        """Convert an argument of a task to a value without Dask's classes: a literal, a Slot or a Nested."""
        if isinstance(part, (TaskRef, Alias)):
            target, value = self._resolve(part)
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
        """Return cost, node, retries and priority. Annotations take precedence over ``cost`` and ``node``."""
        is_result = key is self.result and self.result is not None
        annotations = {n: _choose(v, key, task, is_result) for n, v in self.ambient.items()}
        annotations.update(self.annotations.get(key, {}))
        cost = _choose(self.cost, key, task, is_result)
        resources = annotations.get("resources")
        if isinstance(resources, Mapping):
            cost = {**(cost or {}), **resources}
        node = _choose(self.node, key, task, is_result)
        if annotations.get("workers") is not None and not annotations.get("allow_other_workers"):
            node = annotations["workers"]
        fields = {"cost": cost, "node": node, "max_retries": annotations.get("retries")}
        if annotations.get("priority") is not None:
            fields["priority"] = annotations["priority"]
        return fields


#: Types of task that can be converted. Subclasses may do more than their base class.
_TASKS = (Task, List, Tuple, Set, Dict)


def _choose(chooser: Chooser, key: Any, task: Any, is_result: bool) -> Any:
    """Return a chooser's value for a task. Callables are skipped for the result, which has no Dask key."""
    if callable(chooser):
        return None if is_result else chooser(key, task)
    return chooser


def _ignore_task(annotation: Any) -> Chooser:
    """Return an annotation as a Chooser: Dask calls annotations with the key alone."""
    return (lambda key, task: annotation(key)) if callable(annotation) else annotation


def _target(part: TaskRef | Alias) -> Any:
    return part.target if isinstance(part, Alias) else part.key


def _is_small(value: Any) -> bool:
    return type(value) in _SMALL or (type(value) in (str, bytes) and len(value) <= _SHORT)


def _is_plain(parts: Iterable[Any]) -> bool:
    return not any(type(part) in (Slot, Nested) for part in parts)


def _readable(order: list[Any], result: Any) -> dict[Any, Hashable]:
    """Return readable ids: key → key without its token, numbered if the name is already taken.

    ``"inc-6c4c…"`` → ``"inc"``, the next one ``"inc-2"``; ``("add-30da…", 0, 1)`` → ``("add", 0, 1)``. A key
    without a token was chosen by the user and stays as it is.
    """
    heads = {key: key[0] if isinstance(key, tuple) and key else key for key in order if key is not result}
    generated = {h: h[: m.start()] for h in heads.values() if isinstance(h, str) and (m := _TOKEN.search(h))}
    taken: set[Any] = {h for h in heads.values() if h not in generated}
    count: dict[str, int] = {}
    names: dict[Any, Any] = {}
    for head, name in generated.items():
        names[head] = _unused(name, taken, count)
    ids: dict[Any, Hashable] = {}
    for key, head in heads.items():
        name = names.get(head, head)
        ids[key] = (name, *key[1:]) if isinstance(key, tuple) and key else name
    if result is not None:
        ids[result] = _unused(_RESULT, taken, count)
    return ids


def _unused(name: str, taken: set[Any], count: dict[str, int]) -> str:
    """Return ``name``, with the first suffix ``-2``, ``-3``, … that makes it unique if it is taken."""
    unused = name
    while unused in taken:
        count[name] = count.get(name, 1) + 1
        unused = f"{name}-{count[name]}"
    taken.add(unused)
    return unused
