"""``repr`` and ``str`` that never raise, for values that users supply."""

from __future__ import annotations

from typing import Any


def safe_repr(value: Any) -> str:
    """Return ``repr(value)``, or a placeholder if it raises.

    An error message, a table or a result must not fail because one of the values in it has a broken ``repr``.
    """
    text, succeeded = _repr_or_placeholder(value)
    if succeeded:
        return text
    # One broken element must not hide the rest of its collection. Only one level is taken apart: deeper down,
    # a collection could contain itself.
    if type(value) is tuple:
        return f"({', '.join(map(_element, value))}{',' if len(value) == 1 else ''})"
    if type(value) is list:
        return f"[{', '.join(map(_element, value))}]"
    if type(value) is dict:
        return f"{{{', '.join(f'{_element(key)}: {_element(item)}' for key, item in value.items())}}}"
    return text


def _repr_or_placeholder(value: Any) -> tuple[str, bool]:
    try:
        return repr(value), True
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>", False


def _element(value: Any) -> str:
    return _repr_or_placeholder(value)[0]


def safe_str(value: Any) -> str:
    """Return ``str(value)`` of an id or a name, or its :func:`safe_repr` if that raises."""
    try:
        return str(value)
    except Exception:
        return safe_repr(value)
