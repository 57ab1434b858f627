"""The DAG: functions by id, and queries on their graph."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from handoff_dask._error_texts import count
from handoff_dask._model.annotations import warn_if_annotated
from handoff_dask._model.function import Collocated, Function, FunctionFields, expand_arguments
from handoff_dask._model.hooks import module_for
from handoff_dask._model.safe_repr import safe_repr
from handoff_dask._model.validation import find_problems
from handoff_dask._suggest import check_keywords, suggestion, tuples_of
from handoff_dask.exceptions import DuplicateFunctionError, InvalidDAGError, InvalidFunctionError

if TYPE_CHECKING:
    import networkx

C = TypeVar("C", bound=Callable[..., Any])


class DAG:
    """A directed acyclic graph of functions.

    A DAG may be empty: executing it gives empty results, and logs a warning, since it is usually a mistake.

    Parameters
    ----------
    id : hashable, optional
        Name of the DAG in results and records; generated if not given. Runs never mix, even if they share a
        DAG or their DAGs share an id.
    cost : mapping of str to number, optional
        Cost of the functions that have none of their own. A function with ``cost={}`` has no cost. It does
        not apply to inline and input functions, serializers and deserializers.

    Raises
    ------
    InvalidDAGError
        The id is not hashable.

    Examples
    --------
    >>> dag = DAG("example")
    >>> @dag.function
    ... def source():
    ...     return 42
    >>> @dag.function(cost={"cpu": 2})
    ... def double(source):
    ...     return 2 * source
    >>> dag.validate()
    >>> list(dag), dag.sinks
    (['source', 'double'], ('double',))
    """

    def __init__(self, id: Hashable = None, *, cost: Mapping[str, Any] | None = None) -> None:
        self.cost = cost
        self.id: Hashable = id if id is not None else f"dag-{uuid.uuid4().hex[:12]}"
        try:
            hash(self.id)
        except TypeError:
            raise InvalidDAGError(id, ["its id is not hashable"]) from None
        self._functions: dict[Hashable, Function] = {}
        self._by_name: set[Hashable] = set()  # functions whose dependencies are found by parameter names
        self._valid_size = -1
        self._order: tuple[Hashable, ...] = ()

    # ------------------------------------------------------------------ from Dask
    # Implemented in the adapter: the model does not import Dask.

    @classmethod
    def from_delayed(cls, obj: Any, *, id: Hashable = None, cost: Any = None, node: Any = None) -> DAG:
        """Convert a Dask collection to a DAG.

        Parameters
        ----------
        obj : Dask collection, or list, tuple, set or dict with at least one
            A ``dask.delayed`` object, or a Dask array, bag or dataframe.
        id : hashable, optional
            Id of the DAG; generated if not given.
        cost : mapping of str to number, or callable, optional
            Cost of every function; or ``callable(key, task)``, which returns the cost of one function given
            its Dask key and its ``dask._task_spec.Task``.
        node : str, int, list of these, or callable, optional
            Pin of every function; or ``callable(key, task)``, which returns the pin of one function.

        Returns
        -------
        DAG
            Its only sink returns what ``dask.compute(obj)`` computes. The sink is the task of ``obj`` itself
            if there is one, else a function ``"result"``, for which ``cost`` and ``node`` are not called. The
            other ids are Dask keys without their hashes: ``"load"``, ``"load-2"``, ``("sum", 0, 1)``.

        Raises
        ------
        TypeError
            ``obj`` contains no Dask collection.
        MissingFunctionError
            The collection depends on futures or persisted data of a cluster.
        InvalidFunctionError
            A task works only under its own key in Dask, such as the tasks of a p2p shuffle.

        Notes
        -----
        ``dask.annotate`` is respected: ``resources`` are added to the cost, name by name; ``workers`` become
        a pin unless ``allow_other_workers`` is set; ``retries`` and ``priority`` are passed to the function.
        The graph is neither optimised nor fused, because that loses annotations; call ``dask.optimize(obj)``
        first if you want it. Data in the graph and aliases of requested tasks become functions too, without
        a cost or pin.

        Examples
        --------
        >>> import dask
        >>> double = dask.delayed(lambda x: 2 * x, name="double")
        >>> dag = DAG.from_delayed(double(20, dask_key_name="forty"), cost={"cpu": 2})
        >>> dag.sinks, dag["forty"].cost
        (('forty',), {'cpu': 2})
        """
        dag = cls(id)
        for function in module_for("from_dask").functions_of_collection(obj, dag.id, cost, node):
            dag._add(function)
        return dag

    @classmethod
    def from_graph(
        cls,
        graph: Mapping[Any, Any],
        outputs: Any,
        *,
        id: Hashable = None,
        cost: Any = None,
        node: Any = None,
    ) -> DAG:
        """Convert a low-level Dask graph to a DAG of the tasks that some of its keys need.

        Parameters
        ----------
        graph : mapping of key to task
            Values are tasks (tuples or ``dask._task_spec.Task``), keys, or data. Or a ``HighLevelGraph``.
        outputs : key or list of keys
            The requested keys; lists may be nested. Tasks that no requested key needs are left out.
        id, cost, node
            As for :meth:`from_delayed`. The annotations of a ``HighLevelGraph`` are respected, too.

        Returns
        -------
        DAG
            Its ids are the graph's keys.

        Raises
        ------
        TypeError
            The graph is not a mapping.
        MissingFunctionError
            An output, or a key that a task refers to, is not in the graph.
        InvalidFunctionError
            As for :meth:`from_delayed`.

        Examples
        --------
        >>> dag = DAG.from_graph({"x": 1, "y": (max, "x", 5), "z": (sum, ["x", "y"])}, "z")
        >>> list(dag), dag["z"].dependencies
        (['y', 'z'], ('y',))
        """
        dag = cls(id)
        for function in module_for("from_dask").functions_of_graph(graph, outputs, dag.id, cost, node):
            dag._add(function)
        return dag

    # ------------------------------------------------------------------ building

    def add_function(self, function: Function) -> DAG:
        """Add a function, and a serializer and deserializer for each of its :class:`Argument` s.

        Returns
        -------
        DAG
            The DAG itself, so that calls can be chained.

        Raises
        ------
        DuplicateFunctionError
            The DAG already has a function with this id.
        InvalidFunctionError
            It is not a :class:`Function`, or its id or that of an :class:`Argument` is not hashable.
        """
        warn_if_annotated()
        self._add(function)
        return self

    def _add(self, function: Function) -> None:
        """Add a function, like :meth:`add_function`, even within a ``dask.annotate`` block."""
        if not isinstance(function, Function):
            raise InvalidFunctionError(self.id, [f"add_function takes a Function, not {function!r}"])
        if self.cost is not None and function.cost is None and function.type == "regular":
            function = replace(function, cost=self.cost)
        function, synthetic = expand_arguments(function)
        added = [*synthetic, function] if synthetic else (function,)
        for f in added:
            try:
                known = f.id in self._functions
            except TypeError:
                raise InvalidFunctionError(self.id, [f"function id {f.id!r} is not hashable"]) from None
            if known:
                text = f"there is already a function {f.id!r}; give another id, or start with a new DAG"
                raise DuplicateFunctionError(self.id, [text], [f.id])
        for f in added:
            self._functions[f.id] = f

    @overload
    def function(self, code: C, /) -> C: ...

    @overload
    def function(
        self, code: None = None, /, id: Hashable = None, **fields: Unpack[FunctionFields]
    ) -> Callable[[C], C]: ...

    def function(self, code: Callable[..., Any] | None = None, /, id: Hashable = None, **fields: Any) -> Any:
        """Add the decorated Python function to the DAG. The function itself stays unchanged and callable.

        Parameters
        ----------
        id : hashable, optional
            Defaults to the name of the Python function.
        **fields
            Any other field of :class:`Function`, which describes them in full:

            - ``args``: ids of the functions whose results are the first positional arguments. If not given,
              each parameter with the name of a function in the DAG becomes a dependency, unless ``kwargs``
              or ``extra_kwargs`` contains it.
            - ``extra_args``: values passed after the results of ``args``.
            - ``kwargs``: parameter name → id of the function whose result is passed.
            - ``extra_kwargs``: parameter name → value.
            - ``cost``: resource → amount, such as ``{"cpu": 2, "memory": "4GB", "gpu": 1}``.
            - ``node``: names of the only nodes that may run it, or ``Collocated(id)``.
            - ``type``: ``"regular"``, or ``"inline"`` to evaluate it inside each function that depends on it.
            - ``argument_inclusion``: ``"as_list"`` passes the results of ``args`` as one list.
            - ``max_retries``: maximum number of retries after the first attempt.
            - ``retry``: a :class:`RetryPolicy`.
            - ``timeout``: seconds that one attempt may take.
            - ``priority``: functions with a higher priority start first.
            - ``isolation``: ``"process"`` runs each attempt in a process of its own.

        Raises
        ------
        TypeError
            :class:`Function` has no such field, or the cost is not passed by keyword.
        InvalidFunctionError
            The code has no name, and no ``id`` is given.
        DuplicateFunctionError
            The DAG has a function of this id.
        """
        if isinstance(code, Mapping):
            raise TypeError(
                f"DAG.function() takes the cost by keyword: @dag.function(cost={safe_repr(code)})"
            )
        check_keywords("DAG.function", fields, Function.__dataclass_fields__.keys() - {"code"})
        warn_if_annotated()

        def add(code: C) -> C:
            given = dict(fields)
            by_name = "args" not in given
            if by_name:
                given["args"], named = self._dependencies_by_name(code, given)
                given["kwargs"] = {**named, **given.get("kwargs", {})}
            name = getattr(code, "__name__", None) if id is None else id
            if name is None:
                raise InvalidFunctionError(self.id, [f"{code!r} has no name to use as its id: pass id=..."])
            self._add(Function(id=name, code=code, **given))
            if by_name:
                self._by_name.add(name)
            return code

        return add if code is None else add(code)

    def _dependencies_by_name(
        self, code: Callable[..., Any], given: Mapping[str, Any]
    ) -> tuple[list[str], dict[str, str]]:
        taken = {*given.get("kwargs", ()), *given.get("extra_kwargs", ())}
        args: list[str] = []
        kwargs: dict[str, str] = {}
        leading = True
        try:
            parameters = inspect.signature(code).parameters.values()
        except ValueError:  # some builtins have no signature
            return [], {}
        for p in parameters:
            named = p.name in self._functions and p.name not in taken
            if leading and named and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
                args.append(p.name)
            elif named and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                kwargs[p.name] = p.name
                leading = False
            else:
                leading = False
        return args, kwargs

    def subset(self, targets: Hashable | Iterable[Hashable]) -> DAG:
        """Return a DAG of ``targets`` and everything they need.

        It contains all transitive dependencies, and every function with which a contained one is collocated.

        Parameters
        ----------
        targets : id or list of ids
            A collection, such as a tuple, is a single id if the DAG has a function with that id.

        Raises
        ------
        KeyError
            A target is not in the DAG.
        """
        try:
            single = targets in self._functions
        except TypeError:
            single = False
        if single or isinstance(targets, (str, bytes)) or not isinstance(targets, Iterable):
            stack = [targets]
        else:
            stack = list(targets)
        for target in stack:
            if target not in self._functions:
                raise KeyError(self._no_function(target))
        wanted: set[Hashable] = set()
        while stack:
            id = stack.pop()
            if id in wanted or id not in self._functions:
                continue
            wanted.add(id)
            f = self._functions[id]
            stack.extend(f.dependencies)
            if isinstance(f.node, Collocated):
                stack.append(f.node.id)
        return self._part({id: f for id, f in self._functions.items() if id in wanted})

    def copy(self) -> DAG:
        """Return a DAG of the same functions, to which functions can be added independently."""
        same = self._part(dict(self._functions))
        same._valid_size, same._order = self._valid_size, self._order
        return same

    def _part(self, functions: dict[Hashable, Function]) -> DAG:
        part = DAG(self.id, cost=self.cost)
        part._functions = functions
        part._by_name = self._by_name & functions.keys()
        return part

    # ------------------------------------------------------------------ checking

    def validate(self) -> None:
        """Check everything that can be checked without running a function.

        Raises
        ------
        InvalidDAGError
            Its ``problems`` lists every problem found. Its type is the subclass of the first kind found, in
            the order :class:`MissingFunctionError`, :class:`CyclicDependencyError`,
            :class:`InvalidCostError`, :class:`InvalidCollocationError`, :class:`InvalidFunctionError`.
        """
        if self._valid_size == len(self._functions):
            return  # functions are immutable and only ever added
        error, order = find_problems(self.id, self._functions, by_name=self._by_name)
        if error is not None:
            raise error
        self._order = order
        self._valid_size = len(self._functions)

    def _validate_to_run(self) -> None:
        """Validate the DAG and reject input functions."""
        self.validate()
        if inputs := [id for id, f in self._functions.items() if f.type == "input"]:
            texts = [
                f"function {id!r} is an input function, which has a value only in a stream" for id in inputs
            ]
            raise InvalidFunctionError(self.id, texts, inputs)

    def _topological_order(self) -> tuple[Hashable, ...]:
        if len(self._order) != len(self._functions):
            error, order = find_problems(self.id, self._functions, graph_only=True)
            if error is not None and len(order) < len(self._functions):
                raise error  # a cycle: the order is incomplete
            self._order = order
        return self._order

    # ------------------------------------------------------------------ queries

    @property
    def functions(self) -> Mapping[Hashable, Function]:
        """All functions by id, in the order they were added. Read-only."""
        return MappingProxyType(self._functions)

    @property
    def sources(self) -> tuple[Hashable, ...]:
        """Ids of the functions without dependencies."""
        return tuple(id for id, f in self._functions.items() if not f.dependencies)

    @property
    def sinks(self) -> tuple[Hashable, ...]:
        """Ids of the functions on which no other function depends."""
        needed = {d for f in self._functions.values() for d in f.dependencies}
        return tuple(id for id in self._functions if id not in needed)

    def _inputs_among(self, ids: Container[Hashable]) -> dict[Hashable, tuple[Hashable, ...]]:
        """Return for each id the members of ``ids`` that it depends on, directly or through non-members."""
        found: dict[Hashable, tuple[Hashable, ...]] = {}
        for id in self:
            near: dict[Hashable, None] = {}
            for d in self._functions[id].dependencies:
                near.update(dict.fromkeys((d,) if d in ids else found.get(d, ())))
            found[id] = tuple(near)
        return found

    def _no_function(self, id: object) -> str:
        """Return the text of an error about an id that is not in the DAG."""
        hint = tuples_of(id, self._functions) or suggestion(id, self._functions)
        return f"DAG {self.id!r} has no function {id!r}{hint}"

    def __getitem__(self, id: Hashable) -> Function:
        try:
            return self._functions[id]
        except KeyError:
            raise KeyError(self._no_function(id)) from None

    def __contains__(self, id: object) -> bool:
        return id in self._functions

    def __len__(self) -> int:
        return len(self._functions)

    def __iter__(self) -> Iterator[Hashable]:
        """Iterate over the ids in topological order: every function after its dependencies.

        Raises
        ------
        InvalidDAGError
            Functions depend on each other in a cycle.
        """
        return iter(self._topological_order())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<DAG {self.id!r}: {count(len(self), 'function')}>"

    # ------------------------------------------------------------------ presentation
    # Implemented in the display layer.

    def _repr_html_(self) -> str:
        text: str = module_for("html").dag(self)
        return text

    def to_mermaid(self, *, color: str | None = None, records: Any = None, collapse: int | None = 10) -> str:
        """Return the graph as a Mermaid flowchart, for Markdown.

        Parameters
        ----------
        color, records, collapse
            As for :meth:`visualize`, except that ``color`` defaults to None, which leaves the colours to the
            page. A box that stands for functions of several colours has the most frequent one.

        Raises
        ------
        CyclicDependencyError
            A graph with a cycle cannot be drawn.
        TypeError, ValueError
            As for :meth:`visualize`.
        """
        text: str = module_for("graph").to_mermaid(self, color=color, records=records, collapse=collapse)
        return text

    def to_networkx(self) -> networkx.DiGraph:
        """Return a ``networkx.DiGraph``, with each :class:`Function` as the node attribute ``function``.

        Raises
        ------
        ImportError
            networkx is not installed. The message names the extra that installs it.
        """
        return module_for("graph").to_networkx(self)

    def visualize(
        self,
        filename: str | os.PathLike[str] | None = None,
        *,
        rankdir: str = "TB",
        color: str | None = "cost",
        records: Any = None,
        collapse: int | None = 10,
    ) -> Any:
        """Draw the graph with graphviz.

        Each box shows a function's id, its cost and its pin or collocation; boxes of inline functions are
        dashed. A legend explains the colours, and each box repeats in words what its colour means.

        Parameters
        ----------
        filename : str or path-like, optional
            File to write. Its suffix determines the format (``.svg``, ``.png``, ``.pdf``).
        rankdir : {"TB", "LR", "BT", "RL"}
            Direction of the drawing.
        color : {"cost", "node", "status", "duration"} or None
            Meaning of the colours. ``"cost"``: the resource of which the function asks for the largest share
            of the DAG's total. ``"node"``: the node of the last attempt, or, without ``records``, the node to
            which the function or its collocation group is pinned. ``"status"``: the status of its record.
            ``"duration"``: the duration of its last attempt. None: no colours.
        records : mapping of id to FunctionRecord, optional
            ``result.records``, ``run.records`` or ``schedule.records``; or the result, run or schedule
            itself. Required for ``"status"`` and ``"duration"``.
        collapse : int or None
            Draw similar functions as one box, such as ``load × 500``, if there are at least this many.
            Similar functions have the same code, cost, pin and type, depend on similar functions, and have
            similar dependents. None draws every function separately.

        Returns
        -------
        graphviz.Digraph
            A notebook displays it as a drawing.

        Raises
        ------
        ImportError
            graphviz is not installed. The message names the extra that installs it, and the program ``dot``.
        graphviz.ExecutableNotFound
            Graphviz' program ``dot`` is not on the PATH. Without a ``filename``, this is raised when the
            drawing is displayed.
        CyclicDependencyError
            A graph with a cycle cannot be drawn.
        TypeError
            ``records`` does not contain records.
        ValueError
            Another argument is not one of the listed values, or ``records`` is required but missing.
        """
        return module_for("graph").visualize(
            self, filename, rankdir=rankdir, color=color, records=records, collapse=collapse
        )
