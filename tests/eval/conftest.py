"""Questions of the tabletop for tests of evaluation, and answers that others recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.tabletop.dataset import Order, make_questions
from rl.types import Question


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    folder = tmp_path_factory.mktemp("questions")
    return make_questions(Order(kinds=("point", "leftmost"), num=4, seed=900), folder, name="q")


@pytest.fixture(scope="session")
def recorded_eval() -> Path:
    """The folder of recorded answers beside the checkout; for tests marked ``shared``."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "recorded_eval"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: recorded answers of other evaluators")
    return folder
