"""Makespans of the scheduling core on a virtual clock, in one checkout or in two side by side.

    python benchmarks/makespans.py [--instances FOLDER] [--against CHECKOUT] [--scale 20] [--seeds 5]
        [--strategies best_fit,load_balanced,first_available] [--json FILE] [--markdown] [--strict]

Workflow traces from the folder, made-up ones of ``synthetic.py`` and the cases of ``reports.py``, with
durations that the scheduler knows and that it learns. Printed are makespans over the lower bound (over the
ideal for cases of reports), and geometric means; ``*`` marks what is worse than before by more than 3 %, or
by more than 1 % in the mean. Everything is deterministic. Exit status 1: a schedule was wrong; with
``--strict`` also when there is a ``*``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import reports
import synthetic
from checks import complaints
from common import CHECKOUT, Table, geometric_mean, in_checkout, machine_line
from engines import run_simulator
from traces import Nodes, Trace, fit, lower_bound, scale, trace_of
from workflows import CLUSTERS, find_traces, names_from

STRATEGIES = ("best_fit", "load_balanced", "first_available")

#: Whether the scheduler knows durations beforehand, by the word for it.
KNOWN = {"known": True, "learnt": False}

#: Makespans may be longer than before by this factor: a single one, and their mean.
WORSE, WORSE_MEAN = 1.03, 1.01


class Key(NamedTuple):
    """What is simulated: a strategy, whether it knows durations, on which nodes, a trace and its source."""

    strategy: str
    durations: str
    nodes: str
    source: str
    trace: str


class Instance(NamedTuple):
    """A trace scaled to its nodes, where both are from, and the seconds that no schedule can beat."""

    trace: Trace
    source: str
    cluster: str
    nodes: Nodes
    bound: float


def instances(folder: Path, seeds: int, target: float) -> Iterator[Instance]:
    """Every trace on every cluster, then the cases of users, each on nodes of its own."""
    made_up = [trace_of(synthetic.generate(4 + 2 * seed, 10 + 5 * seed, seed)) for seed in range(seeds)]
    for source, traces in {"file": find_traces([folder]), "made up": made_up}.items():
        for cluster, nodes in CLUSTERS.items():
            for trace in traces:
                scaled = scale(fit(trace, nodes), nodes, target)
                yield Instance(scaled, source, cluster, nodes, lower_bound(scaled, nodes)[0])
    for case in reports.cases():
        yield Instance(case.trace, "case", "its own", case.nodes, case.ideal)


def simulate_all(
    folder: Path, seeds: int, target: float, strategies: Sequence[str]
) -> Iterator[tuple[Key, float, list[str]]]:
    """What was simulated, makespan over bound, and what is wrong with the schedule."""
    every = list(instances(folder, seeds, target))
    for strategy in strategies:
        for durations, known in KNOWN.items():
            for trace, source, cluster, nodes, bound in every:
                outcome = run_simulator(trace, nodes, 0.0, known=known, strategy=strategy)
                problems = complaints(trace, nodes, outcome.log, outcome.makespan, bound)
                key = Key(strategy, durations, cluster, source, trace.name)
                yield key, outcome.makespan / bound, problems


def report(sides: Mapping[str, Mapping[Key, float]], markdown: bool) -> bool:
    """Print the table; whether anything is marked as worse."""
    compared = len(sides) > 1
    headings = [*Key._fields, *sides, *(["ratio"] if compared else [])]
    table = Table(headings, [-15, -9, -8, -8, -33, *[8] * len(sides), *[7] * compared], markdown)
    first = next(iter(sides.values()))
    marked = False

    def row(key: Key, values: Sequence[float], allowed: float) -> None:
        nonlocal marked
        worse = values[-1] / values[0]
        marked |= worse > allowed
        ratio = [f"{worse:.3f}" + ("*" if worse > allowed else " ")] if compared else []
        table.row(*key, *(f"{value:.3f}" for value in values), *ratio)

    for group in dict.fromkeys(key[:4] for key in first):
        keys = [key for key in first if key[:4] == group]
        for key in keys:
            row(key, [side[key] for side in sides.values()], WORSE)
        means = [geometric_mean(side[key] for key in keys) for side in sides.values()]
        row(Key(*group, "mean"), means, WORSE_MEAN)
    return marked


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=Path, default=CHECKOUT / "benchmarks" / "data")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare this checkout with that")
    parser.add_argument("--scale", type=float, default=20, help="lower bound in seconds (default 20)")
    parser.add_argument("--seeds", type=int, default=5, help="made-up workflows (default 5)")
    parser.add_argument("--strategies", type=names_from(dict.fromkeys(STRATEGIES)), default=list(STRATEGIES))
    parser.add_argument("--json", type=Path, help="write every ratio to this file")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--strict", action="store_true", help="fail when anything is worse than allowed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        found = simulate_all(options.instances, options.seeds, options.scale, options.strategies)
        print(json.dumps(list(found)))
        return 0
    machine = machine_line()
    print(f"{machine}\n\nmakespan over lower bound on the virtual clock\n")
    measure = partial(in_checkout, script=Path(__file__), timeout=900, arguments=child_arguments(options))
    checkouts = {"before": options.against, "after": CHECKOUT} if options.against else {"now": CHECKOUT}
    answers: dict[str, Any] = {side: measure(checkout) for side, checkout in checkouts.items()}
    sides = {side: {Key(*key): ratio for key, ratio, _ in rows} for side, rows in answers.items()}
    marked = report(sides, options.markdown)
    problems = [
        f"{side}: {', '.join(key)}: {text}"
        for side, rows in answers.items()
        for key, _, texts in rows
        for text in texts
    ]
    for text in problems:
        print(text, file=sys.stderr)
    if options.json:
        content = {side: [[*key, ratio] for key, ratio in rows.items()] for side, rows in sides.items()}
        options.json.write_text(json.dumps({"machine": machine, "makespans": content}, indent=1) + "\n")
    return int(bool(problems) or (options.strict and marked))


def child_arguments(options: argparse.Namespace) -> list[str]:
    """What the process for one checkout is told."""
    return [
        "--child",
        f"--instances={options.instances}",
        f"--seeds={options.seeds}",
        f"--scale={options.scale}",
        f"--strategies={','.join(options.strategies)}",
    ]


if __name__ == "__main__":
    sys.exit(main())
