"""Only ``handoff_dask/_adapter/_dask`` uses undocumented parts of Dask."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "handoff_dask"
BOUNDARY = PACKAGE / "_adapter" / "_dask"

#: Modules of Dask that are documented, or de facto public because other packages use them.
PUBLIC = {
    "dask",
    "dask.base",
    "dask.highlevelgraph",
    "dask.sizeof",
    "dask.system",
    "dask.utils",
    "distributed",
    "distributed.comm",
    "distributed.comm.addressing",
    "distributed.comm.core",
    "distributed.comm.registry",
    "distributed.metrics",
    "distributed.protocol",
    "distributed.system",
}

#: Names that handoff_dask gives to objects of Dask.
DASK_OBJECTS = {
    *(
        "batched_stream",
        "client",
        "cluster",
        "comm",
        "cs",
        "dask_worker",
        "future",
        "live",
        "nanny",
        "prefix",
    ),
    *("scheduler", "server", "stream", "task", "thread_state", "ts", "utils", "worker", "ws"),
}

#: Undocumented attributes of these objects whose names do not look private.
UNDOCUMENTED = {
    *(
        "active_threads",
        "active_threads_lock",
        "batch_count",
        "batched_send",
        "batched_stream",
        "client_comms",
    ),
    *("client_desires_keys", "client_releases_keys", "client_send", "duration_average", "execution_state"),
    *(
        "extensions",
        "handlers",
        "http_application",
        "memory_manager",
        "refcount",
        "report",
        "rpc",
        "run_spec",
    ),
    *("scheduler_comm", "stream_comms", "stream_handlers", "task_prefixes", "transition", "transitions"),
    *("unknown_durations", "unrunnable", "used_resources"),
}

#: Private names that belong to Python.
PYTHON_NAMES = {"_asdict", "_exit", "_make", "_replace", "_run_exitfuncs"}

FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != BOUNDARY]


def is_own(node: ast.AST) -> bool:
    """Return whether a node is an attribute of ``self`` or ``cls``."""
    return isinstance(node, ast.Attribute) and last_name(node.value) in ("self", "cls")


def own_names() -> set[str]:
    """Return the private attribute names that handoff_dask defines."""
    found = set(PYTHON_NAMES)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif is_own(node) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found


def last_name(node: ast.expr) -> str:
    """Return the last name of an expression without underscores: ``scheduler`` for ``self._scheduler``."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.lstrip("_")


OWN = own_names()


def undocumented_uses(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each use of an undocumented part of Dask."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and last_name(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in typing_only:
            yield from _private_imports(node)
        elif isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            of_dask = last_name(node.value) in DASK_OBJECTS
            written = not isinstance(node.ctx, ast.Load)
            unknown = private and not is_own(node) and node.attr not in OWN
            if unknown or (of_dask and (private or written or node.attr in UNDOCUMENTED)):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and node.args and last_name(node.args[0]) in DASK_OBJECTS:
            called = last_name(node.func)
            names = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
            hidden = any(str(name).startswith("_") or name in UNDOCUMENTED for name in names)
            if called in ("setattr", "delattr", "vars") or (called == "getattr" and hidden):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            table = node.value
            if isinstance(table, ast.Attribute) and last_name(table.value) in DASK_OBJECTS:
                yield node.lineno, ast.unparse(node)


def _private_imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[int, str]]:
    modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
    modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    for module in modules:
        if module.partition(".")[0] in ("dask", "distributed"):
            private = any(alias.name.startswith("_") for alias in node.names)
            if module not in PUBLIC or private:
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "path",
    FILES,
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_no_undocumented_part_of_dask_is_used(path):
    found = [f"line {line}: {text}" for line, text in undocumented_uses(path.read_text("utf-8"))]
    assert not found, (
        f"{path.relative_to(PACKAGE)} uses what only handoff_dask/_adapter/_dask may use: {found}"
    )


@pytest.mark.parametrize(
    "source",
    [
        "from dask._task_spec import Task",
        "import distributed.batched",
        "from distributed.worker import thread_state",
        "from distributed.client import _gather",
        "client._send_to_scheduler({})",
        "self._client._gather([])",
        "future._state",
        "whatever._handle_report_task",
        "getattr(client, '_handle_report_task', None)",
        "ts.retries = 1",
        "vars(scheduler)['restart'] = None",
        "self._scheduler.clients['x'] = None",
        "del scheduler.clients['x']",
        "plugin.scheduler.transitions({}, 's')",
        "ws.used_resources",
    ],
)
def test_the_check_finds_violations(source):
    assert list(undocumented_uses(source))


@pytest.mark.parametrize(
    "source",
    [
        "from distributed import Client",
        "if TYPE_CHECKING:\n    from distributed.scheduler import TaskState",
        "self._scheduler.tasks.get(key)",
        "run._finish('finished')",
        "self._client = client",
        "client.status",
    ],
)
def test_the_check_accepts_public_and_own_names(source):
    assert not list(undocumented_uses(source))
