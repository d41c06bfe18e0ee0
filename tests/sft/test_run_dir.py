"""A run's folder: one writer, whole files, nothing beyond the last checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.checkpoint import EXPORT
from sft.run_dir import (
    RunDir,
    changed_keys,
    check_folder,
    check_writable,
    draft_folder,
    whole_checkpoints,
    write_atomic,
)
from tests.sft.limits import largest_file
from toolshed.errors import ConfigError
from toolshed.types import Json


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    opened = RunDir(tmp_path / "run")
    yield opened
    opened.close()


def test_a_line_torn_by_a_kill_is_dropped(run: RunDir) -> None:
    run.log(1, {"loss": 0.5})
    run.log(2, {"loss": 0.25})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [line["step"] for line in run.metrics()] == [1, 2]
    run.rewind(2)
    run.log(3, {"loss": 0.1})
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_rewinding_forgets_later_steps_and_nothing_else(run: RunDir) -> None:
    for step in range(1, 6):
        run.log(step, {"loss": 1 / 3 * step, "source": "drills"})
    before = run.metrics_file.read_text().splitlines()
    run.rewind(3)
    assert run.metrics_file.read_text().splitlines() == before[:3]
    run.rewind(0)
    assert run.metrics() == []


def test_rewinding_an_empty_folder_is_fine(run: RunDir) -> None:
    run.rewind(0)
    assert run.metrics() == [] and run.latest_checkpoint() is None


def test_a_second_process_is_refused_until_the_first_has_ended(run: RunDir) -> None:
    with pytest.raises(ConfigError, match="in use by another process"):
        RunDir(run.path)
    code = f"from sft.run_dir import RunDir; RunDir({str(run.path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "in use by another process" in done.stderr
    run.close()
    RunDir(run.path).close()


def test_a_folder_with_another_config_is_refused(run: RunDir) -> None:
    run.save_config("steps: 3\n")
    run.save_config("steps: 1\n")
    run.log(1, {"loss": 1.0})
    run.save_config("steps: 1\n")
    with pytest.raises(ConfigError, match=r"\(steps=1 there, steps=2 now\); choose another out="):
        run.save_config("steps: 2\n")
    assert (run.path / "config.yaml").read_text() == "steps: 1\n"


def test_a_checkpoint_that_was_not_finished_does_not_count(run: RunDir) -> None:
    run.save_checkpoint(2, lambda folder: _write(folder, "two"))

    def killed(folder: Path) -> None:
        _write(folder, "half")
        raise KeyboardInterrupt

    for step in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint(step, killed)
    found = run.latest_checkpoint()
    assert found is not None and found[0] == 2
    assert (found[1] / "state").read_text() == "two"
    run.save_checkpoint(4, lambda folder: _write(folder, "four"))
    found = run.latest_checkpoint()
    assert found is not None and (found[1] / "state").read_text() == "four"


def test_the_last_two_checkpoints_are_kept(run: RunDir) -> None:
    for step in (2, 4, 8, 10):
        run.save_checkpoint(step, lambda folder: _write(folder, "x"))
    assert sorted(path.name for path in run.path.glob("global*")) == [
        "global_step_10", "global_step_8",
    ]  # fmt: skip
    assert [step for step, _ in whole_checkpoints(run.path)] == [8, 10]


def test_of_older_checkpoints_the_export_stays(run: RunDir) -> None:
    def write(folder: Path) -> None:
        _write(folder, "x")
        (folder / "shards").mkdir()
        (folder / EXPORT).mkdir()
        (folder / EXPORT / "config.json").touch()

    for step in (2, 4, 10):
        run.save_checkpoint(step, write)
    assert [path.name for path in (run.path / "global_step_2").iterdir()] == [EXPORT]
    assert [step for step, _ in whole_checkpoints(run.path)] == [4, 10]


def test_of_exports_the_last_ones_are_kept_where_that_is_asked(run: RunDir) -> None:
    def write(folder: Path) -> None:
        _write(folder, "x")
        (folder / EXPORT).mkdir()

    for step in (2, 4, 8, 10):
        run.save_checkpoint(step, write, exports=3)
    left = sorted(path.parent.name for path in run.path.glob(f"global_step_*/{EXPORT}"))
    assert left == ["global_step_10", "global_step_4", "global_step_8"]
    run.save_checkpoint(12, write, exports=1)
    assert sorted(path.name for path in run.path.glob("global_step_*")) == [
        "global_step_10", "global_step_12",
    ]  # fmt: skip
    assert [step for step, _ in whole_checkpoints(run.path)] == [10, 12]


def test_a_step_may_be_saved_again(run: RunDir) -> None:
    run.save_checkpoint(2, lambda folder: _write(folder, "old"))
    path = run.save_checkpoint(2, lambda folder: _write(folder, "new"))
    assert (path / "state").read_text() == "new"


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, json.dumps([1]))
    write_atomic(path, json.dumps([2]))
    assert json.loads(path.read_text()) == [2]
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    with largest_file(100), pytest.raises(OSError, match="too large") as told:
        write_atomic(path, "x" * 1000)
    assert told.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "pictures"
    with draft_folder(path) as draft:
        (draft / "a").write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), draft_folder(path) as draft:
        (draft / "b").write_text("new")
        raise KeyboardInterrupt
    assert [each.name for each in path.iterdir()] == ["a"] and list(tmp_path.iterdir()) == [path]


def test_metrics_that_cannot_be_written_name_their_file(run: RunDir) -> None:
    with largest_file(10), pytest.raises(OSError, match="too large") as told:
        run.log(1, {"loss": 0.123456789})
    assert told.value.filename == str(run.metrics_file)
    assert run.metrics() == []


def test_after_an_interruption_it_says_where_it_goes_on(run: RunDir) -> None:
    assert run.way_on() == "there is no checkpoint yet, so the same command begins again"
    run.save_checkpoint(20, lambda folder: _write(folder, "x"))
    assert run.way_on() == "the same command goes on from step 20, the last checkpoint"


def test_changed_keys_are_listed_as_they_were_and_are() -> None:
    before: dict[str, Json] = {"steps": 1, "optim": {"lr": 0.1, "flat": 0}, "data": [1], "old": 3}
    now: dict[str, Json] = {"steps": 1, "optim": {"lr": 0.2, "flat": 0}, "data": [2], "new": {}}
    assert changed_keys(before, now) == (
        "optim.lr=0.1 there, optim.lr=0.2 now; data=[1] there, data=[2] now; "
        "old=3 there, old=None now; new=None there, new={} now"
    )
    many = {str(number): number for number in range(9)}
    assert changed_keys(many, dict.fromkeys(many, -1)).endswith("; 3 more")


def test_only_a_runs_own_folder_or_an_empty_one_is_taken(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "deep")
    check_folder(tmp_path)
    RunDir(tmp_path / "run").close()
    check_folder(tmp_path / "run")
    (tmp_path / "page.md").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files and no run; choose another out="):
        check_folder(tmp_path)
    check_folder(tmp_path, "page.md")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [("file", "file is a file"), ("file/deep/er", "file is a file"), ("/proc/none", "/proc/none")],
)
def test_a_place_where_nothing_can_be_written_is_said(
    tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=said):
        check_writable(tmp_path / place)


def test_a_disk_that_is_full_is_said_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path)
    with largest_file(100), pytest.raises(ConfigError, match="file too large; raise the limit"):
        check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", tensorboard=True)
    run.log(1, {"loss": 0.5, "source": "drills", "done": True})
    run.close()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def _write(folder: Path, text: str) -> None:
    (folder / "state").write_text(text)
