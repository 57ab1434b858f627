"""What users see of a failure: which errors are retried, the text of the error, its traceback, and advice."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
import pickle
import re
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import dask
import dask.distributed
import pytest
from distributed import Client, LocalCluster
from helpers import dag_of, identity, multiply

import handoff_dask as handoff
from handoff_dask import Function, FunctionFailedError, RetryPolicy


def run_locally(dag, client, **options):
    return handoff.execute_local(dag, **options)


def run_on_cluster(dag, client, **options):
    return handoff.execute(dag, client, **options)


on_cluster_and_locally = pytest.mark.parametrize("run", [run_on_cluster, run_locally])


@pytest.fixture(scope="module")
def processes():
    nodes = {"a": {"cpu": 2}, "b": {"cpu": 2}}
    with handoff.local_cluster(nodes, processes=True) as cluster, Client(cluster) as client:
        yield client


def failure_of(run, f, client=None, **options):
    with pytest.raises(FunctionFailedError) as caught:
        run(dag_of(f), client, **options)
    return caught.value


# ---------------------------------------------------------------------- which errors are retried


class Unloadable:
    """Can be pickled, but not unpickled."""

    def __init__(self, error):
        self.error = error

    def __call__(self):
        raise AssertionError("not called")

    def __reduce__(self):
        return raise_it, (self.error,)


def raise_it(error):
    raise error


def lacks_a_name():
    return undefined_name  # noqa: F821


def lacks_a_module():
    import no_such_module  # noqa: F401


def lacks_a_bracket():
    return compile("(", "file.py", "eval")


def length_of_five():
    return len(5)


@functools.wraps(multiply)
def pass_on(*args):
    return multiply(*args)


@on_cluster_and_locally
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize(
    ("code", "args", "kind"),
    [
        (len, [5], TypeError),
        ("helpers:multiply", [5], TypeError),
        ("helpers:no_such_function", [], AttributeError),
        ("no_such_module:f", [], ModuleNotFoundError),
        (lacks_a_module, [], ModuleNotFoundError),
        (lacks_a_name, [], NameError),
        (lacks_a_bracket, [], SyntaxError),
    ],
)
def test_an_error_that_cannot_change_is_retried_only_on_request(client, run, timeout, code, args, kind):
    f = Function("f", code, extra_args=args, timeout=timeout)
    error = failure_of(run, f, client, max_retries=2)
    assert type(error.__cause__) is kind
    assert len(error.attempts) == 1
    for retry_on in (Exception, kind, kind.__base__, [OSError, kind]):
        asked = RetryPolicy(max_retries=1, retry_on=retry_on)
        assert len(failure_of(run, f, client, retry=asked).attempts) == 2
    assert len(failure_of(run, f, client, retry=RetryPolicy(retry_on=OSError)).attempts) == 1


@pytest.mark.parametrize("run", [run_on_cluster, pytest.param(run_locally, id="child process")])
@pytest.mark.parametrize(
    ("error", "attempts"), [(ValueError("no"), 1), (RuntimeError("no"), 1), (OSError("no"), 2)]
)
@pytest.mark.parametrize("where", ["code", "arguments", "inline"])
def test_what_does_not_unpickle_on_the_node_is_not_retried(client, run, error, attempts, where):
    """Unless the error is that of a file or a connection, which the next node may have."""
    bad = Unloadable(error)
    timeout = 60 if run is run_locally else None
    dag = {
        "code": dag_of(Function("f", bad, timeout=timeout)),
        "arguments": dag_of(Function("f", identity, extra_args=[bad], timeout=timeout)),
        "inline": dag_of(
            Function("i", bad, type="inline"), Function("f", identity, args=["i"], timeout=timeout)
        ),
    }[where]
    with pytest.raises(FunctionFailedError) as caught:
        run(dag, client, max_retries=1)
    assert type(caught.value.__cause__) is type(error)
    assert len(caught.value.attempts) == attempts
    with pytest.raises(FunctionFailedError) as caught:
        run(dag, client, retry=RetryPolicy(max_retries=1, retry_on=type(error)))
    assert len(caught.value.attempts) == 2


@on_cluster_and_locally
@pytest.mark.parametrize(
    ("code", "args", "kind"),
    [
        (length_of_five, [], TypeError),  # inside the code: an argument may be wrong only now
        ("test_failure_reports:pass_on", [5], TypeError),  # likewise, inside a wrapper
        (open, ["/no/such/file"], FileNotFoundError),  # the call itself, but no TypeError
        (int, ["x"], ValueError),
    ],
)
def test_other_errors_are_retried(client, run, monkeypatch, code, args, kind):
    monkeypatch.setitem(sys.modules, "test_failure_reports", sys.modules[__name__])
    error = failure_of(run, Function("f", code, extra_args=args), client, max_retries=2)
    assert type(error.__cause__) is kind
    assert len(error.attempts) == 3


# ---------------------------------------------------------------------- the same error on every node


def fail(text="no good"):
    raise ValueError(text)


def fail_with_number():
    raise ValueError(handoff.current().attempt)


def fail_with_address():
    raise ValueError(object())


def printed(error):
    return "".join(traceback.format_exception(error))


def test_the_same_error_on_every_node_is_said_to_be_so():
    nodes = {f"node{n}": {"cpu": 1} for n in range(1, 5)}
    with handoff.local_cluster(nodes) as cluster, Client(cluster, set_as_default=False) as client:
        error = failure_of(run_on_cluster, Function("f", fail), client)
        other = failure_of(run_on_cluster, Function("f", fail_with_number), client)
        address = failure_of(run_on_cluster, Function("f", fail_with_address), client)
    nodes = ", ".join(repr(a.node) for a in error.attempts)
    assert sorted(a.node for a in error.attempts) == ["node1", "node2", "node3", "node4"]
    assert str(error) == (
        "function 'f' of DAG 'test' failed after 4 attempts (same error on 4 nodes: not the nodes' fault):\n"
        f"  - attempts 1 to 4 on {nodes}: ValueError('no good')"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    text = printed(error)
    assert text.count("raise ValueError(text)") == 1  # one traceback, with the line
    assert text.count("Traceback (most recent call last)") == 2  # that of the cause, and that of the caller
    assert "same error" not in str(other)
    assert str(other).count("\n  - attempt ") == 4
    assert "same error on 4 nodes" in str(address)  # although each error names another address


@on_cluster_and_locally
def test_the_same_error_each_time_on_one_node(client, run):
    error = failure_of(run, Function("f", fail, node="node2"), client, max_retries=1)
    node = error.attempts[0].node
    assert str(error) == (
        "function 'f' of DAG 'test' failed after 2 attempts (same error each time):\n"
        f"  - attempts 1 and 2 on {node!r}: ValueError('no good')"
    )


# ---------------------------------------------------------------------- tracebacks

#: Parts of the paths of frames that are not the user's.
NOT_USERS = re.compile(
    r'File "[^"]*(handoff_dask/_|site-packages/(distributed|tornado|dask|cloudpickle)/|concurrent/futures/'
    r"|asyncio/|importlib)"
)


def outer(code):
    """Pass a call through a thread pool, whose frames are between two of the user's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(code).result()


async def fail_in_coroutine():
    await asyncio.sleep(0)
    fail()


async def wait_in_vain():
    async with asyncio.timeout(0):
        await asyncio.sleep(60)


def names_in(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def exit_():
    raise SystemExit(3)


@on_cluster_and_locally
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize(
    ("code", "args", "names"),
    [
        (fail, [], ["fail"]),
        (outer, [fail], ["outer", "fail"]),
        (fail_in_coroutine, [], ["fail_in_coroutine", "fail"]),
        (exit_, [], ["exit_"]),
        (len, [5], []),
        ("no_such_module:f", [], []),
    ],
)
def test_tracebacks_have_only_the_frames_of_users(client, run, timeout, code, args, names):
    f = Function("f", code, extra_args=args, timeout=timeout)
    error = failure_of(run, f, client, max_retries=0)
    assert names_in(error.__cause__) == names
    assert re.findall(r", in (\w+)", error.attempts[-1].traceback) == names
    assert names_in(error) == ["failure_of", run.__name__]
    assert not NOT_USERS.search(printed(error))


@on_cluster_and_locally
def test_frames_of_the_standard_library_that_users_call_stay(client, run):
    error = failure_of(run, Function("f", wait_in_vain), client, max_retries=0)
    assert isinstance(error.__cause__, TimeoutError)
    assert names_in(error.__cause__) == ["wait_in_vain", "__aexit__"]


def call_locally():
    handoff.execute_local(dag_of(Function("inner", fail, max_retries=0)))


@on_cluster_and_locally
def test_tracebacks_of_a_run_inside_a_function(client, run):
    error = failure_of(run, Function("f", call_locally), client, max_retries=0)
    assert names_in(error.__cause__) == ["call_locally"]
    assert names_in(error.__cause__.__cause__) == ["fail"]


@on_cluster_and_locally
def test_causes_of_all_failures_have_tracebacks(client, run):
    dag = dag_of(*(Function(id, fail, max_retries=0, extra_args=[id]) for id in "ab"))
    with pytest.raises(FunctionFailedError) as caught:
        run(dag, client, fail_fast=False)
    assert [names_in(f.__cause__) for f in caught.value.failures] == [["fail"], ["fail"]]


def test_tracebacks_of_run_result_and_of_awaited_runs(client, cluster):
    dag = dag_of(Function("f", fail, max_retries=0))
    with pytest.raises(FunctionFailedError) as caught:
        handoff.submit(dag, client).result()
    assert len(names_in(caught.value)) == 1

    async def await_runs():
        async with Client(cluster.scheduler_address, asynchronous=True, set_as_default=False) as client:
            for start in (handoff.submit, handoff.execute):
                with pytest.raises(FunctionFailedError) as caught:
                    await start(dag, client)
                assert names_in(caught.value) == ["await_runs"]

    asyncio.run(await_runs())


def test_an_error_that_the_caller_handles_keeps_its_frames():
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fail).result()
    except ValueError as error:
        handled, before = error, names_in(error)
        failure_of(run_locally, Function("f", fail), max_retries=0, max_concurrency=1)
    assert names_in(handled) == before
    assert len(before) > 2


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("where", ["in this process", "in another process", "locally"])
def test_full_tracebacks(client, request, where, timeout):
    """The setting of the client applies to nodes in other processes too."""
    run = run_locally if where == "locally" else run_on_cluster
    if where == "in another process":
        client = request.getfixturevalue("processes")
    f = Function("f", fail, max_retries=0, timeout=timeout)
    with dask.config.set({"handoff.full-tracebacks": True}):
        error = failure_of(run, f, client)
    for text in (printed(error.__cause__), error.attempts[0].traceback):
        assert "in call\n" in text
        assert "_adapter/evaluation.py" in text
        assert "in fail\n" in text
    assert names_in(error)[:2] == ["failure_of", run.__name__]
    assert len(names_in(error)) > 2
    assert names_in(failure_of(run, f, client).__cause__) == ["fail"]


SCRIPT = """
import sys
import handoff_dask as handoff
from handoff_dask import DAG, Function

def parse(line):
    return int(line)

dag = DAG("script").add_function(Function("parse", parse, extra_args=["x"]))
getattr(handoff, sys.argv[1])(dag)
"""


@pytest.mark.parametrize("execute", ["execute", "execute_local"])
def test_what_a_failing_script_prints(tmp_path, execute):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", execute],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    printed = done.stderr
    assert printed.startswith("Traceback (most recent call last)"), "Dask's log would repeat each attempt"
    assert re.findall(r", line (\d+), in (\S+)", printed) == [("7", "parse"), ("10", "<module>")]
    assert printed.count("Traceback (most recent call last)") == 2
    assert "(same error each time):\n  - attempts 1 to 4 on " in printed


def test_failures_stay_in_the_log_of_other_clusters(caplog):
    dag = dag_of(Function("f", int, extra_args=["x"], max_retries=0))

    def logged(cluster):
        caplog.clear()
        with Client(cluster, set_as_default=False) as client:
            with pytest.raises(FunctionFailedError):
                handoff.execute(dag, client)
            assert isinstance(client.submit(int, "y", pure=False).exception(), ValueError)
        return [record.args[0] for record in caplog.records if record.msg.startswith("Compute Failed")]

    before = list(logging.getLogger("distributed.worker").filters)
    with handoff.local_cluster({"a": {"cpu": 1}, "b": {"cpu": 1}}) as cluster:
        (key,) = logged(cluster)
        assert key.startswith("int-"), "Dask's own tasks are logged as ever"
    assert logging.getLogger("distributed.worker").filters == before
    with (
        handoff.local_cluster({"a": {"cpu": 1}}),
        LocalCluster(processes=False, n_workers=1, dashboard_address=":0") as other,
    ):
        assert len(logged(other)) == 2


# ---------------------------------------------------------------------- modules that nodes lack


@pytest.fixture
def client_module(tmp_path, monkeypatch, processes):
    """A module that this process can import, and the nodes, which have started before, cannot."""
    (tmp_path / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("only_here")
    del sys.modules["only_here"]


def test_how_to_bring_a_module_to_the_nodes(processes, client_module):
    """The error gives advice, and the advice helps."""
    f = Function("f", client_module.double, extra_args=[4])
    error = failure_of(run_on_cluster, f, processes, timeout=60)
    (attempt,) = error.attempts
    assert isinstance(error.__cause__, ModuleNotFoundError)
    advice = str(error).splitlines()[-1]
    assert advice.startswith(f"Node {attempt.node!r} has no module 'only_here'. Install it on all nodes")
    assert "client.upload_file('only_here.py')" in advice
    for name in re.findall(r"dask\.distributed\.(\w+)", advice):
        assert hasattr(dask.distributed, name)
    assert "cloudpickle.register_pickle_by_value" in advice
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

    cloudpickle.register_pickle_by_value(client_module)
    try:
        assert handoff.execute(dag_of(f), processes, timeout=60)["f"] == 8
    finally:
        cloudpickle.unregister_pickle_by_value(client_module)
    failure_of(run_on_cluster, f, processes, timeout=60)
    processes.upload_file(client_module.__file__)
    assert handoff.execute(dag_of(f), processes, timeout=60)["f"] == 8


def test_advice_is_given_once_for_each_module(client):
    dag = dag_of(*(Function(n, f"no_such_module{n % 2}.part:f") for n in range(4)))
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute(dag, client, fail_fast=False)
    advice = [line for line in str(caught.value).splitlines() if line.startswith("Node ")]
    assert sorted(line.split("'")[3] for line in advice) == ["no_such_module0", "no_such_module1"]
    assert "upload_file('no_such_module0.py')" in str(caught.value)


def test_a_local_run_gives_no_advice_about_nodes():
    error = failure_of(run_locally, Function("f", "no_such_module:f"))
    assert str(error).endswith("ModuleNotFoundError(\"No module named 'no_such_module'\")")
