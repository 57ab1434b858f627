"""A DAG as a Mermaid flowchart, a networkx graph or a Graphviz drawing."""

from __future__ import annotations

import os
import shutil
from html import escape
from typing import TYPE_CHECKING, Any

from handoff_dask._display.colouring import Colouring, colouring
from handoff_dask._display.groups import COLLAPSE, Box, outline
from handoff_dask._model.dag import DAG

if TYPE_CHECKING:
    import networkx

#: Minimum width of a stripe in a box of several colours, as a share of the box.
MIN_STRIPE = 0.04

#: Directions of a drawing, as in Graphviz's ``rankdir``.
DIRECTIONS = ("TB", "LR", "BT", "RL")


def missing(package: str) -> ImportError:
    """Return the error for a missing optional dependency."""
    text = f"{package} is needed for this: pip install 'handoff-dask[display]'"
    if package == "graphviz":
        text += (
            ". Drawing also needs the Graphviz program `dot`, which pip does not install: apt-get install"
            " graphviz, brew install graphviz, or conda install graphviz. to_mermaid() needs neither"
        )
    return ImportError(text)


def missing_program() -> Exception:
    """Return Graphviz's own error, saying that the Python package is installed but the program is not."""
    import graphviz

    error: Exception = graphviz.ExecutableNotFound(["dot"])
    error.args = (
        "drawing needs the Graphviz program `dot`, which is not on the PATH: apt-get install graphviz,"
        " brew install graphviz, or conda install graphviz. (The extra handoff-dask[display] installs only"
        " the Python package graphviz, which calls it.) to_mermaid() needs neither",
    )
    return error


#: Characters that are special in Mermaid or in the surrounding page → Mermaid entities.
_MERMAID = str.maketrans(
    {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;", "\n": "<br>"}
)


def to_mermaid(
    dag: DAG, *, color: str | None = None, records: Any = None, collapse: int | None = COLLAPSE
) -> str:
    """Return the DAG as a Mermaid flowchart; inline functions are rounded and dashed."""
    colours = colouring(dag, color, records)
    boxes, edges = outline(dag, collapse)
    lines = ["flowchart TD"]
    for n, box in enumerate(boxes):
        text = "\n".join(box.lines if colours is None else colours.lines(box)).translate(_MERMAID)
        left, right = ("(", ")") if box.inline else ("[", "]")
        lines.append(f'    f{n}{left}"{text}"{right}')
    lines.extend(f"    f{a} --> f{b}" for a, b in edges)
    if inline := [f"f{n}" for n, box in enumerate(boxes) if box.inline]:
        lines.append(f"    style {','.join(inline)} stroke-dasharray: 4 4")
    if colours is not None:
        number = {category: n for n, category in enumerate(colours.legend)}
        lines.append(f'    subgraph legend["{colours.title.translate(_MERMAID)}"]')
        lines.extend(f'        l{n}["{c.label.translate(_MERMAID)}"]' for c, n in number.items())
        lines.append("    end")
        members: dict[int, list[str]] = {n: [f"l{n}"] for n in number.values()}
        for n, box in enumerate(boxes):
            most = max(colours.shares(box), key=lambda share: share[1])[0]
            members[number[most]].append(f"f{n}")
        for category, n in number.items():
            # Always black text, whatever the page's theme, since the fills are light.
            lines.append(f"    classDef c{n} fill:{category.fill},stroke:{category.edge},color:#000")
            lines.append(f"    class {','.join(members[n])} c{n}")
    return "\n".join(lines) + "\n"


def to_networkx(dag: DAG) -> networkx.DiGraph:
    """Return the DAG as a ``networkx.DiGraph`` whose nodes have the attribute ``function``."""
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


def visualize(
    dag: DAG,
    filename: str | os.PathLike[str] | None,
    *,
    rankdir: str = "TB",
    color: str | None = "cost",
    records: Any = None,
    collapse: int | None = COLLAPSE,
) -> Any:
    """Draw the DAG with Graphviz, and write the drawing to ``filename`` if given."""
    if rankdir not in DIRECTIONS:
        raise ValueError(f"rankdir must be one of {', '.join(map(repr, DIRECTIONS))}, not {rankdir!r}")
    colours = colouring(dag, color, records)
    try:
        import graphviz
    except ImportError:
        raise missing("graphviz") from None
    stem, suffix = os.path.splitext(filename or "")
    if filename is not None:
        if suffix and suffix[1:] not in graphviz.FORMATS:
            raise ValueError(f"Graphviz has no format {suffix}: use .svg, .png or .pdf, for example")
        if shutil.which("dot") is None:
            raise missing_program()

    class Drawing(graphviz.Digraph):
        """A drawing that, in a notebook without the program ``dot``, says what to install."""

        def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
            if shutil.which("dot") is None:
                raise missing_program()
            return super()._repr_mimebundle_(*args, **kwargs)

    drawing = Drawing(
        graphviz.escape(str(dag.id)),
        graph_attr={"rankdir": rankdir, "bgcolor": "white", "fontname": "Helvetica"},
        node_attr={"shape": "box", "fontname": "Helvetica", "fontsize": "11"},
        edge_attr={"color": "#404040", "arrowsize": "0.7"},
    )
    boxes, edges = outline(dag, collapse)
    for n, box in enumerate(boxes):
        lines = box.lines if colours is None else colours.lines(box)
        drawing.node(str(n), graphviz.escape("\n".join(lines)), **_look(colours, box))
    for a, b in edges:
        drawing.edge(str(a), str(b))
    if colours is not None:
        drawing.node("legend", _legend(colours, any(box.inline for box in boxes)), shape="plain")
    if filename is not None:
        drawing.render(stem, format=suffix.lstrip(".") or "svg", cleanup=True)
    return drawing


def _look(colours: Colouring | None, box: Box) -> dict[str, str]:
    """Return the Graphviz attributes of a box: one colour, or stripes in proportion to several colours."""
    styles = [name for name, applies in (("dashed", box.inline), ("bold", len(box.functions) > 1)) if applies]
    shares = [] if colours is None else colours.shares(box)
    if not shares:
        return {"style": ",".join(["rounded", *styles])}
    most = max(shares, key=lambda share: share[1])[0]
    if len(shares) == 1:
        return {
            "style": ",".join(["rounded", "filled", *styles]),
            "fillcolor": most.fill,
            "color": most.edge,
        }
    widths = [(category.fill, max(MIN_STRIPE, share)) for category, share in shares]
    total = sum(width for _, width in widths)
    # Round down: Graphviz rejects a sum above 1, and gives the last stripe the remaining width.
    parts = [f"{fill};{int(9999 * width / total) / 10000:.4f}" for fill, width in widths[:-1]]
    return {
        "style": ",".join(["striped", *styles]),
        "fillcolor": ":".join([*parts, widths[-1][0]]),
        "color": most.edge,
    }


def _legend(colours: Colouring, inline: bool) -> str:
    """Return the legend as a Graphviz HTML label."""
    rows = "".join(
        f'<tr><td bgcolor="{c.fill}" border="1" color="{c.edge}" width="24"> </td>'
        f'<td align="left">{escape(c.label) or " "}</td></tr>'
        for c in colours.legend
    )
    if inline:
        rows += '<tr><td>- - -</td><td align="left">inline: evaluated inside each dependent</td></tr>'
    title = f'<tr><td colspan="2" align="left"><b>{escape(colours.title)}</b></td></tr>'
    return f'<<table border="0" cellborder="0" cellspacing="4">{title}{rows}</table>>'
