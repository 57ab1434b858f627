"""Cases that users of plain Dask report as slow: makespans over the ideal, next to plain Dask.

    python benchmarks/reports.py [CASES...] [--repeats 3] [--json FILE] [--markdown] [--strict]

Functions sleep, so the ideal is known: no schedule is shorter. The columns are makespans divided by the ideal
(medians). The sides alternate, each run has a fresh cluster, and each is checked as in ``workflows.py``.
``simulator`` is the decisions of handoff_dask alone, with durations learnt during the run; the rest of the
real makespan is overhead. The exit status is 1 if a run or a check failed or, with ``--strict``, if a median
is above 1.05 times the ideal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks import find_violations
from common import Table, machine_line, silence_dask_logs
from engines import ENGINES
from traces import Nodes, Trace, TraceFunction

#: Highest acceptable makespan over the ideal.
MAX_RATIO = 1.05

SIDES = {"plain Dask": "plain", "handoff_dask": "handoff", "simulator": "learner"}


@dataclass(frozen=True)
class Case:
    """Functions, nodes, and the makespan in seconds of the best schedule."""

    name: str
    about: str
    ideal: float
    nodes: Nodes
    trace: Trace


def parallel(
    kind: str, n: int, seconds: float, cost: dict[str, float], *deps: str
) -> dict[str, TraceFunction]:
    return {f"{kind}-{i}": TraceFunction(deps, seconds, cost) for i in range(n)}


def chain(kind: str, n: int, seconds: float, cost: dict[str, float]) -> dict[str, TraceFunction]:
    return {f"{kind}-{i}": TraceFunction((f"{kind}-{i - 1}",) if i else (), seconds, cost) for i in range(n)}


def in_both_orders(
    name: str,
    about: str,
    ideal: float,
    nodes: Nodes,
    first: dict[str, TraceFunction],
    then: dict[str, TraceFunction],
) -> Iterator[Case]:
    """Yield the case with its parts added in both orders, which should make no difference."""
    for order, parts in (("first", {**first, **then}), ("last", {**then, **first})):
        yield Case(f"{name} {order}", about, ideal, nodes, Trace(f"{name} {order}", parts))


def cases() -> list[Case]:
    two_gpus = {"node1": {"cpu": 4, "gpu": 1}, "node2": {"cpu": 4, "gpu": 1}}
    memory = {"large": {"cpu": 8, "memory": 64}, "small": {"cpu": 8, "memory": 8}}
    two_fours = {"node1": {"cpu": 4}, "node2": {"cpu": 4}}
    uneven = {"large": {"cpu": 8}, "small": {"cpu": 2}}
    seats = {"node": {"threads": 4, "A": 1, "B": 1}}
    one_gpu = {"gpu": {"cpu": 4, "gpu": 1}, "cpu": {"cpu": 8}}
    source = {"source-0": TraceFunction((), 0.0, {"cpu": 1})}
    slow_source = {"source-0": TraceFunction((), 0.1, {"cpu": 1})}
    both = parallel("both", 1, 0.5, {"A": 1, "B": 1})
    either = {**parallel("a", 4, 0.5, {"A": 1}), **parallel("b", 4, 0.5, {"B": 1})}
    fanned = parallel("train", 20, 0.2, {"gpu": 1}, "source-0")
    trained = parallel("train", 8, 0.2, {"cpu": 4, "gpu": 1}, "source-0")
    return [
        *in_both_orders(
            "gpu fan-out, source", "20 of gpu 1, two nodes of gpu 1", 2.0, two_gpus, source, fanned
        ),
        Case(
            "memory",
            "72 of memory 8, nodes of memory 64 and 8",
            1.6,
            memory,
            Trace("memory", parallel("load", 72, 0.2, {"memory": 8})),
        ),
        *in_both_orders(
            "chain",
            "chain of 8 and 64 of cpu 1, two nodes of cpu 4",
            1.8,
            two_fours,
            chain("step", 8, 0.2, {"cpu": 1}),
            parallel("fill", 64, 0.2, {"cpu": 1}),
        ),
        Case(
            "uneven nodes",
            "40 of cpu 2, nodes of cpu 8 and 2",
            1.6,
            uneven,
            Trace("uneven nodes", parallel("work", 40, 0.2, {"cpu": 2})),
        ),
        *in_both_orders(
            "two resources, both", "1 of A and B, 4 of A, 4 of B, a node of each", 2.5, seats, both, either
        ),
        *in_both_orders(
            "gpu after source, source",
            "40 of cpu 1; after 0.1 s 8 of cpu 4, gpu 1; nodes of cpu 4, gpu 1 and of cpu 8",
            1.7,
            one_gpu,
            {**slow_source, **trained},
            parallel("fill", 40, 0.2, {"cpu": 1}),
        ),
    ]


@dataclass(frozen=True)
class Row:
    """A case with its makespans over the ideal by side, and the problems of its runs."""

    case: Case
    ratios: dict[str, list[float]]
    problems: list[str]
    others: float

    def median(self, side: str) -> float | None:
        """Return the median ratio; None if every run failed."""
        ratios = self.ratios[side]
        return statistics.median(ratios) if ratios else None


def measure(case: Case, sides: Sequence[str], repeats: int) -> Row:
    ratios: dict[str, list[float]] = {side: [] for side in sides}
    problems: list[str] = []
    others = 0.0
    for turn in range(repeats):
        for side in sides if turn % 2 else reversed(sides):
            try:
                outcome = ENGINES[SIDES[side]](case.trace, case.nodes, 10 * case.ideal + 30)
            except Exception as error:
                problems.append(f"{side}: {type(error).__name__}: {error}")
                continue
            ratios[side].append(outcome.makespan / case.ideal)
            others = max(others, outcome.others or 0.0)
            wrong = find_violations(case.trace, case.nodes, outcome.log, outcome.makespan, case.ideal)
            problems += [f"{side}: {text}" for text in wrong]
    return Row(case, ratios, problems, others)


def format_ratio(value: float | None, side: str) -> str:
    if value is None:
        return "failed"
    return f"{value:.3f}" + ("*" if side != "plain Dask" and value > MAX_RATIO else " ")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help="only cases whose names start with one of these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every ratio to this file")
    parser.add_argument("--strict", action="store_true", help=f"fail if a median is above {MAX_RATIO}")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    chosen = [c for c in cases() if not options.cases or c.name.startswith(tuple(options.cases))]
    if not chosen:
        parser.error(f"no case of that name (known: {', '.join(c.name for c in cases())})")

    silence_dask_logs()
    machine = machine_line()
    print(machine)
    print(f"makespan over the ideal, medians of {options.repeats}; * above {MAX_RATIO}\n")
    headings = ["case", "functions and nodes", "ideal", *SIDES, "others"]
    table = Table(headings, [-31, -78, 6, *[12] * len(SIDES), 6], options.markdown)
    rows = []
    for case in chosen:
        row = measure(case, list(SIDES), options.repeats)
        rows.append(row)
        cells = [format_ratio(row.median(side), side) for side in SIDES]
        table.row(case.name, case.about, f"{case.ideal:.1f} s", *cells, f"{row.others:.1f}")
    print("\nothers: the most cores that other processes used during a run of the case")
    problems = [f"{row.case.name}: {text}" for row in rows for text in row.problems]
    for text in problems:
        print(text, file=sys.stderr)
    if options.json:
        content = {row.case.name: {"ideal": row.case.ideal, "ratios": row.ratios} for row in rows}
        options.json.write_text(json.dumps({"machine": machine, "cases": content}, indent=1) + "\n")
    missed = [row for row in rows if (row.median("handoff_dask") or 0.0) > MAX_RATIO]
    return 1 if problems or (options.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
