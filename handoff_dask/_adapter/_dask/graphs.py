"""Tasks of Dask graphs: the classes of ``dask._task_spec``, which is private, and what is asked of them.

A graph of ours is made of :class:`Task` and :class:`TaskRef`; a graph of Dask's, of any age, is read with the
others. There is no public way to tell what a graph calls: the former tuples are on their way out. From: Dask
2025.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask._task_spec import (
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
    convert_legacy_graph,
)

__all__ = [
    "Alias",
    "DataNode",
    "Dict",
    "GraphNode",
    "List",
    "NestedContainer",
    "Set",
    "Task",
    "TaskRef",
    "Tuple",
    "convert_graph",
    "is_given",
]


def convert_graph(graph: Mapping[Any, Any]) -> dict[Any, GraphNode]:
    """A graph whose tasks may be tuples, as one of :class:`GraphNode`.

    Reaches: ``dask._task_spec.convert_legacy_graph``.
    Why: Dask itself does this wherever a graph comes from users.
    From: Dask 2025.7.
    """
    converted: dict[Any, GraphNode] = convert_legacy_graph(graph)
    return converted


def is_given(value: Any) -> bool:
    """Whether the value of an annotation was given, rather than taken back by an inner ``annotate``.

    Reaches: the name of the class ``dask._expr._AnnotationsTombstone``, which stands for one that was taken
    back.
    Why: layers have their annotations in public, but this mark among them.
    From: Dask 2025.7.
    """
    return type(value).__name__ != "_AnnotationsTombstone"
