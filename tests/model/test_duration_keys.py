"""The keys under which durations are learnt."""

from __future__ import annotations

import operator

from hypothesis import given
from hypothesis import strategies as st

from handoff_dask import Function
from handoff_dask._model.function import MAX_STEMS, MIN_MEMBERS, duration_keys


def keys_of(ids, code=operator.add):
    return duration_keys({id: Function(id=id, args=[], code=code) for id in ids})


def test_numbered_ids_share_a_key():
    keys = keys_of(["blur-1", "blur-2", "sharpen-1"])
    assert keys["blur-1"] == keys["blur-2"]
    assert keys["blur-1"].endswith("add blur")
    assert keys["sharpen-1"] != keys["blur-1"]


def test_a_small_dag_of_distinct_ids_has_distinct_keys():
    assert len(set(keys_of(["load", "clean", "train", "score"]).values())) == 4


def test_ids_made_of_file_names_share_the_key_of_their_code():
    ids = [f"data/site-{i}/x{i * 7919}.fits" for i in range(1000)]
    assert len(set(keys_of(ids).values())) == 1
    assert set(keys_of(ids, code=operator.sub).values()).isdisjoint(keys_of(ids).values())


@given(st.integers(1, 200), st.integers(1, 6))
def test_the_number_of_keys_is_bounded(stems, members):
    ids = [f"sort{chr(0x4E00 + s)}-{m}" for s in range(stems) for m in range(members)]
    keys = set(keys_of(ids).values())
    assert len(keys) == (stems if stems <= MAX_STEMS or members >= MIN_MEMBERS else 1)
    assert len(keys) <= max(MAX_STEMS, len(ids) / MIN_MEMBERS)
