"""Every exception survives pickling with its fields, and is exported by the package."""

import copy
import copyreg
import pickle
from dataclasses import replace

import pytest

import handoff_dask as handoff
from handoff_dask import Attempt, Shortfall, exceptions

ATTEMPTS = (
    Attempt(1, "node1", 0.5, 1.0, 2.0, "failed", "OSError('disk')", "Traceback ..."),
    Attempt(2, "node2", 2.0, 3.0, 4.0, "lost"),
)
SHORTFALL = Shortfall(("a",), {"gpu": 2}, "node1", {"gpu": 1}, "too little gpu", remedy="Lower the cost.")

EXAMPLES = [
    handoff.HandoffError("something"),
    handoff.InvalidDAGError("mine", ["first", "second"]),
    handoff.MissingFunctionError("mine", ["text"], [("a", "x"), ("b", ("y", 1))]),
    handoff.CyclicDependencyError("mine", ["text"], ["a", "b"]),
    handoff.InvalidFunctionError("mine", ["text"], ["a"]),
    handoff.InvalidCostError("mine", ["text"], ["a"]),
    handoff.CostError("f", 2, "by_input(attempt=2) raised ValueError: no"),
    handoff.InvalidCollocationError("mine", ["text"], ["a"]),
    handoff.SerializationError("mine", ["text"], ["a"]),
    handoff.DuplicateFunctionError("mine", ["text"], ["a"]),
    handoff.ClusterNotReadyError("preload it"),
    handoff.NodeNotFoundError("node9", ["node1", "node2"]),
    handoff.CheckpointError("s3://b/c", ("f", 1), "is full"),
    handoff.FunctionTimeoutError(2.5),
    handoff.FunctionCrashedError(-11),
    handoff.FunctionMemoryError("f", 100, 120.5, "node1"),
    handoff.RunNotFoundError("run9", ["run2", "run1"]),
    handoff.HistoryError("/data/history.db", "the file is another kind of database"),
    handoff.RunError("mine", "run1", "fact"),
    handoff.FunctionFailedError("mine", "run1", ("f", 1), ATTEMPTS),
    handoff.AllocationError("mine", "run1", [SHORTFALL]),
    handoff.AllocatorError("mine", "run1", "it placed 'a' on 'x'"),
    handoff.RunCancelledError("mine", "run1", "by the user"),
    handoff.RunEndedError("mine", "run1", ("f", 1), "failed"),
    handoff.RunTimeoutError("mine", "run1", 2.5, 3, 7),
]
every = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def fields_of(error):
    names = {name for name in dir(error) if not name.startswith("_")} - {"add_note", "with_traceback"}
    names -= {"failures"}  # contains exceptions, which compare by identity
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def test_every_class_has_an_example():
    assert {type(error).__name__ for error in EXAMPLES} == set(exceptions.__all__)


def test_all_are_exported_by_the_package():
    defined = {
        n for n, v in vars(exceptions).items() if isinstance(v, type) and v.__module__ == exceptions.__name__
    }
    assert {n for n in defined if not n.startswith("_")} == set(exceptions.__all__)
    for name in exceptions.__all__:
        assert getattr(handoff, name) is getattr(exceptions, name)
        assert name in handoff.__all__


@every
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_copies_keep_all_fields(error, copied):
    again = copied(error)
    assert type(again) is type(error)
    assert fields_of(again) == fields_of(error)
    assert str(again) == str(error)
    assert again.__cause__ is None


@every
def test_pickling_keeps_cause_and_notes(error):
    error = copy.copy(error)
    error.__cause__ = OSError(5, "disk")
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert repr(again.__cause__) == repr(error.__cause__)
    assert again.__notes__ == ["a note"]


class NeedsTwo(Exception):
    """Can be pickled but not unpickled: the most common mistake."""

    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("not me")


@pytest.mark.parametrize("cause", [NeedsTwo(1, 2), Unpicklable(), OSError(lambda: None)])
def test_an_unpicklable_cause_is_dropped(cause, monkeypatch):
    # Once Dask has serialized an error of a class, tblib pickles the class instead, with its causes.
    monkeypatch.delitem(copyreg.dispatch_table, handoff.FunctionFailedError, raising=False)
    error = handoff.FunctionFailedError("mine", "run1", "f", ATTEMPTS)
    error.__cause__ = cause
    again = pickle.loads(pickle.dumps(error))
    assert again.__cause__ is None
    assert again.attempts == ATTEMPTS


def test_pickling_drops_the_run():
    error = handoff.RunCancelledError("mine", "run1", "by the user")
    assert error.run is None
    error.run = lambda: "a live thing"
    assert pickle.loads(pickle.dumps(error)).run is None


@every
def test_common_base_class(error):
    assert isinstance(error, handoff.HandoffError)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("InvalidDAGError", ValueError),
        ("MissingFunctionError", handoff.InvalidDAGError),
        ("CyclicDependencyError", handoff.InvalidDAGError),
        ("DuplicateFunctionError", handoff.InvalidDAGError),
        ("InvalidFunctionError", handoff.InvalidDAGError),
        ("InvalidCostError", handoff.InvalidFunctionError),
        ("InvalidCollocationError", handoff.InvalidFunctionError),
        ("SerializationError", handoff.InvalidFunctionError),
        ("ClusterNotReadyError", RuntimeError),
        ("NodeNotFoundError", LookupError),
        ("FunctionTimeoutError", TimeoutError),
        ("FunctionCrashedError", RuntimeError),
        ("FunctionMemoryError", MemoryError),
        ("FunctionFailedError", handoff.RunError),
        ("AllocationError", handoff.RunError),
        ("AllocatorError", handoff.RunError),
        ("RunCancelledError", handoff.RunError),
        ("RunEndedError", handoff.RunError),
        ("RunTimeoutError", handoff.RunError),
        ("RunTimeoutError", TimeoutError),
    ],
)
def test_base_classes(name, base):
    assert issubclass(getattr(handoff, name), base)


def test_run_errors_and_invalid_dag_errors_are_disjoint():
    for error in EXAMPLES:
        assert not (isinstance(error, handoff.RunError) and isinstance(error, handoff.InvalidDAGError))


def test_fields():
    by_name = {type(error).__name__: error for error in EXAMPLES}
    assert by_name["MissingFunctionError"].missing == (("a", "x"), ("b", ("y", 1)))
    assert by_name["CyclicDependencyError"].cycle == ("a", "b")
    assert by_name["InvalidDAGError"].problems == ("first", "second")
    assert by_name["NodeNotFoundError"].known == ("node1", "node2")
    assert by_name["AllocationError"].shortfalls == (SHORTFALL,)
    assert by_name["RunCancelledError"].reason == "by the user"
    assert by_name["FunctionTimeoutError"].timeout == 2.5
    assert by_name["FunctionCrashedError"].status == -11
    error = by_name["FunctionMemoryError"]
    assert (error.function_id, error.asked, error.seen, error.node) == ("f", 100, 120.5, "node1")
    failed = by_name["FunctionFailedError"]
    assert (failed.dag_id, failed.run_id, failed.function_id, failed.attempts) == (
        "mine",
        "run1",
        ("f", 1),
        ATTEMPTS,
    )
    late = by_name["RunTimeoutError"]
    assert (late.dag_id, late.run_id, late.timeout, late.finished, late.total) == ("mine", "run1", 2.5, 3, 7)
    assert (late.errno, late.strerror, late.filename) == (None, None, None)


def test_texts():
    texts = {type(error).__name__: str(error) for error in EXAMPLES}
    assert texts["FunctionFailedError"] == (
        "function ('f', 1) of DAG 'mine' failed after 2 attempts:\n"
        "  - attempt 1 on 'node1': OSError('disk')\n"
        "  - attempt 2 on 'node2': lost"
    )
    assert texts["AllocationError"] == f"DAG 'mine' cannot be placed:\n  - {SHORTFALL}\nLower the cost."
    started = handoff.AllocationError("mine", "run1", (replace(SHORTFALL, waited=30.0),))
    assert str(started).startswith("DAG 'mine' cannot go on:\n")
    assert texts["RunCancelledError"] == "run run1 of DAG 'mine' was cancelled: by the user"
    assert (
        texts["RunTimeoutError"]
        == "run run1 of DAG 'mine' exceeded its timeout of 2.5 s with 3 of 7 functions finished"
    )
    assert texts["NodeNotFoundError"] == "no node is named 'node9'; known nodes: 'node1', 'node2'"
    assert str(handoff.NodeNotFoundError("n", [])) == "no node is named 'n'; known nodes: none"


@pytest.mark.parametrize(
    ("attempts", "note", "lines"),
    [
        (["a x", "a x"], "same error each time", ["attempts 1 and 2 on 'a': x"]),
        (
            ["a x", "b x", "c x"],
            "same error on 3 nodes: not the nodes' fault",
            ["attempts 1 to 3 on 'a', 'b', 'c': x"],
        ),
        (
            ["a x", "b x", "a x"],
            "same error on 2 nodes: not the nodes' fault",
            ["attempts 1 to 3 on 'a', 'b': x"],
        ),
        (
            ["a x", "b x", "b y"],
            None,
            ["attempts 1 and 2 on 'a', 'b': x", "attempt 3 on 'b': y"],
        ),
        (
            ["a <o at 0x7f01>", "b <o at 0x7f02>"],
            "same error on 2 nodes: not the nodes' fault",
            ["attempts 1 and 2 on 'a', 'b': <o at 0x7f02>"],
        ),
        (
            ["a x", "b lost", "c x"],
            "same error on 2 nodes: not the nodes' fault",
            ["attempt 1 on 'a': x", "attempt 2 on 'b': lost", "attempt 3 on 'c': x"],
        ),
        (["a x", "b lost"], None, ["attempt 1 on 'a': x", "attempt 2 on 'b': lost"]),
        (["a lost", "b lost"], None, ["attempts 1 and 2 on 'a', 'b': lost"]),
        ([f"n{n} x" for n in range(12)], "same error on 12 nodes: not the nodes' fault", None),
    ],
)
def test_equal_errors_share_a_line(attempts, note, lines):
    told = [text.split(" ", 1) for text in attempts]
    error = handoff.FunctionFailedError(
        "mine",
        "run1",
        "f",
        [
            Attempt(n, node, outcome="lost") if e == "lost" else Attempt(n, node, outcome="failed", error=e)
            for n, (node, e) in enumerate(told, 1)
        ],
    )
    head, *rest = str(error).splitlines()
    suffix = "" if note is None else f" ({note})"
    assert head == f"function 'f' of DAG 'mine' failed after {len(attempts)} attempts{suffix}:"
    if lines is None:
        nodes = ", ".join(f"'n{n}'" for n in range(10))
        lines = [f"attempts 1 to 12 on {nodes}, 2 more: x"]
    assert rest == [f"  - {line}" for line in lines]


def test_long_lists_of_attempts_are_truncated():
    attempts = [Attempt(n, "n1", outcome="failed", error=f"error{n}") for n in range(1, 31)]
    lines = str(handoff.FunctionFailedError("mine", "run1", "f", attempts)).splitlines()
    assert lines[0] == "function 'f' of DAG 'mine' failed after 30 attempts:"
    assert lines[1:] == [
        *(f"  - attempt {n} on 'n1': error{n}" for n in range(21, 31)),
        "  - ... and 20 more",
    ]
    one = str(handoff.FunctionFailedError("mine", "run1", "f", attempts[:1]))
    assert one.startswith("function 'f' of DAG 'mine' failed after 1 attempt:\n")
    assert str(handoff.FunctionFailedError("mine", "run1", "f", [])).endswith("failed after 0 attempts")
