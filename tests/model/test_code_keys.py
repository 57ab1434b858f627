"""The keys under which functions are learnt."""

from __future__ import annotations

import functools
import operator
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from handoff_dask import Function
from handoff_dask._model.code_keys import (
    MAX_STEMS,
    MIN_MEMBERS,
    code_key,
    code_keys,
    name_in,
    without_stem,
)


def keys_of(ids, code=operator.add):
    return code_keys({id: Function(id=id, args=[], code=code) for id in ids})


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


# ---------------------------------------------------------------------- the part that names the code

SOURCE = """
def train(x):
    return [y for y in range(x) if y in {'a', 'b', 'c', 'd'}] + [%s]
"""


def compiled(constant, name="train"):
    module = {"__name__": "module"}
    exec(SOURCE % constant, module)
    module["train"].__qualname__ = name
    return module["train"]


class Model:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, x):
        return x

    def fit(self, x):
        return x


def test_functions_of_one_name_have_keys_of_their_own():
    assert code_key(compiled(1)) == code_key(compiled(1))
    assert code_key(compiled(1)) != code_key(compiled(2)), "another body"
    other = compiled(1)
    other.__module__ = "elsewhere"
    inner = compiled(1, "Outer.train")
    assert len({code_key(compiled(1)), code_key(other), code_key(inner)}) == 3
    assert {name_in(f"{code_key(f)} stem") for f in (compiled(1), other, inner)} == {"train"}


def test_bound_values_do_not_count():
    scale = [lambda x, n=n: x * n for n in range(3)]
    assert len(set(map(code_key, scale))) == 1
    assert len({code_key(functools.partial(compiled(1), n)) for n in range(3)}) == 1
    assert code_key(functools.partial(compiled(1), 5)) == code_key(compiled(1))
    assert code_key(Model(1)) == code_key(Model(2))
    assert len({code_key(Model(1)), code_key(Model), code_key(Model(1).fit)}) == 3
    assert code_key(functools.lru_cache(compiled(1))) == code_key(compiled(1))


def test_keys_of_code_without_bytecode():
    assert code_key("package.module:train") == "package.module:train"
    assert code_key(len) == "builtins:len"
    assert code_key(None).startswith("builtins:NoneType")


def test_keys_are_the_same_in_every_process():
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from handoff_dask._model.code_keys import code_key\n"
        "module = {'__name__': 'module'}\n"
        f"exec({SOURCE % 1!r}, module)\n"
        "print(code_key(module['train']))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in (1, 2)
    }
    assert keys == {code_key(compiled(1))}


def test_the_key_without_its_stem_is_shared_by_all_functions_of_the_code():
    keys = code_keys({i: Function(id=i, code=compiled(1)) for i in ("load", "the rest 5", 7)})
    assert {without_stem(key) for key in keys.values()} == {code_key(compiled(1)) + " "}
    assert without_stem(without_stem(keys["load"])) == without_stem(keys["load"])
