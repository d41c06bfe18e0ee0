"""The real back-ends on tiny random checkpoints, through the code that loads a real one.

Their processors need torchvision, so everything runs in the tool environment ``sam2``, in one
process: toolshed.backends.sam2:Sam2, sam3:Sam3, depth_pro:DepthPro and molmo2:Molmo2.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKS = [
    node.name
    for node in ast.parse(Path(__file__).with_name("tiny_checks.py").read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]
pytestmark = pytest.mark.slow


def interpreter() -> Path:
    """Of the environment ``sam2``; skips where it was not made."""
    folder = Path(os.environ.get("TOOLSHED_ENVS", ROOT / ".envs"))
    python = folder.absolute() / "sam2" / "bin" / "python"
    if not python.exists():
        pytest.skip("no tool environment 'sam2'; make it with: toolshed env create sam2 --cpu")
    return python


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tiny_checkpoints")
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    settings["PYTHONWARNINGS"] = "error:The given NumPy array is not writable:UserWarning"
    done = subprocess.run(
        [interpreter(), "-m", "tests.toolshed.tiny_checks", folder],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_on_tiny_checkpoints(check: str, results: dict[str, str]) -> None:
    assert not results[check], results[check]
