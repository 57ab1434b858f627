"""Tasks in Dask graphs: the classes of the private module ``dask._task_spec``, and functions that use them.

Compiled graphs consist of :class:`Task` and :class:`TaskRef`. The other classes are needed to read the graphs
of Dask collections. Dask has no public classes for tasks, and is phasing out the tuples that preceded these.
From: Dask 2025.7.
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
    "is_annotation_set",
]


def convert_graph(graph: Mapping[Any, Any]) -> dict[Any, GraphNode]:
    """Return a graph whose tasks may be legacy tuples as a graph of :class:`GraphNode` objects.

    Reaches: ``dask._task_spec.convert_legacy_graph``.
    Why: Dask has no public function for this, and itself calls this one on every graph from a user.
    From: Dask 2025.7.
    """
    converted: dict[Any, GraphNode] = convert_legacy_graph(graph)
    return converted


def is_annotation_set(value: Any) -> bool:
    """Return whether an annotation has a value, and was not removed by an inner ``dask.annotate``.

    Reaches: the name of the class ``dask._expr._AnnotationsTombstone``, which marks a removed annotation.
    Why: the annotations of a layer are public, but contain such marks.
    From: Dask 2025.7.
    """
    return type(value).__name__ != "_AnnotationsTombstone"
