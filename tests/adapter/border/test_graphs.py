"""``graphs``: tasks in graphs."""

from __future__ import annotations

from dask._expr import _AnnotationsTombstone
from dask._task_spec import convert_legacy_task

from handoff_dask._adapter._dask import graphs


def add(x):
    return x


def test_convert_graph():
    legacy = {"a": 1, "b": (add, "a"), "c": "b", "d": ["a", (add, "b")], "e": {"x": "a"}}
    converted = graphs.convert_graph(legacy)
    assert isinstance(converted["a"], graphs.DataNode)
    assert converted["a"].value == 1
    task = converted["b"]
    assert isinstance(task, graphs.Task)
    assert (task.key, task.func, task.kwargs) == ("b", add, {}), "tasks have other fields: from_dask"
    assert [(type(a), a.key) for a in task.args] == [(graphs.Alias, "a")]
    assert (type(converted["c"]), converted["c"].target) == (graphs.Alias, "b")
    kinds = {graphs.Task, graphs.List, graphs.Tuple, graphs.Set, graphs.Dict}
    assert {type(converted[key]) for key in "de"} <= {*kinds, graphs.DataNode}, (
        "containers have other classes: from_dask._TASKS"
    )
    assert all(issubclass(kind, graphs.NestedContainer) for kind in kinds - {graphs.Task})
    assert graphs.convert_graph(converted) == converted, (
        "a graph that is already converted is changed: from_dask"
    )
    assert isinstance(convert_legacy_task("t", (add, 1), {"t"}), graphs.GraphNode)


def test_is_annotation_set():
    assert graphs.is_annotation_set(3)
    assert not graphs.is_annotation_set(_AnnotationsTombstone()), (
        "removed annotations are marked by another class: from_dask"
    )
