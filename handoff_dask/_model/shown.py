"""Values of others as text, whatever their ``repr`` does."""

from __future__ import annotations

from typing import Any


def shown(value: Any) -> str:
    """The ``repr`` of a value, or what it is when that raises.

    Somebody looking at a result should not get the error of a part of it that is shown in passing.
    """
    text, fine = _text(value)
    if fine:
        return text
    # One of many is no reason not to show the others. Inside these, lists could contain themselves.
    if type(value) is tuple:
        return f"({', '.join(_text(part)[0] for part in value)}{',' if len(value) == 1 else ''})"
    if type(value) is list:
        return f"[{', '.join(_text(part)[0] for part in value)}]"
    if type(value) is dict:
        return f"{{{', '.join(f'{_text(key)[0]}: {_text(part)[0]}' for key, part in value.items())}}}"
    return text


def _text(value: Any) -> tuple[str, bool]:
    try:
        return repr(value), True
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>", False


def plain(value: Any) -> str:
    """The text of an id or a name, or what it is when that raises."""
    try:
        return str(value)
    except Exception:
        return shown(value)
