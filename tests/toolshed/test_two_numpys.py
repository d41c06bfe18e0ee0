"""Values pass between numpy 2 and numpy 1 for real: two environments, and another Python."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.toolshed.bridge_start import probing
from toolshed.backend import BackEnd, BackEndSpec, Request, Voice
from toolshed.environments.build import create
from toolshed.environments.environment import Environment, bridged
from toolshed.errors import ConfigError
from toolshed.types import TextReply

ENVIRONMENTS = Path(__file__).resolve().parent.parent / "environments"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["numpy1", "python310"])
def older(request: pytest.FixtureRequest) -> Environment:
    """A real environment with numpy 1.26; once also with another Python."""
    try:
        return create(str(ENVIRONMENTS / request.param))
    except ConfigError as error:
        if "no Python 3.10 was found" in str(error):
            pytest.skip(str(error))
        raise


def test_values_pass_between_numpy_2_and_numpy_1(older: Environment) -> None:
    assert np.__version__.startswith("2.")
    rng = np.random.default_rng(0)
    values: dict[str, object] = {
        "cloud": rng.random((1000, 3)),
        "mask": rng.random((40, 30)) > 0.5,
        "half": rng.random(7).astype(np.float16),
        "big_endian": np.arange(5, dtype=">i4"),
        "strided": np.arange(24).reshape(4, 6)[::2, ::-1],
        "point": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "complex": rng.random(3).astype(np.complex64),
        "plain": {"a": [1, (2.5, None, "ä"), True, b"\x00\xff"]},
    }
    tools = probing(older)
    reply = tools.echo(**values)
    assert isinstance(reply, TextReply)
    assert reply.text.startswith("1.26.4 ")
    back = {each.name: each.value for each in reply.variables}
    assert back["plain"] == values["plain"]
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            found = back[name]
            assert isinstance(found, np.ndarray) and found.dtype == value.dtype
            assert found.shape == value.shape and found.tobytes() == value.tobytes()
    tools.close()


def test_a_pickled_array_does_not_pass_which_is_why_there_is_a_codec(older: Environment) -> None:
    pickled = pickle.dumps(np.arange(3.0), protocol=5)
    done = subprocess.run(
        [str(older.python), "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"],
        input=pickled,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"No module named 'numpy._core.numeric'" in done.stderr


def test_another_python_answers_with_a_light_back_end(older: Environment) -> None:
    spec = BackEndSpec(
        name="vision_ops",
        location="toolshed.backends.light_vision_ops:LightVisionOps",
        arguments={},
        methods=("index_at",),
        voice=Voice(profile="released", defects="fixed"),
    )
    request = Request(
        family="vision_ops",
        method="index_at",
        arguments={"data": np.full((4, 4), 7.0), "u": 0.5, "v": 0.5},
    )
    there = BackEnd(bridged(spec, str(older.python)))
    assert there.answer(request).text == "Pixel value at (0.500, 0.500) is 7.0"
