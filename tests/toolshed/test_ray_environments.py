"""Replicas in tool environments of their own: another numpy under Ray, another Python behind the
bridge, and what is said of an environment that is not there (slow)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.toolshed.fake_tools import HERE, picture
from toolshed.config import parse_tools
from toolshed.environments.build import create
from toolshed.errors import ConfigError
from toolshed.shed import Toolshed
from toolshed.types import DepthEstimate, Json, StoredArray, ToolCall

ENVIRONMENTS = Path(__file__).resolve().parent.parent / "environments"
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def chain(environment: str) -> dict[str, Json]:
    """A map is made in the environment and read here, and the other way round."""
    return {
        "host": "ray",
        "replies": "compact",
        "depth_estimator": {
            "backend": "tests.toolshed.plain_depth:PlainDepth",
            "environment": environment,
        },
        "vision_ops": {"backend": f"{HERE}:FakeVisionOps"},
    }


@pytest.mark.parametrize("name", ["numpy1", "python310"])
def test_arrays_pass_between_environments(name: str) -> None:
    folder = str(ENVIRONMENTS / name)
    try:
        create(folder)
    except ConfigError as error:
        if "no Python 3.10 was found" in str(error):
            pytest.skip(str(error))
        raise
    assert np.__version__.startswith("2.")
    with Toolshed.open(parse_tools(chain(folder))) as shed:
        session = shed.session([picture(size=300)])
        depth = session.call_now(
            ToolCall(id="1", name="depth_estimator.estimate_depth", arguments={"image_index": 0})
        )
        assert depth.status == "ok", depth
        assert isinstance(session.variables["depth_map"].value, StoredArray)
        assert isinstance(depth.value, DepthEstimate) and depth.value.depth_m[-1, 0] == 300
        assert depth.value.focal_length_px == 1.0, "the major version of numpy over there"
        read = session.call_now(
            ToolCall(
                id="2", name="vision_ops.index_at", arguments={"data": "$depth_map", "u": 0, "v": 1}
            )
        )
        assert read.text == '{"depth": 300.00}'


def test_a_missing_environment_is_said_before_anything_starts() -> None:
    began_s = time.perf_counter()
    with pytest.raises(ConfigError, match=r"depth_estimator|/no/such/python"):
        Toolshed.open(parse_tools(chain("/no/such/python")))
    assert time.perf_counter() - began_s < 15
