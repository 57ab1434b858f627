"""Tasks on the scheduler."""

from __future__ import annotations

import pytest
from distributed import KilledWorker, wait
from distributed.protocol import pickle
from helpers import gate, identity, pass_gate, until

from handoff_dask._adapter._dask import hooks, running, tasks


def fails(*args):
    raise ValueError("on purpose")


def address(cluster, name):
    return cluster.workers[name].address


def test_park(parked, scheduler):
    task = parked()
    task.arrive()
    assert task.ts in scheduler.unrunnable, (
        "a task restricted to an unknown address is not parked: HandoffPlugin.update_graph"
    )


def test_pin(parked, scheduler, cluster, on_loop):
    for name in "ba":
        task = parked(name=name)
        task.arrive()
        on_loop(tasks.pin, task.ts, address(cluster, name), {"slot": 1.0})
        on_loop(tasks.move, scheduler, {task.key: "processing"}, "test")
        wait(task.future)
        ran_on = {ws.name for ws in task.ts.who_has}
        assert ran_on == {name}, f"a task pinned to {name} ran on {ran_on}: Enactor._place"


def test_unpin(parked, scheduler, on_loop):
    task = parked()
    task.arrive()
    on_loop(tasks.unpin, task.ts)
    on_loop(tasks.move, scheduler, {task.key: "processing"}, "test")
    assert task.future.result(20).startswith("test"), "the task is still parked: Enactor.hand_over_to_dask"


def own_annotation(_):
    return dict(running.annotation(running.find_running().task, "test"))


def test_annotate(parked, scheduler, on_loop):
    task = parked(own_annotation)
    task.arrive()
    on_loop(tasks.annotate, task.ts, "test", {"attempt": 2})
    on_loop(tasks.unpin, task.ts)
    on_loop(tasks.move, scheduler, {task.key: "processing"}, "test")
    assert task.future.result(20) == {"attempt": 2}, "the worker does not receive annotations: Enactor._place"


def test_move(parked, scheduler, cluster, on_loop):
    first, last = parked(name="first"), parked(name="last")
    for task in (first, last):
        task.arrive()
        on_loop(tasks.pin, task.ts, address(cluster, "a"), None)
    on_loop(tasks.move, scheduler, {last.key: "processing", first.key: "processing"}, "test-move")
    wait([first.future, last.future])
    moved = [e[0] for e in scheduler.transition_log if e[4] == "test-move" and e[2] == "processing"]
    assert moved == [first.key, last.key], "Dask does not process recommendations from the end: Enactor"
    nowhere = parked(name="nowhere")
    nowhere.arrive()
    on_loop(tasks.pin, nowhere.ts, "inproc://nobody", None)
    on_loop(tasks.move, scheduler, {nowhere.key: "processing"}, "test-move")
    assert nowhere.ts.state == "no-worker", "a task pinned to an unknown address is not parked again: Enactor"


def test_fail_parked(parked, scheduler, on_loop):
    task = parked()
    task.arrive()
    on_loop(tasks.fail_parked, scheduler, task.key, pickle.dumps(KeyError("parked")), "test")
    with pytest.raises(KeyError, match="parked"):
        task.future.result(20)


def test_fail_waiting(parked, scheduler, on_loop):
    task = parked()
    assert task.ts.state == "waiting"
    on_loop(tasks.fail_waiting, scheduler, task.ts, pickle.dumps(KeyError("waiting")), "test")
    with pytest.raises(KeyError, match="waiting"):
        task.future.result(20)
    assert task.before.status == "pending", "the failure spreads to inputs: Enactor.hand_over_to_dask"


def test_set_retry(client, scheduler, patches, on_loop):
    attempts = []

    def callback(key, **message):
        attempts.append(key)
        tasks.set_retry(scheduler.tasks[key], len(attempts) < 3)

    on_loop(hooks.before_task_erred, patches, scheduler, callback)
    wait(client.submit(fails, pure=False))
    assert len(attempts) == 3, (
        "Dask does not read TaskState.retries when an attempt fails: HandoffPlugin._task_erred"
    )


def test_is_current_attempt(client, scheduler, patches, on_loop):
    answers = []

    def callback(key, run_id, **message):
        ts = scheduler.tasks[key]
        answers.append(
            (tasks.is_current_attempt(ts, run_id), tasks.is_current_attempt(ts, run_id - 1), run_id)
        )
        tasks.set_retry(ts, len(answers) < 2)

    on_loop(hooks.before_task_erred, patches, scheduler, callback)
    future = client.submit(fails, pure=False)
    wait(future)
    (first_matches, stale_matches, first), (second_matches, _, second) = answers
    assert first_matches, "workers' messages lack the run id of the task: HandoffPlugin._task_erred"
    assert second_matches
    assert not stale_matches
    assert first != second, "attempts share a run id, so stale messages match: HandoffPlugin._task_erred"
    assert not tasks.is_current_attempt(scheduler.tasks[future.key], second), "the attempt has ended"
    assert not tasks.is_current_attempt(None, second)


def test_attempt_id(client, scheduler, patches, on_loop):
    same = []

    def callback(key, run_id, **message):
        same.append(tasks.attempt_id(scheduler.tasks[key]) == run_id)

    on_loop(hooks.before_task_erred, patches, scheduler, callback)
    wait(client.submit(fails, pure=False))
    assert same == [True], "workers' messages lack the run id of the task: plugin.report_in"


def test_attached():
    other = {"action": "compute", "start": 1.0, "stop": 2.0}
    first, last = ({**other, "test": n} for n in (1, 2))
    assert tasks.attached([first, other, last, other], "test") == 2
    assert (
        tasks.attached([other], "test") is tasks.attached([], "test") is tasks.attached(None, "test") is None
    )


def test_postpone_timeout(parked, scheduler, on_loop):
    ours, other = parked(name="ours"), parked(name="other")
    for task in (ours, other):
        task.arrive()
    before = scheduler.unrunnable[other.ts]
    on_loop(tasks.postpone_timeout, scheduler, lambda key: key == ours.key, before + 100)
    assert list(scheduler.unrunnable.items()) == [(other.ts, before), (ours.ts, before + 100)], (
        "the record of tasks without a worker has changed: HandoffPlugin._postpone_timeout"
    )


def never_finished_before(name):
    return pass_gate(name)


def test_forget_stealing(client, scheduler, on_loop):
    door = gate("stealing")
    future = client.submit(never_finished_before, "stealing", pure=False)
    door.await_inside(1)
    ts = scheduler.tasks[future.key]
    unknown = scheduler.extensions["stealing"].unknown_durations
    assert ts in unknown[ts.prefix.name], "the leak is fixed: remove tasks.forget_stealing"
    on_loop(tasks.forget_stealing, scheduler, ts)
    assert ts.prefix.name not in unknown
    door.open()


def test_recall(client, cluster, scheduler, seen, on_loop, queued):
    messages = seen(hooks.after_steal_response)
    door, running, waiting = queued("recall")
    for future, there in ((running, True), (waiting, False)):
        on_loop(tasks.recall, scheduler, address(cluster, "a"), future.key, "test")
        until(lambda: messages)
        messages.clear()
        assert (future.key in cluster.workers["a"].state.tasks) == there, (
            "steal-request takes a running task, or leaves one that has not started: Enactor._recall"
        )
    on_loop(tasks.recall, scheduler, "inproc://nobody", waiting.key, "test")  # an unknown worker
    on_loop(tasks.move, scheduler, {waiting.key: "released"}, "test")
    door.open()
    wait([running, waiting])


def never_finished(name):
    return pass_gate(name)


def test_learnt_duration(client, scheduler):
    wait(client.submit(identity, 1, pure=False))
    seconds = tasks.learnt_duration(scheduler, "identity")
    assert isinstance(seconds, float), "the record of durations by name has changed: Requests._hint_durations"
    assert seconds >= 0
    assert tasks.learnt_duration(scheduler, "nobody has run this") is None
    door = gate("learnt")
    future = client.submit(never_finished, "learnt", pure=False)
    door.await_inside(1)
    assert tasks.learnt_duration(scheduler, "never_finished") is None, "an unknown duration is not negative"
    door.open()
    wait(future)


def test_allowed_failures():
    assert tasks.allowed_failures(KilledWorker("x", None, 3)) == 3, "plugin.describe_error"
    assert tasks.allowed_failures(ValueError()) is None
