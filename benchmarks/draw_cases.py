"""Draw what ``reports.py`` measured: makespans over the ideal, plain Dask next to handoff_dask.

    python benchmarks/reports.py --json ratios.json
    python benchmarks/draw_cases.py ratios.json docs/images/cases.svg

Each pair of bars is a case; cases that differ only in the order of definition ("first", "last") are averaged.
The colours follow the reader's light or dark mode.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

#: Titles of the cases, in the order of the drawing.
TITLES = {
    "memory": "memory: two sizes of nodes",
    "chain": "a chain beside short functions",
    "two resources": "two resources, one node each",
    "gpu after source": "GPUs needed later",
    "gpu fan-out": "20 functions on two GPU nodes",
    "uneven nodes": "nodes of 8 and 2 cores",
}

LEFT, WIDTH, ROW, BAR = 235, 760, 46, 15

STYLE = """
text { font: 13px sans-serif; fill: #1f2328 }
.small { font-size: 12px } .title { font-size: 15px; font-weight: bold }
.plain { fill: #8c959f } .ours { fill: #0072b2 } .ideal { stroke: #1f2328; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .plain { fill: #6e7681 } .ours { fill: #56b4e9 } .ideal { stroke: #e6edf3 }
}
"""


def read_medians(path: Path) -> dict[str, dict[str, float]]:
    """Return case, without its order → side → median ratio."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, case in json.loads(path.read_text())["cases"].items():
        base = re.sub(r",? (source |both )?(first|last)$", "", name)
        for side, ratios in case["ratios"].items():
            found.setdefault(base, {}).setdefault(side, []).append(statistics.median(ratios))
    return {name: {side: statistics.mean(v) for side, v in sides.items()} for name, sides in found.items()}


def draw(medians: Mapping[str, Mapping[str, float]]) -> str:
    """Return the drawing as SVG."""
    most = max(ratio for sides in medians.values() for ratio in sides.values())
    scale = (WIDTH - LEFT - 60) / most
    height = 74 + ROW * len(TITLES)
    summary = "; ".join(
        f"{title}: " + ", ".join(f"{side} {ratio:.2f}" for side, ratio in medians[name].items())
        for name, title in TITLES.items()
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Makespan over the ideal</title><desc>{escape(summary)}</desc><style>{STYLE}</style>",
        '<text class="title" x="8" y="22">Time to finish, divided by the ideal (less is better)</text>',
        f'<rect class="plain" x="{LEFT}" y="36" width="12" height="12"/>',
        f'<text class="small" x="{LEFT + 18}" y="47">plain Dask with resources=</text>',
        f'<rect class="ours" x="{LEFT + 200}" y="36" width="12" height="12"/>',
        f'<text class="small" x="{LEFT + 218}" y="47">handoff_dask</text>',
    ]
    for i, (name, title) in enumerate(TITLES.items()):
        top = 62 + i * ROW
        lines.append(f'<text x="{LEFT - 10}" y="{top + BAR + 5}" text-anchor="end">{escape(title)}</text>')
        for j, (side, style) in enumerate((("plain Dask", "plain"), ("handoff_dask", "ours"))):
            ratio, y = medians[name][side], top + j * (BAR + 2)
            end = LEFT + ratio * scale
            lines += [
                f'<rect class="{style}" x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}"/>',
                f'<text class="small" x="{end + 6:.1f}" y="{y + 12}">{ratio:.2f}</text>',
            ]
    x = LEFT + scale
    lines += [
        f'<line class="ideal" x1="{x:.1f}" y1="56" x2="{x:.1f}" y2="{height - 14}"/>',
        f'<text class="small" x="{x:.1f}" y="{height - 2}" text-anchor="middle">ideal</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratios", type=Path, help="what reports.py --json has written")
    parser.add_argument("svg", type=Path)
    options = parser.parse_args(arguments)
    options.svg.write_text(draw(read_medians(options.ratios)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
