"""HTML of the sections of the dashboard page.

Text in a snapshot is untrusted. It is escaped here, where it becomes HTML, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from handoff_dask._display.labels import duration_text, state_label
from handoff_dask._display.palette import BAD, DIM, LINE, STATES, TEXT, USED, css_fill

if TYPE_CHECKING:
    from handoff_dask._adapter.snapshot import (
        FailureView,
        NodeView,
        RunView,
        Snapshot,
        TimelineView,
        WaitingView,
    )

#: Maximum number of failures shown. The snapshot has more, which would make the page very long.
MAX_FAILURES = 10

CSS = f"""
:host {{ width: 100%; --text: {TEXT}; --dim: {DIM}; --bad: {BAD}; --line: {LINE}; }}"""
CSS += """
.bk-clearfix { display: block; width: 100%; }
section { margin: 0 12px 14px; color: var(--text); }
section { font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h2 { font-size: 15px; margin: 0 0 6px; }
h2 small, .dim { color: var(--dim); font-weight: normal; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--dim); font-size: 12px; white-space: nowrap; }
th, td { padding: 3px 12px 3px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; }
td.id { max-width: 22em; overflow-wrap: anywhere; min-width: 9em; }
td.long { overflow-wrap: anywhere; min-width: 16em; }
.pre { white-space: pre-wrap; }
.bar { display: flex; height: 12px; min-width: 90px; }
.bar { background: var(--line); border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; }
.key { font-size: 12px; color: var(--dim); }
.key span { white-space: nowrap; margin-right: 8px; }
.key i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 3px; }
.nodes { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 8px 18px; }
.node { border: 1px solid var(--line); border-radius: 5px; padding: 6px 9px; }
.node b { overflow-wrap: anywhere; }
.amount { display: grid; grid-template-columns: 4.8em minmax(40px, 1fr) auto; gap: 6px; }
.amount { align-items: center; font-size: 13px; }
.amount > span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.amount .n { text-align: right; font-size: 12px; }
.amount .bar { min-width: 0; }
.bad { color: var(--bad); }
@media (max-width: 700px) {
  th { display: none; }
  tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--line); }
  td, td.n { display: block; border: 0; padding: 1px 0; max-width: none; }
  td, td.n { text-align: left; white-space: normal; }
  td.label::before { content: attr(title) ": "; color: var(--dim); font-size: 12px; }
  td:empty { display: none; }
}
"""


def section(title: str, note: str, body: str) -> str:
    """Return a section of the page. ``body`` is HTML; title and note are escaped."""
    return f"<section><h2>{escape(title)} <small>{escape(note)}</small></h2>{body}</section>"


def table(head: Iterable[tuple[str, str]], rows: Iterable[Iterable[str]]) -> str:
    """Return a table. ``head`` has a CSS class and a title per column; cells are HTML.

    In a narrow window each row becomes a block, in which the column titles precede the short cells.
    """
    head = list(head)
    titles = "".join(f"<th class='{kind}'>{escape(title)}</th>" for kind, title in head)
    body = "".join(
        "<tr>" + "".join(cell(*column, html) for column, html in zip(head, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><tr>{titles}</tr>{body}</table></div>"


def cell(kind: str, title: str, html: str) -> str:
    """Return a cell of a table."""
    kinds = f"{kind} label" if kind in ("n", "short") else kind
    return f"<td class='{kinds}' title='{escape(title)}'>{html}</td>"


def shown_of(shown: int, total: int) -> str:
    """Return the total, preceded by the number of items shown if that is smaller."""
    return f"{total:,d}" if total <= shown else f"{shown:,d} of {total:,d}"


def progress(counts: dict[str, int]) -> str:
    """Return a bar of a run's functions by state, and a legend with their numbers."""
    total = max(1, sum(counts.values()))
    present = [(state, counts[state]) for state in STATES if counts.get(state)]
    parts = "".join(f"<i style='width:{100 * n / total:.2f}%;{css_fill(state)}'></i>" for state, n in present)
    key = "".join(
        f"<span><i style='{css_fill(state)}'></i>{n:,d} {state_label(state)}</span>" for state, n in present
    )
    return f"<div class='bar'>{parts}</div><div class='key'>{key}</div>"


def runs_html(snapshot: Snapshot) -> str:
    """Return the section of unfinished and recently ended runs."""

    def row(run: RunView) -> list[str]:
        priority, share = run["priority"], run["share"]
        error = "" if run["error"] is None else f"<div class='bad pre'>{escape(run['error'])}</div>"
        return [
            f"{escape(run['dag'])}<div class='dim'>{escape(run['id'])}</div>",
            escape(run["status"]),
            progress(run["counts"]) + error,
            "" if priority is None else f"{priority:g}",
            "" if share is None else f"{100 * share:.0f} %",
            duration_text(run["elapsed"]),
        ]

    live = sum(run["share"] is not None for run in snapshot["runs"])
    head = [
        ("id", "DAG, run"),
        ("short", "status"),
        ("long", "functions"),
        ("n", "priority"),
        ("n", "dominant share"),
        ("n", "elapsed"),
    ]
    body = table(head, map(row, snapshot["runs"])) if snapshot["runs"] else "<p class='dim'>No runs yet.</p>"
    return section(
        "Runs", f"{shown_of(live, snapshot['runs_there'])} active, then the most recently ended", body
    )


def nodes_html(nodes: list[NodeView], total: int) -> str:
    """Return the section of nodes, with a bar per resource."""

    def box(node: NodeView) -> str:
        amounts = ""
        for amount in node["amounts"]:
            used, capacity = amount["used"], amount["capacity"]
            share = min(1.0, used / capacity) if capacity else 0.0
            name = escape(amount["resource"])
            bar = f"<i style='width:{100 * share:.1f}%;background:{USED}'></i>"
            free = round(max(0, capacity - used), 5)
            amounts += (
                f"<div class='amount' title='{name}: {used:,g} of {capacity:,g} in use'><span>{name}</span>"
                f"<div class='bar'>{bar}</div><span class='n'>{free:,g} of {capacity:,g} free</span></div>"
            )
        note = f"{node['running']:,d} running" if node["accepting"] else "not accepting functions"
        return (
            f"<div class='node'><b>{escape(node['name'])}</b> <span class='dim'>{note}</span>{amounts}</div>"
        )

    nothing = "<p class='dim'>No nodes yet.</p>"
    body = f"<div class='nodes'>{''.join(map(box, nodes))}</div>" if nodes else nothing
    return section("Nodes", shown_of(len(nodes), total), body)


def waiting_html(snapshot: Snapshot) -> str:
    """Return the section of functions that wait for a node, with the reasons."""

    def row(group: WaitingView) -> list[str]:
        first, _, rest = group["why"].partition("\n")
        details = f"<div class='dim pre'>{escape(rest)}</div>" if rest else ""
        return [
            f"{escape(group['function'])}<div class='dim'>{escape(group['dag'])}</div>",
            f"{group['queued']:,d}",
            escape(first) + details,
        ]

    waiting = snapshot["waiting"]
    note = (
        f"{snapshot['functions_waiting']:,d} functions; groups with the same cost and constraints:"
        f" {shown_of(len(waiting), snapshot['queues_there'])}"
    )
    head = [("id", "most urgent function"), ("n", "group size"), ("long", "reason")]
    nothing = "<p class='dim'>No function is waiting for a node.</p>"
    body = table(head, map(row, waiting)) if waiting else nothing
    return section("Waiting for a node", note, body)


def failures_html(failures: list[FailureView]) -> str:
    """Return the section of recently failed attempts."""

    def row(failure: FailureView) -> list[str]:
        when = datetime.fromtimestamp(failure["when"], UTC)
        return [
            f"<span title='{when:%Y-%m-%d}'>{when:%H:%M:%S}</span>",
            f"{escape(failure['function'])}<div class='dim'>{escape(failure['dag'])}</div>",
            f"{failure['attempt']}",
            escape(failure["node"] or ""),
            f"<span class='bad'>{escape(failure['error'])}</span>",
        ]

    head = [
        ("short", "when (UTC)"),
        ("id", "function"),
        ("n", "attempt"),
        ("short", "node"),
        ("long", "error"),
    ]
    shown = failures[:MAX_FAILURES]
    body = table(head, map(row, shown)) if shown else "<p class='dim'>No failures.</p>"
    return section("Recent failures", f"latest {len(shown)}" if shown else "", body)


def timeline_heading(timeline: TimelineView | None) -> str:
    """Return the heading of the timeline, with a legend of its colours."""
    if timeline is None:
        return section("Timeline", "", "<p class='dim'>No run yet.</p>")
    note = f"{timeline['dag']} ({timeline['run']})"
    if timeline["every"] > 1:
        note += f", 1 in {timeline['every']:,d} functions, plus the latest failed or lost ones"
    outcomes = dict.fromkeys(bar["outcome"] for bar in timeline["bars"])
    key = "".join(f"<span><i style='{css_fill(o)}'></i>{escape(o)}</span>" for o in outcomes)
    return section("Timeline", note, f"<div class='key'>{key}</div>")
