"""Layered graph drawing: positions of boxes in layers from top to bottom, with few crossings and short edges.

The method is that of K. Sugiyama, S. Tagawa, M. Toda: Methods for visual understanding of hierarchical system
structures (1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

#: Distances in pixels: between the boxes of a layer, between edges that pass through it, and between layers.
GAP, LINE, LAYER = 18.0, 10.0, 34.0

#: Number of passes that improve the order within layers; twice as many improve the positions.
SWEEPS = 6


class Layout(NamedTuple):
    """Positions in pixels.

    Attributes
    ----------
    width, height : float
        Size of the drawing.
    centres : list of (x, y)
        Centre of each box.
    paths : list of list of (x, y)
        Points of each edge: from the lower side of its first box, through the layers between, to the upper
        side of its second box.
    """

    width: float
    height: float
    centres: list[tuple[float, float]]
    paths: list[list[tuple[float, float]]]


def layers_of(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return the layer of each box: below all its dependencies. Edges that close a cycle are ignored."""
    below: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        below[a].append(b)
    state, order = [0] * count, []  # depth-first search: 1 is on the current path, 2 is done
    for root in range(count):
        if state[root]:
            continue
        path = [(root, iter(below[root]))]
        state[root] = 1
        while path:
            n, rest = path[-1]
            following = next(rest, None)
            if following is None:
                state[n] = 2
                order.append(n)
                path.pop()
            elif state[following] == 0:
                state[following] = 1
                path.append((following, iter(below[following])))
    place = {n: i for i, n in enumerate(reversed(order))}
    layer = [0] * count
    for n in reversed(order):
        for b in below[n]:
            if place[b] > place[n]:
                layer[b] = max(layer[b], layer[n] + 1)
    return layer


def layout(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """Position boxes of the given (width, height) in pixels, connected by edges of box numbers."""
    if not sizes:
        return Layout(0.0, 0.0, [], [])
    layer = layers_of(len(sizes), edges)
    rows: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    for n, at in enumerate(layer):
        rows[at].append(n)
    widths = [width for width, _ in sizes]
    above: list[list[int]] = [[] for _ in sizes]
    below: list[list[int]] = [[] for _ in sizes]
    chains = []
    for a, b in edges:
        # An edge that points up closes a cycle: lay it out downwards, and reverse its chain at the end.
        low, high = (a, b) if layer[a] <= layer[b] else (b, a)
        chain = [low]
        for at in range(layer[low] + 1, layer[high]):
            dummy = len(widths)
            widths.append(0.0)
            above.append([])
            below.append([])
            rows[at].append(dummy)
            chain.append(dummy)
        chain.append(high)
        for upper, lower in pairwise(chain):
            below[upper].append(lower)
            above[lower].append(upper)
        chains.append(chain if (low, high) == (a, b) else chain[::-1])
    _order(rows, above, below)
    x = _places(rows, above, below, widths, len(sizes))
    heights = [max((sizes[n][1] for n in row if n < len(sizes)), default=0.0) for row in rows]
    tops, top = [], 0.0
    for height in heights:
        tops.append(top)
        top += height + LAYER
    left = min(x[n] - widths[n] / 2 for n in range(len(x)))
    row_of = {n: at for at, row in enumerate(rows) for n in row}
    centres = [(x[n] - left, tops[layer[n]] + heights[layer[n]] / 2) for n in range(len(sizes))]
    paths = []
    for chain in chains:
        path = []
        for i, n in enumerate(chain):
            at = row_of[n]
            middle = tops[at] + heights[at] / 2
            half = sizes[n][1] / 2 if n < len(sizes) else heights[at] / 2
            up, down = (x[n] - left, middle - half), (x[n] - left, middle + half)
            going_down = row_of[chain[-1]] >= row_of[chain[0]]
            enters, leaves = (up, down) if going_down else (down, up)
            if i > 0:
                path.append(enters)
            if i < len(chain) - 1:
                path.append(leaves)
        paths.append(path)
    width = max(x[n] + widths[n] / 2 for n in range(len(x))) - left
    return Layout(width, top - LAYER, centres, paths)


def _order(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Sort each layer by the mean position of its neighbours in the next layer, sweeping down and up."""
    place = {n: i for row in rows for i, n in enumerate(row)}
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows if down else reversed(rows):
            mean = {n: sum(place[m] for m in near[n]) / len(near[n]) if near[n] else place[n] for n in row}
            row.sort(key=lambda n: mean[n])
            for i, n in enumerate(row):
                place[n] = i


def _places(
    rows: list[list[int]], above: list[list[int]], below: list[list[int]], widths: list[float], boxes: int
) -> list[float]:
    """Return the centre of each box within its layer: close to its neighbours' centres, without overlaps."""
    x = [0.0] * len(widths)
    offsets = []
    for row in rows:
        offset, at = [0.0], 0.0
        for left, right in pairwise(row):
            gap = GAP if left < boxes or right < boxes else LINE
            at += widths[left] / 2 + gap + widths[right] / 2
            offset.append(at)
        offsets.append(offset)
        for n, place in zip(row, offset, strict=False):
            x[n] = place - at / 2
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row, offset in (
            zip(rows, offsets, strict=True) if down else zip(rows[::-1], offsets[::-1], strict=True)
        ):
            wanted = [sum(x[m] for m in near[n]) / len(near[n]) if near[n] else x[n] for n in row]
            placed = _isotonic([w - o for w, o in zip(wanted, offset, strict=False)])
            for n, base, o in zip(row, placed, offset, strict=False):
                x[n] = base + o
    return x


def _isotonic(values: list[float]) -> list[float]:
    """Return the nearest non-decreasing sequence, by pooling adjacent violators (isotonic regression)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, size = value, 1
        while pools and pools[-1][0] / pools[-1][1] > total / size:
            t, s = pools.pop()
            total, size = total + t, size + s
        pools.append((total, size))
    return [total / size for total, size in pools for _ in range(size)]
