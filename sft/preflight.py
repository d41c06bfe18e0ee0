"""A run before it begins, as a table: what is known of it, and what keeps it from running here.

``python -m sft.train CONFIG --check`` prints it; ``rl.start.preflight`` says with the same parts
what a run with rollouts is.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sft.checkpoint import check_schema, resolve_checkpoint
from sft.config import check_device_name, check_out, to_yaml
from sft.data_report import table
from sft.memory import Shape, learner_gb, shape_of, training_disk_gb
from sft.run_dir import check_same_run
from sft.trackers import check_trackers
from toolshed.errors import ConfigError
from toolshed.resources import visible_gpus
from toolshed.toolset import ToolSet

if TYPE_CHECKING:
    from sft.train import SFTConfig
    from sft.training_data import TrainingData

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class Preflight:
    """What was found so far."""

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Sentences about what keeps the run from starting here."""

    def say(self, title: str, text: str) -> None:
        self.lines.append(f"{title:<12}{text}")

    def attempt(self, check: Callable[[], T]) -> T | None:
        """What ``check`` returns; where it is a ConfigError, None, and its sentence is kept."""
        try:
            return check()
        except ConfigError as error:
            self.missing.append(str(error))
            return None

    def text(self) -> str:
        return "\n".join([*self.lines, *(f"missing: {words}" for words in self.missing)])


# ---- parts that every run has -------------------------------------------------------------------


def told_gb(parts: Mapping[str, float]) -> str:
    """Sizes in 1e9 bytes, by name."""
    return ", ".join(f"{name} {size:.3g}" for name, size in parts.items())


def say_checkpoint(
    found: Preflight, model: str, tools: ToolSet | None, schema: str
) -> Shape | None:
    """Which checkpoint ``model`` means and whether it knows the tools; its shape where readable."""
    folder = found.attempt(lambda: resolve_checkpoint(model))
    if folder is None:
        return None
    warning = None
    if tools is not None:
        warning = found.attempt(lambda: check_schema(folder, tools.schema_hash, schema))
    shape = found.attempt(lambda: shape_of(folder))
    num = f", {shape.num_parameters / 1e9:.3g} billion parameters" if shape else ""
    found.say("checkpoint", f"{folder}{num}")
    if warning:
        found.say("", f"note: {warning}")
    return shape


def say_learner(found: Preflight, parts: Mapping[str, float], ranks: int, zero: int) -> None:
    """``parts``: what each of ``ranks`` processes takes, in 1e9 bytes."""
    found.say(
        "learner",
        f"{ranks} process(es), ZeRO {zero}; about {sum(parts.values()):.3g} GB "
        f"each: {told_gb(parts)}",
    )


def say_folder(
    found: Preflight, config_text: str, out: str, every: int, parts: Mapping[str, float], rest: str
) -> None:
    """The run's folder: whether it takes this run, and ``parts``, what that takes in 1e9 bytes."""
    folder = found.attempt(lambda: check_out(out))
    if folder is None:
        return
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free / 1e9
    need, done = sum(parts.values()), _num_done(folder)
    way_on = f"{done} steps there, goes on from the last checkpoint" if done else "a new run"
    found.say(
        "folder",
        f"{out}: a checkpoint every {every} steps, about {need:.3g} GB in all, "
        f"{free:.3g} GB free; {way_on}",
    )
    if done:
        found.attempt(lambda: check_same_run(folder, config_text))
    if parts:
        found.say("", f"of these {told_gb(parts)}; {rest} not counted")
    if need > free:
        found.missing.append(f"{out} needs about {need:.3g} GB, and {free:.3g} are free there")


def _num_done(out: Path) -> int:
    """Steps that were logged."""
    metrics = out / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.is_file() else 0


# ---- a run of sft.train -------------------------------------------------------------------------


def examine(
    config: SFTConfig, load: Callable[[SFTConfig], TrainingData], *, ranks: int = 1
) -> Preflight:
    """All that can be known of a run with ``ranks`` processes; ``load`` reads its data."""
    found = Preflight()
    tools = found.attempt(lambda: ToolSet.named(config.tools.config, config.tools.show or None))
    shape = say_checkpoint(found, config.model, tools, config.tools.schema)
    if tools is not None:
        shown = ", ".join(spec.name for spec in tools.specs) or "none"
        found.say("tools", f"{config.tools.config}: {shown}")
    data = found.attempt(lambda: load(config))
    steps = data.steps(config.steps) if data is not None else config.steps
    _steps(found, config, data, ranks)
    _device(found, config, ranks)
    if shape is not None:
        parts = learner_gb(shape, config.learner, config.dtype, ranks)
        say_learner(found, parts, ranks, config.learner.shard.zero)
    saves = math.ceil(steps / config.save_every)
    disk = training_disk_gb(shape, config.learner, config.dtype, saves) if shape else {}
    say_folder(found, to_yaml(config), config.out, config.save_every, disk, "figures")
    found.attempt(lambda: check_trackers(config.show.track))
    if data is not None and tools is not None:
        found.lines.append(table(data, tools, config.steps))
    return found


def _steps(found: Preflight, config: SFTConfig, data: TrainingData | None, ranks: int) -> None:
    """How many conversations a step has, and who trains them."""
    if data is None:
        return
    sizes = [config.data.batch] if data.parts else [each.batch_size for each in data.shares]
    batch = " or ".join(str(size) for size in sorted(set(sizes)))
    each = " or ".join(f"{size / ranks:.3g}" for size in sorted(set(sizes)))
    optim = config.learner.optim
    found.say(
        "steps",
        f"{data.steps(config.steps)} of {batch} conversations, about {each} on each of {ranks} "
        f"process(es) in micro-batches of {config.learner.micro_tokens} places; lr {optim.lr:g} "
        f"{optim.schedule} after {optim.warmup_steps} steps",
    )
    if ranks > min(sizes):
        found.say("", f"note: of {ranks} processes some have nothing to learn in a step")


def _device(found: Preflight, config: SFTConfig, ranks: int) -> None:
    zero = config.learner.shard.zero
    if ranks > 1 and not zero:
        found.missing.append(
            f"{ranks} processes, and learner.shard.zero=0 trains in one; set learner.shard.zero=2"
        )
    found.attempt(lambda: check_device_name(config.device))
    if not config.device.startswith("cuda"):
        return
    there = visible_gpus()
    if not there:
        found.missing.append(f"device={config.device}, but no GPU is seen here; give device=cpu")
    elif there < ranks:
        found.missing.append(f"{ranks} ranks need a GPU each, and {there} are seen here")
