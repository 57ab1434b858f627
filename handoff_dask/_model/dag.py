"""The DAG: functions by id, and the questions one asks of their graph."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from handoff_dask._model.function import Collocated, Function, expand_arguments
from handoff_dask._model.hooks import module_for
from handoff_dask._model.validation import find_problems
from handoff_dask.exceptions import DuplicateFunctionError, InvalidDAGError, InvalidFunctionError

if TYPE_CHECKING:
    import networkx

C = TypeVar("C", bound=Callable[..., Any])


class DAG:
    """A directed acyclic graph of functions.

    Parameters
    ----------
    id : hashable, optional
        Names the DAG in results and records; generated when not given. Two runs of one DAG, or of two DAGs
        with the same id, never mix.

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

    def __init__(self, id: Hashable = None) -> None:
        self.id: Hashable = id if id is not None else f"dag-{uuid.uuid4().hex[:12]}"
        try:
            hash(self.id)
        except TypeError:
            raise InvalidDAGError(id, ["its id is not hashable"]) from None
        self._functions: dict[Hashable, Function] = {}
        self._valid_size = -1
        self._order: tuple[Hashable, ...] = ()

    # ------------------------------------------------------------------ from Dask
    # Dask is known to the adapter only.

    @classmethod
    def from_delayed(cls, obj: Any, *, id: Hashable = None, cost: Any = None, node: Any = None) -> DAG:
        """A DAG of what a Dask collection would compute.

        Parameters
        ----------
        obj : Dask collection, or list, tuple, set or dict with some
            What ``dask.delayed`` makes, a Dask array, bag or dataframe.
        id : hashable, optional
            Id of the DAG; generated when not given.
        cost : mapping of str to number, or callable, optional
            Cost of all functions; or ``callable(key, task)``, which gives that of one, from its Dask key and
            its ``dask._task_spec.Task``.
        node : str, int, list of these, or callable, optional
            Where all functions are pinned to; or ``callable(key, task)``.

        Returns
        -------
        DAG
            Its only sink gives what ``dask.compute(obj)`` would give. That is the task of ``obj`` itself if
            there is one; otherwise a function ``"result"``, for which ``cost`` and ``node`` are not called.
            Other ids are Dask keys without their hashes: ``"load"``, ``"load-2"``, ``("sum", 0, 1)``.

        Raises
        ------
        TypeError
            There is no Dask collection in it.
        MissingFunctionError
            It needs futures or persisted data of a cluster.
        InvalidFunctionError
            It has a task that works only by its own key in Dask, such as those of a p2p shuffle.

        Notes
        -----
        ``dask.annotate`` is respected: ``resources`` are added to the cost, name by name, ``workers`` are a
        pin unless others are allowed, ``retries`` and ``priority`` are the function's. Nothing is optimised
        or fused, since that loses annotations: ``dask.optimize(obj)`` does it beforehand. Data in the graph,
        and another name for a task where it is wanted, are functions too, without cost or pin.

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
            dag.add_function(function)
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
        """A DAG of what some keys of a low-level Dask graph need.

        Parameters
        ----------
        graph : mapping of key to task
            Tasks as tuples or as ``dask._task_spec.Task``, keys, data; or a ``HighLevelGraph``.
        outputs : key or list of keys
            What is wanted of it; lists may be nested. Everything these do not need is left out.
        id, cost, node
            As for :meth:`from_delayed`, and so are annotations of a ``HighLevelGraph``.

        Returns
        -------
        DAG
            Its ids are the keys of the graph.

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
            dag.add_function(function)
        return dag

    # ------------------------------------------------------------------ building

    def add_function(self, function: Function) -> DAG:
        """Add a function, and the serialize/deserialize pair of each of its :class:`Argument` s.

        Returns
        -------
        DAG
            This one, so that calls can be chained.

        Raises
        ------
        DuplicateFunctionError
            The DAG has a function of this id.
        InvalidFunctionError
            Not a :class:`Function`, or its id or that of an :class:`Argument` is not hashable.
        """
        if not isinstance(function, Function):
            raise InvalidFunctionError(self.id, [f"add_function takes a Function, not {function!r}"])
        function, synthetic = expand_arguments(function)
        added = [*synthetic, function]
        for f in added:
            try:
                hash(f.id)
            except TypeError:
                raise InvalidFunctionError(self.id, [f"function id {f.id!r} is not hashable"]) from None
        for f in added:
            if f.id in self._functions:
                raise DuplicateFunctionError(self.id, [f"there is already a function {f.id!r}"], [f.id])
        for f in added:
            self._functions[f.id] = f
        return self

    @overload
    def function(self, code: C, /) -> C: ...

    @overload
    def function(self, code: None = None, /, id: Hashable = None, **fields: Any) -> Callable[[C], C]: ...

    def function(self, code: Callable[..., Any] | None = None, /, id: Hashable = None, **fields: Any) -> Any:
        """Decorate a Python function to add it to the DAG; it stays callable as before.

        Parameters
        ----------
        id : hashable, optional
            The function's name when not given.
        **fields
            Any other field of :class:`Function`. When ``args`` is not given, parameters named like functions
            already in the DAG become dependencies, unless ``kwargs`` or ``extra_kwargs`` has them.

        Raises
        ------
        InvalidFunctionError
            No ``id`` is given and the code has no name.
        DuplicateFunctionError
            The DAG has a function of this id.
        """

        def add(code: C) -> C:
            given = dict(fields)
            if "args" not in given:
                given["args"], by_name = self._dependencies_by_name(code, given)
                given["kwargs"] = {**by_name, **given.get("kwargs", {})}
            name = getattr(code, "__name__", None) if id is None else id
            if name is None:
                raise InvalidFunctionError(self.id, [f"{code!r} has no name to be its id: give one, id=..."])
            self.add_function(Function(id=name, code=code, **given))
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
        except ValueError:  # some builtins have none
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
        """A DAG of ``targets`` and everything they need: dependencies and functions collocated with.

        Parameters
        ----------
        targets : id or list of ids
            A collection (a tuple, say) is taken for one id when the DAG has a function of that id.

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
                raise KeyError(f"DAG {self.id!r} has no function {target!r}")
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
        part = DAG(self.id)
        part._functions = {id: f for id, f in self._functions.items() if id in wanted}
        return part

    # ------------------------------------------------------------------ checking

    def validate(self) -> None:
        """Check everything that can be checked without running anything.

        Raises
        ------
        InvalidDAGError
            Or the subclass that names the first kind of problem, in this order:
            :class:`MissingFunctionError`, :class:`CyclicDependencyError`, :class:`InvalidCostError`,
            :class:`InvalidCollocationError`, :class:`InvalidFunctionError`. Its ``problems`` has all.
        """
        if self._valid_size == len(self._functions):
            return  # functions are immutable and only ever added
        error, order = find_problems(self.id, self._functions)
        if error is not None:
            raise error
        self._order = order
        self._valid_size = len(self._functions)

    def _validate_to_run(self) -> None:
        """Validate, and refuse input functions."""
        self.validate()
        if inputs := [id for id, f in self._functions.items() if f.type == "input"]:
            texts = [
                f"function {id!r} is an input function: it has a value only in a stream" for id in inputs
            ]
            raise InvalidFunctionError(self.id, texts, inputs)

    def _topological_order(self) -> tuple[Hashable, ...]:
        if len(self._order) != len(self._functions):
            error, order = find_problems(self.id, self._functions, graph_only=True)
            if error is not None and len(order) < len(self._functions):
                raise error  # there are cycles; an order of the others would hide it
            self._order = order
        return self._order

    # ------------------------------------------------------------------ asking

    @property
    def functions(self) -> Mapping[Hashable, Function]:
        """All functions by id, in the order they were added. Read-only."""
        return MappingProxyType(self._functions)

    @property
    def sources(self) -> tuple[Hashable, ...]:
        """Ids of the functions that depend on none."""
        return tuple(id for id, f in self._functions.items() if not f.dependencies)

    @property
    def sinks(self) -> tuple[Hashable, ...]:
        """Ids of the functions that none depends on."""
        needed = {d for f in self._functions.values() for d in f.dependencies}
        return tuple(id for id in self._functions if id not in needed)

    def _inputs_among(self, ids: Container[Hashable]) -> dict[Hashable, tuple[Hashable, ...]]:
        """Id → which of ``ids`` it waits for; others that it depends on are looked through."""
        found: dict[Hashable, tuple[Hashable, ...]] = {}
        for id in self:
            near: dict[Hashable, None] = {}
            for d in self._functions[id].dependencies:
                near.update(dict.fromkeys((d,) if d in ids else found.get(d, ())))
            found[id] = tuple(near)
        return found

    def __getitem__(self, id: Hashable) -> Function:
        return self._functions[id]

    def __contains__(self, id: object) -> bool:
        return id in self._functions

    def __len__(self) -> int:
        return len(self._functions)

    def __iter__(self) -> Iterator[Hashable]:
        """Ids in topological order: every function after those it depends on.

        Raises
        ------
        InvalidDAGError
            There is none, since functions depend on each other in a cycle.
        """
        return iter(self._topological_order())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<DAG {self.id!r}: {len(self)} functions>"

    # ------------------------------------------------------------------ showing
    # Drawing belongs to the presentation layer.

    def _repr_html_(self) -> str:
        text: str = module_for("html").dag(self)
        return text

    def to_mermaid(self, *, color: str | None = None, records: Any = None, collapse: int | None = 10) -> str:
        """The graph as a Mermaid flowchart, for Markdown.

        Parameters
        ----------
        color, records, collapse
            As for :meth:`visualize`; without a colour the page gives its own. A box of several colours has
            that of most of its functions.

        Raises
        ------
        CyclicDependencyError
            There is no order to draw it in.
        TypeError, ValueError
            As :meth:`visualize`.
        """
        text: str = module_for("graph").to_mermaid(self, color=color, records=records, collapse=collapse)
        return text

    def to_networkx(self) -> networkx.DiGraph:
        """The graph as a ``networkx.DiGraph``; a node's attribute ``function`` is the :class:`Function`.

        Raises
        ------
        ImportError
            networkx is not installed; the message names the extra that brings it.
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

        A box says a function's id, its cost, and where it has to run; that of an inline function is dashed.
        A legend says what the colours mean, and each box says it in words, too.

        Parameters
        ----------
        filename : str or path-like, optional
            Where to write; its suffix is the format (``.svg``, ``.png``, ``.pdf``).
        rankdir : {"TB", "LR", "BT", "RL"}
            Direction of the drawing.
        color : {"cost", "node", "status", "duration"} or None
            What colours stand for. ``"cost"``: the resource of whose total in this DAG the function asks the
            largest share. ``"node"``: the node that it ran on last; without ``records``, the node to which it
            is pinned, itself or by what it is collocated with. ``"status"``: that of its record.
            ``"duration"``: the seconds that its last attempt ran. None: no colours.
        records : mapping of id to FunctionRecord, optional
            ``result.records``, ``run.records`` or ``schedule.records``; or the result, run or schedule
            itself. Needed for ``"status"`` and ``"duration"``.
        collapse : int or None
            Functions are one box, such as ``load × 500``, when there are at least so many that are alike: of
            the same code, cost, pin and type, needing like functions and needed by like ones. None draws
            each.

        Returns
        -------
        graphviz.Digraph
            Which a notebook shows.

        Raises
        ------
        ImportError
            graphviz is not installed; the message names the extra that brings it, and the program ``dot``.
        graphviz.ExecutableNotFound
            The program ``dot`` of Graphviz is not on the PATH; without a ``filename``, when it is shown.
        CyclicDependencyError
            There is no order to draw it in.
        TypeError
            ``records`` are not records.
        ValueError
            Another argument is none of these, or ``records`` are needed.
        """
        return module_for("graph").visualize(
            self, filename, rankdir=rankdir, color=color, records=records, collapse=collapse
        )
