"""Questions of the tabletop for tests of evaluation."""

from __future__ import annotations

import pytest

from rl.tabletop import Order, make_questions
from rl.types import Question


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("questions")
    return make_questions(Order(kinds=("point", "leftmost"), num=4, seed=900), folder, name="q")
