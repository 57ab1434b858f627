"""The colours of all displays: notebook, terminal, dashboard, timelines and drawings.

A colour of a state means this state everywhere. Colours never stand alone: a label accompanies each, and
attempts that did not finish are hatched.

All colours contrast at least 3:1 with white and with the dark backgrounds of notebooks, as WCAG 2.2 requires
of graphics (criterion 1.4.11). The colours of a set differ from each other by at least 15 in CIELAB, in
normal vision and in simulated protanopia and deuteranopia. A search for the largest such difference within
a range of hues per state found them; ``tests/display/test_palette.py`` computes both figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: State of a function, or outcome of an attempt → colour, in the order of legends and bars.
STATES = {
    "finished": "#4a9f77",
    "running": "#4366ea",
    "ready": "#3494e4",
    "delayed": "#b18c00",
    "waiting": "#8d919d",
    "failed": "#b45d24",
    "lost": "#b232ae",
    "skipped": "#7f6843",
    "cancelled": "#716484",
}

#: Colours of categories without an order: codes, families of functions, nodes, resources.
CATEGORIES = ("#5296cb", "#d640ab", "#679c3d", "#9035ff", "#1fa35f", "#5b72dc", "#42775b")

#: Colour of the remaining categories, of functions without one, and of unknown states.
OTHERS = "#878787"

#: The standard resources have the same colour in every drawing.
RESOURCES = {"cpu": CATEGORIES[0], "memory": CATEGORIES[2], "gpu": CATEGORIES[1]}

#: Colour of used resources: functions that run hold them.
USED = STATES["running"]

#: Fills of durations, from short to long, and their frame. Black text is legible on each fill.
DURATIONS = ("#f3f8fd", "#d6e8f8", "#b0d4f1", "#85bce9", "#5aa7e0")
DURATION_FRAME = "#1f5f93"

#: On a white background: text, less important text, text about failures, and lines.
TEXT, DIM, BAD, LINE = "#22272b", "#5b636a", "#a04a12", "#d5dadd"


class Hatch(NamedTuple):
    """The look of attempts that did not finish: lines in the colour of their outcome on a light tint of it.

    Attributes
    ----------
    edge, fill : str
        Colours of the lines and frame, and of the area.
    bokeh, matplotlib : str
        The pattern, in the notation of each library.
    css_angle : int
        The angle of the lines in degrees, for a CSS gradient.
    dashed : bool
        Whether the frame is dashed: the end or the start of the attempt is unknown.
    """

    edge: str
    fill: str
    bokeh: str
    matplotlib: str
    css_angle: int
    dashed: bool


def tint(colour: str, share: float = 0.5) -> str:
    """Return a share of the colour, from 0 to 1, mixed with white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


def _hatch(state: str, bokeh: str, matplotlib: str, css_angle: int, dashed: bool = False) -> Hatch:
    return Hatch(STATES[state], tint(STATES[state], 0.15), bokeh, matplotlib, css_angle, dashed)


#: Outcome, other than finished → its look.
HATCHES = {
    "failed": _hatch("failed", "x", "xxxx", 45),
    "lost": _hatch("lost", ".", "....", 90, dashed=True),
    "cancelled": _hatch("cancelled", "-", "----", 0),
    "running": _hatch("running", "/", "////", 135, dashed=True),
}


def state_colour(state: str) -> str:
    """Return the colour of a state; a neutral colour if the state is unknown."""
    return STATES.get(state, OTHERS)


def category_colours(names: Iterable[str]) -> dict[str, str]:
    """Return category → colour, for as many of the categories as there are colours."""
    return dict(zip(names, CATEGORIES, strict=False))


def css_fill(state: str) -> str:
    """Return the CSS background of a state in bars and legends: failed and lost ones are hatched.

    The colour alone remains where a notebook removes gradients.
    """
    return css_hatch(state) if state in ("failed", "lost") else f"background:{state_colour(state)}"


def css_hatch(outcome: str) -> str:
    """Return the hatched CSS background of an attempt that did not finish, as in :data:`HATCHES`."""
    colour, hatch = state_colour(outcome), HATCHES.get(outcome)
    if hatch is None:
        return f"background:{colour}"
    stripes = f"repeating-linear-gradient({hatch.css_angle}deg,{colour} 0 3px,{tint(colour, 0.35)} 3px 5px)"
    return f"background-color:{colour};background-image:{stripes}"
