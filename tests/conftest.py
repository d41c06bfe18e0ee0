"""Fixtures that several rooms share: one thread, one tiny checkpoint, one Ray cluster and one
rollout engine per run."""

from __future__ import annotations

import os

# Before torch is imported: on small models a second thread costs 20 times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import atexit
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import browser as browser
from toolshed.config import parse_tools
from toolshed.serving.cluster import Cluster
from toolshed.types import ToolSpec

if TYPE_CHECKING:
    from tests.rl.engines import Engines

# A shell that runs the tests in the background has interrupts ignored, which children inherit; some
# tests interrupt children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Else commands would find the tools that the developer's own server keeps.
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="toolshed-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def demo_specs() -> list[tuple[ToolSpec, ...]]:
    """The demo's tools: step 1's, then all."""
    from rl.tiny import TinyConfig, tool_sets

    return tool_sets(TinyConfig())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, demo_specs: list[tuple[ToolSpec, ...]]) -> Path:
    """A random checkpoint of the Qwen2.5-VL architecture with the demo's tokenizer."""
    from rl.tiny import make_random

    folder = tmp_path_factory.mktemp("tiny")
    make_random(folder, demo_specs, seed=0)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Its address. Hosts opened meanwhile use it and leave it running."""
    Cluster.enter(parse_tools({"roborefer": {"backend": "light"}}), num_cpus=4)
    import ray

    yield ray.get_runtime_context().gcs_address
    Cluster.leave()


@pytest.fixture(scope="session")
def engines(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """The one engine of the run, a stock sglang server; skips where its environment is absent."""
    from tests.rl.engines import Engines, skip_without_engine

    skip_without_engine()
    with Engines(tiny, tmp_path_factory.mktemp("engines")) as found:
        yield found
