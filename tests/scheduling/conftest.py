from __future__ import annotations

import pytest
from scheduling.harness import Core


@pytest.fixture
def core():
    core = Core()
    yield core
    core.state.check()
