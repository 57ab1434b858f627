"""The colours of all displays: contrast, and differences in normal and in colour-blind vision."""

from __future__ import annotations

import io
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import handoff_dask
from handoff_dask import DAG, Function
from handoff_dask._display import dashboard_text, palette
from handoff_dask._display.colouring import colouring
from handoff_dask._display.labels import state_label
from handoff_dask._display.progress import RichProgress, progress_html
from handoff_dask._model.progress import NodeLoad, Progress
from handoff_dask._model.records import FunctionRecord

#: Backgrounds: white, Dask's dashboard, JupyterLab dark, VS Code dark, GitHub dark, and a black terminal.
LIGHT = ("#ffffff", "#fafafa")
DARK = ("#000000", "#111111", "#1e1e1e", "#0d1117")

TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)

#: Vision → matrix on linear RGB, from G. M. Machado, M. M. Oliveira, L. A. F. Fernandes: A
#: physiologically-based model for simulation of color vision deficiency (2009), severity 1.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def linear(colour):
    """Return a colour as linear RGB."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Return the contrast ratio of WCAG 2.2, from 1 to 21."""
    low, high = sorted(TO_XYZ[1] @ linear(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(colour, vision):
    """Return a colour, as seen in a vision, in CIELAB."""
    seen = np.clip(VISIONS[vision] @ linear(colour), 0, 1)
    x, y, z = TO_XYZ @ seen / TO_XYZ.sum(axis=1)
    fx, fy, fz = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def smallest_difference(pairs, vision):
    """Return the smallest difference of pairs of colours in CIELAB, and the pair."""
    return min(
        (float(np.linalg.norm(lab(one, vision) - lab(other, vision))), one, other) for one, other in pairs
    )


def test_the_figures_that_the_tests_compute():
    """Known values: black on white, and colours that people with protanopia confuse."""
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert lab("#ff0000", "normal") == pytest.approx([53.24, 80.09, 67.20], abs=0.1)
    red_and_green = [("#a05a2c", "#6b7a2c")]
    assert smallest_difference(red_and_green, "normal")[0] > 30
    assert smallest_difference(red_and_green, "deuteranopia")[0] < 15


@pytest.mark.parametrize("background", [*LIGHT, *DARK])
def test_colours_contrast_with_light_and_dark_backgrounds(background):
    for colour in (*palette.STATES.values(), *palette.CATEGORIES, palette.OTHERS, palette.USED):
        assert contrast(colour, background) >= 3, colour


def test_text_contrasts_with_its_background():
    for background in LIGHT:
        for colour in (palette.TEXT, palette.DIM, palette.BAD):
            assert contrast(colour, background) >= 4.5, colour
    # Lines about failures on a terminal, whose background is unknown.
    for background in ("#ffffff", "#000000"):
        assert contrast(palette.STATES["failed"], background) >= 4.5


def test_black_text_is_legible_on_tints_and_durations():
    for colour in (*map(palette.tint, (*palette.STATES.values(), *palette.CATEGORIES)), *palette.DURATIONS):
        assert contrast(colour, "#000000") >= 7, colour


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("colours", [tuple(palette.STATES.values()), palette.CATEGORIES])
def test_colours_of_a_set_are_told_apart(colours, vision):
    difference, *pair = smallest_difference(combinations(colours, 2), vision)
    assert difference >= 15, pair


@pytest.mark.parametrize("vision", VISIONS)
def test_a_category_is_never_taken_for_a_state(vision):
    pairs = [(state, other) for state in palette.STATES.values() for other in palette.CATEGORIES]
    difference, *pair = smallest_difference(pairs, vision)
    assert difference >= 10, pair


def test_attempts_that_did_not_finish_have_the_colour_of_their_state_and_different_patterns():
    for outcome, hatch in palette.HATCHES.items():
        assert hatch.edge == palette.STATES[outcome]
    for patterns in zip(*(hatch[2:5] for hatch in palette.HATCHES.values()), strict=True):
        assert len(set(patterns)) == len(palette.HATCHES)


def terminal_colours(progress):
    """Return the colours in a terminal's output, in order."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=100)
    console.print(RichProgress("run", stream)._draw(progress))
    found = re.findall(r"38;2;(\d+);(\d+);(\d+)", stream.getvalue())
    return list(dict.fromkeys("#" + "".join(f"{int(part):02x}" for part in rgb) for rgb in found))


def test_a_state_has_the_same_colour_in_every_display():
    counts = dict.fromkeys(palette.STATES, 1)
    nodes = (NodeLoad("n", 1, {"cpu": 1}, {"cpu": 2}),)
    notebook = progress_html("run", Progress(9, counts, 1.0, nodes), [])
    dashboard = dashboard_text.progress(counts)
    dag = DAG("d")
    for state in palette.STATES:
        dag.add_function(Function(state, code=list))
    records = {state: FunctionRecord(state, state, None, (), {}) for state in palette.STATES}
    drawing = {category.label: category.edge for category in colouring(dag, "status", records).legend}
    for state, colour in palette.STATES.items():
        for html in (notebook, dashboard):
            swatch = re.escape(palette.css_fill(state))
            assert re.search(f"{swatch}'></[a-z]+> ?1 {state_label(state)}", html), state
        assert drawing[state_label(state)] == colour
    run = [palette.STATES["finished"], palette.STATES["waiting"]]
    assert terminal_colours(Progress(9, counts, 1.0, nodes)) == [*run, palette.USED, palette.OTHERS]
    assert f"background:{palette.USED}" in notebook


def test_failed_functions_are_hatched_in_bars():
    assert "repeating-linear-gradient" in palette.css_fill("failed")
    assert "repeating-linear-gradient" not in palette.css_fill("finished")
    assert palette.css_fill("failed").startswith(f"background-color:{palette.STATES['failed']};")


def test_no_other_module_defines_colours():
    """Only black, white and greys may be written elsewhere."""
    package = Path(handoff_dask.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        if path.name == "palette.py":
            continue
        for colour in re.findall(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b", path.read_text(encoding="utf-8")):
            digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
            if len({digits[:2], digits[2:4], digits[4:]}) > 1:
                found.append((path.name, colour))
    assert not found
