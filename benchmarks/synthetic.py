"""Generated workflow traces in the format of ``workflows.py``. The same arguments give the same file.

    python benchmarks/synthetic.py [--samples 6] [--width 20] [--seed 0] > trace.json

The shape is typical of scientific workflows. A reference is prepared once. Each sample is fetched and split
into chunks; each chunk is aligned and filtered; the chunks of a sample are merged, which takes much memory.
Models are trained on GPUs, each on some of the samples, and a final report depends on everything. Types of
functions differ in duration and cost. Functions of one type differ too, some of them widely.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A type of function: median seconds, their spread, and costs.

    ``spread`` is the standard deviation of the logarithm of the seconds. Each function gets one of the values
    of ``cpu``, ``memory_mb`` and ``output_mb``.
    """

    seconds: float
    spread: float
    cpu: Sequence[int]
    memory_mb: Sequence[int]
    output_mb: Sequence[int]
    gpu: int = 0


KINDS = {
    "reference": Kind(30, 0.1, (2,), (4000,), (500,)),
    "fetch": Kind(8, 0.8, (1,), (200,), (2000,)),
    "split": Kind(5, 0.3, (1,), (1000, 2000), (100,)),
    "align": Kind(60, 0.5, (2, 4), (4000, 6000), (50,)),
    "filter": Kind(3, 0.7, (1,), (500, 1000), (10, 20)),
    "merge": Kind(40, 0.4, (1,), (12000, 30000), (400,)),
    "train": Kind(90, 0.3, (1, 2), (3000, 8000), (20,), gpu=1),
    "report": Kind(10, 0.2, (1,), (1000,), (1,)),
}


class Generator:
    """Creates functions, numbered in the order in which they are added."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.tasks: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, deps: Sequence[str]) -> str:
        """Add one function of this type and return its id."""
        k, choose = KINDS[kind], self._random.choice
        id = f"{kind}-{len(self.tasks):05d}"
        self.tasks[id] = {
            "deps": list(deps),
            # Rounded, because the last digits of a logarithm differ between platforms.
            "seconds": round(k.seconds * self._random.lognormvariate(0.0, k.spread), 3),
            "cpu": choose(k.cpu),
            "memory_mb": choose(k.memory_mb),
            "gpu": k.gpu,
            "output_bytes": choose(k.output_mb) * 2**20,
        }
        return id

    def sample(self, ids: Sequence[str]) -> list[str]:
        """Return at least half of the ids, sorted."""
        n = self._random.randint((len(ids) + 1) // 2, len(ids))
        return sorted(self._random.sample(list(ids), n))


def generate(samples: int, width: int, seed: int) -> dict[str, Any]:
    """Generate the content of a trace file.

    Parameters
    ----------
    samples : int
        At least 1. Each adds three functions, and two per chunk.
    width : int
        Chunks per sample, at least 1.
    seed : int
    """
    generator = Generator(seed)
    reference = generator.add("reference", [])
    merged = []
    for _ in range(samples):
        split = generator.add("split", [generator.add("fetch", [])])
        aligned = [generator.add("align", [reference, split]) for _ in range(width)]
        merged.append(generator.add("merge", [generator.add("filter", [id]) for id in aligned]))
    trained = [generator.add("train", generator.sample(merged)) for _ in range(max(1, samples // 2))]
    generator.add("report", [*merged, *trained])
    name = f"synthetic-{samples}x{width}-{seed}"
    return {"name": name, "source": "benchmarks/synthetic.py of handoff_dask", "tasks": generator.tasks}


def to_text(trace: dict[str, Any]) -> str:
    """Format a trace with one function per line, for a compact file and readable diffs."""
    head = "".join(f" {json.dumps(k)}: {json.dumps(v)},\n" for k, v in trace.items() if k != "tasks")
    lines = ",\n".join(f"  {json.dumps(id)}: {json.dumps(task)}" for id, task in trace["tasks"].items())
    return f'{{\n{head} "tasks": {{\n{lines}\n }}\n}}\n'


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.samples < 1 or options.width < 1:
        parser.error("--samples and --width must be at least 1")
    sys.stdout.write(to_text(generate(options.samples, options.width, options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
