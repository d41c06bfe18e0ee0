"""Weights & Biases and Trackio: what they are told, by their documented API, and what happens where
one is missing or away.

Neither package is installed here: a module that records its calls stands for each, with the
signatures that their documentation gives. The real ones were not run.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.run_dir import RunDir
from sft.trackers import TRACKERS, check_trackers
from toolshed.errors import ConfigError

WANDB = """
told = []
down = False

class Run:
    def define_metric(self, name, step_metric=None):
        told.append(["define", name, step_metric])

    def log(self, data, step=None):
        if down:
            raise ConnectionError("no route to host")
        told.append(["log", data, step])

    def finish(self):
        told.append(["finish"])

def init(*, project=None, id=None, name=None, dir=None, config=None, resume=None):
    if down == "always":
        raise ConnectionError("no route to host")
    told.append(["init", project, id, name, resume, config])
    return Run()
"""
TRACKIO = """
told = []

def init(project, name=None, *, config=None, resume="never"):
    told.append(["init", project, name, resume, config])

def log(metrics, step=None):
    told.append(["log", metrics, step])

def finish():
    told.append(["finish"])
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Modules that record, on the path as installed ones are."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name, text in (("wandb", WANDB), ("trackio", TRACKIO)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield {name: importlib.import_module(name) for name in TRACKERS}
    for name in TRACKERS:
        sys.modules.pop(name)


def run(folder: Path, steps: range) -> None:
    opened = RunDir(folder, track=["wandb", "trackio"])
    opened.save_config("lr: 0.5\ntrack: [wandb, trackio]\n")
    for step in steps:
        opened.log(step, {"loss": 1 / step, "source": "drills", "counts": [1, 2]})
    opened.close()


def test_numbers_arrive_and_a_run_that_goes_on_stays_one(
    packages: dict[str, Any], tmp_path: Path
) -> None:
    run(tmp_path / "run", range(1, 3))
    run(tmp_path / "run", range(2, 4))
    wandb, trackio = packages["wandb"].told, packages["trackio"].told
    begun = [call for call in wandb if call[0] == "init"]
    assert (
        begun[0] == begun[1] and begun[0][1] == "spacetools" and begun[0][3:5] == ["run", "allow"]
    )
    assert begun[0][5]["lr"] == 0.5
    assert ["define", "*", "step"] in wandb
    logged = [call[1:] for call in wandb if call[0] == "log"]
    assert logged == [[{"step": step, "loss": 1 / step}, None] for step in (1, 2, 2, 3)]
    assert [call[1:] for call in trackio if call[0] == "log"] == [
        [{"loss": 1 / step}, step] for step in (1, 2, 2, 3)
    ]
    begun = [call for call in trackio if call[0] == "init"]
    assert begun[0] == begun[1] and begun[0][3] == "allow"
    assert wandb[-1] == trackio[-1] == ["finish"]


@pytest.mark.parametrize("when", [True, "always"])
def test_a_service_that_is_away_is_said_once_and_counted(
    when: object, packages: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packages["wandb"].down = when
    run(tmp_path / "run", range(1, 4))
    told = capsys.readouterr().err
    assert told.count("ConnectionError: no route to host") == 1
    assert "wandb did not get" in told and "trackio did not" not in told
    assert len(packages["trackio"].told) == 5
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_missing_package_is_said_with_the_command_that_installs_it(tmp_path: Path) -> None:
    for name in TRACKERS:
        if importlib.util.find_spec(name) is None:
            with pytest.raises(ConfigError, match=rf'pip install -e "\.\[{name}\]"'):
                RunDir(tmp_path / name, track=[name])
            assert not (tmp_path / name).exists()
    with pytest.raises(ConfigError, match=r"show\.track=neptune is none of wandb, trackio"):
        check_trackers(["neptune"])


def test_how_a_run_is_shown_may_change_while_it_goes_on(tmp_path: Path) -> None:
    for text in ("lr: 1\nshow: {progress: auto}\n", "lr: 1\nshow: {progress: none}\n"):
        opened = RunDir(tmp_path / "run")
        opened.save_config(text)
        opened.log(1, {"loss": 1.0})
        opened.close()
