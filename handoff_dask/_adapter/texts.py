"""Texts of bounded length, for snapshots."""

from __future__ import annotations

from typing import Any

#: Maximum number of characters of an id, and of other texts.
ID, TEXT = 120, 1_500


def id_text(id: Any) -> str:
    """Return an id as text of at most :data:`ID` characters."""
    return truncated(id if isinstance(id, str) else str(id), ID)


def truncated(text: str, most: int) -> str:
    """Return a text, cut to at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
