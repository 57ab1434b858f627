"""Names under which durations are learnt."""

from __future__ import annotations

import operator

from hypothesis import given
from hypothesis import strategies as st

from handoff_dask import Function
from handoff_dask._model.function import MEMBERS, MOST_SORTS, learning_names


def names_of(ids, code=operator.add):
    return learning_names({id: Function(id=id, args=[], code=code) for id in ids})


def test_ids_that_are_numbered_share_a_name():
    names = names_of(["blur-1", "blur-2", "sharpen-1"])
    assert names["blur-1"] == names["blur-2"]
    assert names["blur-1"].endswith("add blur")
    assert names["sharpen-1"] != names["blur-1"]


def test_a_small_dag_whose_ids_are_all_different_keeps_them_apart():
    assert len(set(names_of(["load", "clean", "train", "score"]).values())) == 4


def test_ids_that_are_file_names_share_the_name_of_their_code():
    ids = [f"data/site-{i}/x{i * 7919}.fits" for i in range(1000)]
    assert len(set(names_of(ids).values())) == 1
    assert set(names_of(ids, code=operator.sub).values()).isdisjoint(names_of(ids).values())


@given(st.integers(1, 200), st.integers(1, 6))
def test_there_are_few_names_however_many_ids(sorts, members):
    ids = [f"sort{chr(0x4E00 + s)}-{m}" for s in range(sorts) for m in range(members)]
    names = set(names_of(ids).values())
    assert len(names) == (sorts if sorts <= MOST_SORTS or members >= MEMBERS else 1)
    assert len(names) <= max(MOST_SORTS, len(ids) / MEMBERS)
