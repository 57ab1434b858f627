"""Drawings of a DAG: Mermaid, networkx, graphviz."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, Transfer, code_name
from handoff_dask._model.resources import format_amounts
from handoff_dask._model.shown import plain, shown

if TYPE_CHECKING:
    import networkx


def missing(package: str) -> ImportError:
    """The error for an optional dependency that is not there."""
    return ImportError(f"{package} is needed for this: pip install 'handoff-dask[display]'")


def cost_text(cost: Any) -> str:
    """A cost in short; one that is no cost as it is, since an invalid DAG can be shown too."""
    try:
        return format_amounts({name: float(amount) for name, amount in cost.items()})
    except (AttributeError, TypeError, ValueError, OverflowError):
        return shown(cost)


def label_of(f: Function) -> str:
    """Text of a function in a drawing: id, then cost and pin where it has them."""
    # A serializer's own name says more than its id, which repeats those of its neighbours.
    lines = [f"{f.id[0]}: {code_name(f.code)}" if isinstance(f, Transfer) else str(f.id)]  # type: ignore[index]
    if f.cost:
        lines.append(cost_text(f.cost))
    if isinstance(f.node, Collocated):
        if not isinstance(f, Transfer):
            lines.append(f"beside {f.node.id}")
    elif f.node is not None:
        names = f.node if isinstance(f.node, tuple) else (f.node,)
        lines.append("on " + " or ".join(map(plain, names)))
    return "\n".join(lines)


#: Characters that mean something to Mermaid or to the page around it, as its entities.
_MERMAID = str.maketrans(
    {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;", "\n": "<br>"}
)


def to_mermaid(dag: DAG) -> str:
    """The DAG as a Mermaid flowchart; inline functions are drawn rounded and dashed."""
    number: dict[Hashable, int] = {id: n for n, id in enumerate(dag)}
    lines = ["flowchart TD"]
    for id, n in number.items():
        text = label_of(dag[id]).translate(_MERMAID)
        left, right = ("(", ")") if dag[id].type == "inline" else ("[", "]")
        lines.append(f'    f{n}{left}"{text}"{right}')
    for id, n in number.items():
        lines.extend(f"    f{number[d]} --> f{n}" for d in dict.fromkeys(dag[id].dependencies) if d in number)
    if inline := [f"f{n}" for id, n in number.items() if dag[id].type == "inline"]:
        lines.append(f"    style {','.join(inline)} stroke-dasharray: 4 4")
    return "\n".join(lines) + "\n"


def to_networkx(dag: DAG) -> networkx.DiGraph:
    """The DAG as a ``networkx.DiGraph`` with the attribute ``function`` on its nodes."""
    try:
        import networkx
    except ImportError:
        raise missing("networkx") from None
    graph = networkx.DiGraph(name=str(dag.id))
    for id, f in dag.functions.items():
        graph.add_node(id, function=f)
    for id, f in dag.functions.items():
        graph.add_edges_from((d, id) for d in f.dependencies)
    return graph


def visualize(dag: DAG, filename: str | None, *, rankdir: str) -> Any:
    """Draw the DAG with graphviz and write it to ``filename``, if given."""
    try:
        import graphviz
    except ImportError:
        raise missing("graphviz") from None
    name = graphviz.escape(str(dag.id))
    drawing = graphviz.Digraph(name, graph_attr={"rankdir": rankdir}, node_attr={"shape": "box"})
    number = {id: str(n) for n, id in enumerate(dag)}
    for id, n in number.items():
        style = "rounded,dashed" if dag[id].type == "inline" else "rounded"
        drawing.node(n, graphviz.escape(label_of(dag[id])), style=style)
    for id, n in number.items():
        for d in dict.fromkeys(dag[id].dependencies):
            if d in number:
                drawing.edge(number[d], n)
    if filename is not None:
        stem, suffix = os.path.splitext(filename)
        drawing.render(stem, format=suffix.lstrip(".") or "svg", cleanup=True)
    return drawing
