"""The ledger: amounts are acquired and released exactly, and anything else raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling.harness import Core, amounts, fn, many, node

from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.node import Devices, LedgerError, Node, Pool


def test_acquiring_more_than_is_free_raises():
    pool = Pool({"cpu": 3, "memory": 10})
    pool.acquire({"cpu": 2, "memory": 4})
    with pytest.raises(LedgerError, match="does not fit"):
        pool.acquire({"memory": 1, "cpu": 2})
    assert pool.used == {"cpu": 2, "memory": 4}
    pool.acquire({"cpu": 1})
    assert pool.available("cpu") == 0


def test_releasing_more_than_is_used_raises():
    pool = Pool({"cpu": 3, "memory": 10})
    pool.acquire({"cpu": 2, "memory": 4})
    with pytest.raises(LedgerError, match="release"):
        pool.release({"memory": 4, "cpu": 3})
    with pytest.raises(LedgerError, match="release"):
        pool.release({"gpu": 1})
    assert pool.used == {"cpu": 2, "memory": 4}


def test_missing_resource_counts_as_zero():
    pool = Pool({"cpu": 3})
    assert not pool.fits({"gpu": 1})
    assert not pool.holds({"gpu": 1})
    assert pool.available("gpu") == 0
    with pytest.raises(LedgerError):
        pool.acquire({"cpu": 1, "gpu": 1})


def test_holds_checks_capacity_and_fits_checks_free_amounts():
    pool = Pool({"cpu": 3})
    pool.acquire({"cpu": 2})
    assert pool.holds({"cpu": 3})
    assert not pool.fits({"cpu": 2})
    assert pool.fits({"cpu": 1})
    assert not pool.holds({"cpu": 4})


@given(st.lists(st.integers(1, 10), max_size=20), st.randoms(use_true_random=False))
def test_releases_cancel_acquisitions_in_any_order(costs, random):
    pool = Pool({"cpu": 40})
    held = []
    for units in costs:
        fits = sum(held) + units <= 40
        assert pool.fits({"cpu": units}) == fits
        if fits:
            pool.acquire({"cpu": units})
            held.append(units)
    random.shuffle(held)
    for units in held:
        pool.release({"cpu": units})
    assert pool.used == {"cpu": 0}


# devices


def take(devices: Devices, gpu: float) -> dict[int, float] | None:
    chosen = devices.choose(int(gpu * UNIT))
    if chosen is None:
        return None
    devices.take(chosen)
    return {i: n / UNIT for i, n in chosen.items()}


def test_whole_devices_are_exclusive():
    devices = Devices(3 * UNIT)
    assert take(devices, 1) == {0: 1}
    assert take(devices, 2) == {1: 1, 2: 1}
    assert take(devices, 1) is None
    devices.release({1: UNIT})
    assert take(devices, 1) == {1: 1}


def test_fractions_share_the_fullest_device():
    devices = Devices(2 * UNIT)
    assert take(devices, 0.25) == {0: 0.25}
    assert take(devices, 0.5) == {0: 0.5}  # not on device 1, which stays whole
    assert take(devices, 0.5) == {1: 0.5}
    assert take(devices, 0.25) == {0: 0.25}
    assert take(devices, 1) is None


def test_whole_device_and_a_fraction():
    devices = Devices(2 * UNIT)
    assert take(devices, 0.5) == {0: 0.5}
    assert take(devices, 1.5) == {0: 0.5, 1: 1}
    assert devices.free == [0, 0]


def test_fractions_of_several_devices_do_not_add_up():
    devices = Devices(2 * UNIT)
    devices.take({0: UNIT // 2, 1: UNIT // 2})
    assert take(devices, 1) is None
    assert take(devices, 0.75) is None
    assert take(devices, 0.5) == {0: 0.5}


def test_fractional_capacity_is_a_device():
    devices = Devices(UNIT + UNIT // 2)
    assert take(devices, 1.5) == {0: 1, 1: 0.5}
    devices = Devices(UNIT + UNIT // 2)
    assert take(devices, 0.5) == {1: 0.5}
    assert take(devices, 1) == {0: 1}


@given(
    st.integers(0, 4),
    st.lists(st.sampled_from([0.25, 1 / 3, 0.5, 0.75, 1, 1.5, 2]), max_size=12),
    st.randoms(use_true_random=False),
)
def test_devices_are_never_overcommitted_and_end_free(count, wanted, random):
    devices = Devices(count * UNIT)
    held = []
    for amount in wanted:
        chosen = devices.choose(int(amount * UNIT))
        if chosen is None and held:
            devices.release(held.pop(random.randrange(len(held))))
        elif chosen is not None:
            assert sum(chosen.values()) == int(amount * UNIT)
            assert sum(n == UNIT for n in chosen.values()) == int(amount)
            devices.take(chosen)
            held.append(chosen)
        assert all(0 <= free <= UNIT for free in devices.free)
    for chosen in held:
        devices.release(chosen)
    assert devices.free == [UNIT] * count


# nodes


@given(st.integers(1, 3 * UNIT), st.integers(1, 3 * UNIT))
def test_idle_devices_hold_their_capacity(capacity, cost):
    """Whether a node could ever hold a cost therefore depends on amounts alone."""
    assert (Devices(capacity).choose(cost) is not None) == (cost <= capacity)


def test_node_holds_what_its_devices_hold():
    a = node("a", "cpu 1, gpu 1.5")
    assert a.holds(amounts("gpu 1.5"))
    assert a.holds(amounts("gpu 0.75"))
    assert not node("b", "cpu 1, gpu 0.5").holds(amounts("gpu 0.75"))
    # Capacity of 1.5 devices is one whole and one half: it does not hold 0.75 twice.
    core = Core()
    core.join(a)
    core.run(**many(2, fn("gpu 0.75")))
    assert core.decide() == ["f0@a"]


def test_functions_get_different_devices(core):
    core.nodes(a="cpu 8, gpu 3")
    core.run(x=fn("gpu 1"), y=fn("gpu 2"), z=fn("gpu 1"))
    assert core.decide() == ["x@a", "y@a"]
    assert core["x"].device_indices() == {"gpu": (0,)}
    assert core["y"].device_indices() == {"gpu": (1, 2)}
    core.finish("y")
    assert core["y"].attempts[0].devices == {"gpu": (1, 2)}
    assert core.decide() == ["z@a"]
    assert core["z"].device_indices() == {"gpu": (1,)}


def test_fractions_share_a_device(core):
    core.nodes(a="cpu 8, gpu 2")
    core.run(**many(4, fn("gpu 0.5")), whole=fn("gpu 1"))
    assert core.decide() == ["f0@a", "f1@a", "f2@a", "f3@a"]
    assert [core[f"f{i}"].device_indices()["gpu"] for i in range(4)] == [(0,), (0,), (1,), (1,)]
    core.finish("f0 f2")
    assert core.decide() == []  # half of each is free, but no whole device
    core.finish("f3")
    assert core.decide() == ["whole@a"]
    assert core["whole"].device_indices() == {"gpu": (1,)}


def test_function_without_gpu_cost_has_no_devices(core):
    core.nodes(a="cpu 1, gpu 1")
    core.run(x=fn("cpu 1"))
    core.decide()
    assert core["x"].device_indices() == {}


# resizing


def test_growing_adds_free_capacity(core):
    core.nodes(a="cpu 1, threads 9")
    core.run(**many(3, fn("cpu 1")))
    assert core.decide() == ["f0@a"]
    core.resize(a="cpu 3")
    assert core.decide() == ["f1@a", "f2@a"]
    assert core.state.nodes["a"].capacity == amounts("cpu 3, threads 9")


def test_shrinking_below_use_waits_for_releases(core):
    core.nodes(a="cpu 4")
    core.run(**many(6, fn("cpu 1")))
    assert len(core.decide()) == 4
    core.resize(a="cpu 2")
    assert core.state.nodes["a"].available("cpu") == 0
    core.finish("f0 f1")
    assert core.decide() == []
    core.finish("f2")
    assert core.decide() == ["f4@a"]
    assert core.used("a") == {"cpu": 2}


def test_removed_resource_can_still_be_released(core):
    core.nodes(a="cpu 2, memory 100")
    core.run(x=fn("cpu 1, memory 60"), y=fn("cpu 1, memory 60"))
    assert core.decide() == ["x@a"]
    core.resize(a="cpu 2")
    assert core.used("a") == {"cpu": 1, "memory": 60}
    core.finish("x")
    assert core.used("a") == {}
    assert core.decide() == []
    core.resize(a="cpu 2, memory 60")
    assert core.decide() == ["y@a"]


def test_added_resource(core):
    core.nodes(a="cpu 2", b="licence 1")
    core.run(x=fn("cpu 1"), y=fn("licence 1, cpu 1"), options={"wait_for_nodes": 9})
    core.resize(a="cpu 2, licence 1")
    assert core.decide() == ["r begins", "x@a", "y@a"]
    assert core.used("a") == {"cpu": 2, "licence": 1}


def test_resizing_keeps_devices(core):
    core.nodes(a="cpu 8, gpu 2")
    core.run(**many(6, fn("gpu 1")))
    assert core.decide() == ["f0@a", "f1@a"]
    core.resize(a="cpu 8, gpu 4")
    assert core.decide() == ["f2@a", "f3@a"]
    assert [core[f"f{i}"].device_indices()["gpu"] for i in range(4)] == [(0,), (1,), (2,), (3,)]
    core.finish("f0 f2")
    core.resize(a="cpu 8, gpu 3")
    assert core.decide() == ["f4@a"]
    assert core["f4"].device_indices() == {"gpu": (0,)}


def test_removed_devices_are_not_assigned(core):
    core.nodes(a="cpu 8, gpu 3")
    core.run(**many(3, fn("gpu 1")), half=fn("gpu 0.5"), one=fn("gpu 1"), other=fn("gpu 1"), ready="f0 f1 f2")
    core.decide()
    core.finish("f0 f1")
    core.resize(a="cpu 8, gpu 2")  # f2 is on device 2
    core.ready("half one other")
    assert core.decide() == ["half@a"]
    assert core["half"].device_indices() == {"gpu": (0,)}
    core.finish("f2")
    assert core.decide() == ["one@a"]
    assert core["one"].device_indices() == {"gpu": (1,)}
    core.finish("half")
    assert core.decide() == ["other@a"]
    assert core["other"].device_indices() == {"gpu": (0,)}


def test_removed_shared_device_is_not_filled_up(core):
    core.nodes(a="cpu 8, gpu 2")
    core.run(x=fn("gpu 1"), y=fn("gpu 0.5"), z=fn("gpu 0.25"), ready="x y")
    core.decide()
    assert core["y"].device_indices() == {"gpu": (1,)}
    core.finish("x")
    core.resize(a="cpu 8, gpu 1")
    core.ready("z")
    assert core.decide() == ["z@a"]
    assert core["z"].device_indices() == {"gpu": (0,)}


def test_repr_of_a_node_is_its_name():
    assert Node("a", {}).aliases == {"a"}
    assert Node(3, {}, ["tcp://x:1"]).aliases == {"3", "tcp://x:1"}
