"""HTML of the sections of the dashboard page.

Text in a snapshot is untrusted. It is escaped here, where it becomes HTML, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from handoff_dask._display.labels import (
    WAITING_FOR_NODE,
    capacity_text,
    duration_text,
    memory_text,
    state_label,
    used_text,
)
from handoff_dask._display.palette import (
    BAD,
    DIM,
    LINE,
    OTHERS,
    STATES,
    TEXT,
    USED,
    category_colours,
    css_fill,
    css_hatch,
)
from handoff_dask._display.progress import eta_text
from handoff_dask._display.text import amount_text
from handoff_dask._error_texts import count

if TYPE_CHECKING:
    from handoff_dask._adapter.run_details import CodeView, RunDetails
    from handoff_dask._adapter.snapshot import AmountView, FailureView, NodeView, RunView, Snapshot
    from handoff_dask._adapter.usage_by_code import UsageView
    from handoff_dask._adapter.waiting import WaitingView

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
.bar { display: flex; height: 10px; min-width: 90px; position: relative; }
.bar { border: 1px solid var(--dim); border-radius: 3px; overflow: hidden; }
.bar i { display: block; height: 100%; }
.bar b { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--text); }
.bar b { outline: 1px solid white; }
.codes { display: grid; grid-template-columns: minmax(8em, auto) minmax(90px, 3fr) minmax(14em, 2fr); }
.codes { gap: 3px 12px; align-items: center; max-width: 75em; }
.codes > span { overflow-wrap: anywhere; }
.key { font-size: 12px; color: var(--dim); }
.key span { white-space: nowrap; margin-right: 8px; }
.key i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 3px; }
.use th { white-space: normal; vertical-align: bottom; }
.chip { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px; }
.nodes { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 8px 18px; }
.node { border: 1px solid var(--line); border-radius: 5px; padding: 6px 9px; }
.node b { overflow-wrap: anywhere; }
.amount { display: grid; grid-template-columns: 4.8em 1fr; gap: 0 6px; margin-top: 2px; }
.amount { align-items: center; font-size: 13px; }
.amount i, .key .used { background: USED; }
.amount > span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.amount > .n { grid-column: 2; font-size: 12px; white-space: normal; }
.amount .bar { min-width: 0; }
.bad { color: var(--bad); }
.chosen { font-weight: 600; }
a { color: inherit; }
p { margin: 4px 0; }
@media (max-width: 700px) {
  th { display: none; }
  tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--line); }
  td, td.n { display: block; border: 0; padding: 1px 0; max-width: none; }
  td, td.n { text-align: left; white-space: normal; }
  td.label::before { content: attr(title) ": "; color: var(--dim); font-size: 12px; }
  td:empty { display: none; }
  .codes { grid-template-columns: 1fr; gap: 0; }
  .codes > .n { margin-bottom: 6px; }
}
""".replace("USED", USED)


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


def run_link(run_id: str, text: str) -> str:
    """Return a link to the page with the details of a run. The text is escaped."""
    return f"<a href='?run={quote(run_id, safe='')}'>{escape(text)}</a>"


#: What the column ``share`` means.
SHARE = (
    "Share: the largest fraction of any one resource of the cluster that the run holds (its dominant share)."
    " Of runs with the same priority, the one with the smallest share goes first."
)


def runs_html(snapshot: Snapshot, chosen: str | None) -> str:
    """Return the section of unfinished and recently ended runs. ``chosen`` is the run shown in detail."""

    def row(run: RunView) -> list[str]:
        priority, share = run["priority"], run["share"]
        error = "" if run["error"] is None else f"<div class='bad pre'>{escape(run['error'])}</div>"
        mark = "dim chosen" if run["id"] == chosen else "dim"
        return [
            f"{escape(run['dag'])}<div class='{mark}'>{run_link(run['id'], run['id'])}</div>",
            escape(run["status"]),
            progress(run["counts"]) + error,
            "" if priority is None else f"{priority:g}",
            "" if share is None else f"{100 * share:.0f} %",
            duration_text(run["elapsed"]),
            eta_text(run["eta"], run["known"]).removesuffix(" left"),
        ]

    live = sum(run["share"] is not None for run in snapshot["runs"])
    head = [
        ("id", "DAG, run"),
        ("short", "status"),
        ("long", "functions"),
        ("n", "priority"),
        ("n", "share"),
        ("n", "elapsed"),
        ("n", "time left"),
    ]
    if not snapshot["runs"]:
        return section("Runs", "", "<p class='dim'>No runs yet.</p>")
    body = table(head, map(row, snapshot["runs"])) + f"<p class='key'>{SHARE}</p>"
    return section(
        "Runs", f"{shown_of(live, snapshot['runs_there'])} active, then the most recently ended", body
    )


def code_colours(details: RunDetails) -> dict[str, str]:
    """Return code → colour, in the progress bars and the timeline alike."""
    return category_colours(view["code"] for view in details["codes"])


def run_html(details: RunDetails | None, chosen: str | None) -> str:
    """Return the section with the progress of one run by code."""
    if details is None:
        nothing = "No runs yet." if chosen is None else f"The scheduler does not know run {chosen}."
        return section("Progress by code", "", f"<p class='dim'>{escape(nothing)}</p>")
    colours = code_colours(details)
    rows = "".join(_code(view, colours.get(view["code"], OTHERS)) for view in details["codes"])
    more = details["codes_there"] - len(details["codes"])
    rest = f"<p class='dim'>and {more:,d} more codes</p>" if more else ""
    sampled = ", estimated from a sample" if details["sampled"] else ""
    note = f"{details['dag']} ({details['run']}), {details['status']}{sampled}"
    return section("Progress by code", note, f"<div class='codes'>{rows}</div>{rest}")


def _code(view: CodeView, colour: str) -> str:
    counts = view["counts"]
    total = max(1, sum(counts.values()))
    present = {state: counts[state] for state in STATES if counts.get(state)}
    drawn = {
        "finished": f"background:{colour}",
        "running": css_hatch("running"),
        "failed": css_hatch("failed"),
    }
    parts = "".join(
        f"<i style='width:{100 * n / total:.2f}%;{drawn[state]}'></i>"
        for state, n in present.items()
        if state in drawn
    )
    finished = f"{counts.get('finished', 0):,d} of {total:,d} finished"
    others = [f"{n:,d} {state_label(state)}" for state, n in present.items() if state != "finished"]
    return (
        f"<span>{escape(view['code'])}</span><div class='bar'>{parts}</div>"
        f"<span class='key n'>{', '.join([finished, *others])}</span>"
    )


#: The columns for each measured resource, by its name on the page.
_USE = [
    ("n", f"{name} {what}")
    for name in ("memory", "cores")
    for what in ("asked", "median", "most", "exceeded")
]

#: What the section of use by code shows.
_USE_KEY = (
    "Peak memory, and mean number of cores, of the attempts that finished or failed; ~ marks estimates."
    " Exceeded: attempts that used more than they asked for."
)


def usage_html(details: RunDetails | None) -> str:
    """Return the section of what the codes of one run asked for and used; empty if nothing was measured."""
    if details is None or not any(view["used"] for view in details["codes"]):
        return ""
    colours = code_colours(details)

    def row(view: CodeView) -> list[str]:
        used = {use["resource"]: use for use in view["used"]}
        colour = colours.get(view["code"], OTHERS)
        return [
            f"<span class='chip' style='background:{colour}'></span>{escape(view['code'])}",
            f"{max(use['attempts'] for use in view['used']):,d}",
            *_use(used.get("memory")),
            *_use(used.get("cpu")),
        ]

    head = [("id", "code"), ("n", "attempts"), *_USE]
    body = table(head, (row(view) for view in details["codes"] if view["used"]))
    partial = ", still counting" if details["usage_partial"] else ""
    note = f"{details['dag']} ({details['run']}){partial}"
    return section("Use by code", note, f"<div class='use'>{body}</div><p class='key'>{_USE_KEY}</p>")


def _use(use: UsageView | None) -> list[str]:
    """Return the cells for one resource."""
    if use is None:
        return ["", "", "", ""]
    memory = use["resource"] == "memory"
    median, most = (
        memory_text(used, use["exact"]) if memory else amount_text(round(used, 1))
        for used in (use["median"], use["most"])
    )
    if use["asked"] is None:
        return ["", median, most, ""]
    least, highest = use["asked"]
    asked = capacity_text(use["resource"], highest)
    if least != highest:
        asked = f"{capacity_text('', least)} to {asked}"
    exceeded = f"{use['exceeded']:,d}"
    return [asked, median, most, f"<span class='bad'>{exceeded}</span>" if use["exceeded"] else exceeded]


def nodes_html(nodes: list[NodeView], total: int) -> str:
    """Return the section of nodes, with a bar per resource."""
    if not nodes:
        return section("Nodes", shown_of(0, total), "<p class='dim'>No nodes yet.</p>")
    key = (
        "<p class='key'><span><i class='used'></i>used: booked by functions and Dask's own tasks</span>"
        " <span>| measured: what the node's process really takes</span></p>"
    )
    body = f"<div class='nodes'>{''.join(map(_node, nodes))}</div>"
    return section("Nodes", shown_of(len(nodes), total), key + body)


def _node(node: NodeView) -> str:
    note = f"{node['running']:,d} running" if node["accepting"] else "not accepting functions"
    amounts = "".join(_amount(amount, node["measured"]) for amount in node["amounts"])
    return f"<div class='node'><b>{escape(node['name'])}</b> <span class='dim'>{note}</span>{amounts}</div>"


def _amount(amount: AmountView, measured: dict[str, float]) -> str:
    """Return the bar of one resource: its filled part is booked, a mark shows the measured use."""
    resource, used, capacity = amount["resource"], amount["used"], amount["capacity"]
    name, booked = escape(resource), used_text(resource, used, capacity)
    real = measured.get(resource)
    mark, text = "", booked
    if real is not None:
        # Dask measures one device of a node, as a fraction.
        share = real if resource == "gpu" else real / capacity if capacity else 0.0
        mark = f"<b style='left:calc({100 * max(0.0, min(1.0, share)):.0f}% - 1px)'></b>"
        text = f"{booked}, {_measured_text(resource, real, measured)} measured"
    width = 100 * min(1.0, used / capacity) if capacity else 0.0
    return (
        f"<div class='amount'><span title='{name}'>{name}</span>"
        f"<div class='bar'><i style='width:{width:.0f}%'></i>{mark}</div><span class='n'>{text}</span></div>"
    )


def _measured_text(resource: str, real: float, measured: dict[str, float]) -> str:
    if resource == "memory":
        return f"{real:,.0f}"
    if resource != "gpu":
        return amount_text(round(real, 1))
    memory, total = measured.get("gpu_memory"), measured.get("gpu_memory_total")
    text = f"{100 * real:.0f} % busy"
    if memory is not None:
        text += f" and {memory:,.0f}{'' if total is None else f' of {total:,.0f}'} MB"
    return text


def waiting_html(snapshot: Snapshot) -> str:
    """Return the section of functions that wait for a node, grouped by what they wait for."""

    def row(group: WaitingView) -> list[str]:
        first, _, rest = group["why"].partition("\n")
        details = f"<div class='dim pre'>{escape(rest)}</div>" if rest else ""
        return [
            escape(group["reason"]),
            f"{group['queued']:,d}",
            f"{escape(group['function'])}<div class='dim'>{run_link(group['run'], group['dag'])}</div>",
            escape(first) + details,
        ]

    waiting = snapshot["waiting"]
    note = count(snapshot["functions_waiting"], "function")
    if (left_out := snapshot["queues_there"] - snapshot["queues_grouped"]) > 0:
        note += f"; left out: {count(left_out, 'less urgent kind')} of functions"
    head = [
        ("id", "waiting for"),
        ("n", "functions"),
        ("id", "most urgent function"),
        ("long", "why it waits"),
    ]
    nothing = f"<p class='dim'>No function is {WAITING_FOR_NODE}.</p>"
    body = table(head, map(row, waiting)) if waiting else nothing
    return section(WAITING_FOR_NODE.capitalize(), note, body)


def failures_html(failures: list[FailureView]) -> str:
    """Return the section of recently failed attempts."""

    def row(failure: FailureView) -> list[str]:
        when = datetime.fromtimestamp(failure["when"], UTC)
        return [
            f"<span title='{when:%Y-%m-%d}'>{when:%H:%M:%S}</span>",
            f"{escape(failure['function'])}<div class='dim'>{run_link(failure['run'], failure['dag'])}</div>",
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


def timeline_heading(details: RunDetails | None) -> str:
    """Return the heading of the timeline, with a legend of its colours and patterns."""
    if details is None:
        return section("Timeline", "", "<p class='dim'>No attempts.</p>")
    note = f"{details['dag']} ({details['run']})"
    if details["every"] > 1:
        note += f", 1 in {details['every']:,d} functions, plus the latest failed or lost ones"
    colours = code_colours(details)
    codes = dict.fromkeys(bar["code"] for bar in details["bars"] if bar["outcome"] == "finished")
    entries = [(f"background:{colour}", code) for code, colour in colours.items() if code in codes]
    if codes.keys() - colours.keys():
        entries.append((f"background:{OTHERS}", "other codes"))
    outcomes = dict.fromkeys(bar["outcome"] for bar in details["bars"])
    entries += [(css_hatch(outcome), outcome) for outcome in outcomes if outcome != "finished"]
    key = "".join(f"<span><i style='{background}'></i>{escape(text)}</span>" for background, text in entries)
    return section("Timeline", note, f"<div class='key'>{key}</div>")
