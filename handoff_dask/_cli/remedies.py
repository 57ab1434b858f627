"""Remedies in error messages, reworded for users of the command."""

from __future__ import annotations

import re

#: How the exceptions advise to start workers, which only helps on a cluster.
_WORKER = re.compile(r" \(`dask worker[^`]*`\)")

_ADD_NODE = re.compile(r"add a node that offers (?P<what>[^`]*?) \(`dask worker[^`]*`\)", re.IGNORECASE)
_START_NAMED = re.compile(r"start a worker of that name \(`dask worker[^`]*`\)")

#: The last remedy, which no run on given nodes can use: no further node joins.
_WAIT = re.compile(
    r",? or (pass wait_for_nodes=SECONDS|increase handoff\.node-timeout) if such a node[^.]*\.$"
)

_LIMIT = re.compile(r"limits=\{'(?P<name>[^']*)': 1\}")


def name_options(text: str) -> str:
    """Replace Python arguments in an error message by options of the command."""
    text = text.replace("wait_for_nodes=SECONDS", "--wait-for-nodes SECONDS")
    return _LIMIT.sub(r"--limit \g<name>=1", text).replace("(limits=)", "(--limit)")


def for_given_nodes(text: str, file: str | None) -> str:
    """Replace the advice to start workers in an error message, for a command that uses no cluster.

    Parameters
    ----------
    text : str
        The message of an :class:`AllocationError`.
    file : str or None
        The file of ``--nodes``; None if this machine is the only node.
    """
    return "\n".join(_for_given_nodes(line, file) for line in text.split("\n"))


def _for_given_nodes(line: str, file: str | None) -> str:
    shorter = _WAIT.sub("", line)
    if shorter == line:
        return line
    first, *middle = shorter.split(", ")
    last = f", or {middle.pop()}" if middle else ""
    shorter = f"{', '.join((first, *middle))}{last}."
    if file is None:
        shorter = _ADD_NODE.sub(_on_other_nodes, shorter)
    else:
        shorter = _ADD_NODE.sub(lambda found: f"{found[0].partition(' (`')[0]} to {file}", shorter)
    shorter = _START_NAMED.sub(
        "add a node of that name" + (f" to {file}" if file else " (--nodes FILE)"), shorter
    )
    return _WORKER.sub("", shorter)


def _on_other_nodes(found: re.Match[str]) -> str:
    verb = "Use" if found[0][0].isupper() else "use"
    return f"{verb} nodes that offer {found['what']} (--nodes FILE or --scheduler ADDRESS)"
