"""Supervised fine-tuning: ``python -m sft.train CONFIG [key=value ...]``.

Draws one source of the mixture per step, trains its assistant tokens, and stops after ``steps``,
or after one extension if a gate asks for it. Interrupted runs go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sft.checkpoint import check_schema, resolve_checkpoint, schema_record
from sft.config import (
    DTYPES,
    LearnerConfig,
    ShowConfig,
    ToolsConfig,
    check_choice,
    check_device,
    check_not_negative,
    check_out,
    check_positive,
    check_trained_dtype,
    help_text,
    load_config,
    to_yaml,
)
from sft.data import DataConfig, SourceConfig, to_sample
from sft.data_report import summary_lines, warnings
from sft.ending import Ending
from sft.preflight import examine
from sft.ranked_run import RankedRun
from sft.ranks import check_launch, join_ranks, own_device, own_share, rank, told_by_all
from sft.render import Renderer
from sft.sample import TrainingSample
from sft.trackers import check_trackers
from sft.training_data import DATA_FILE, TrainingData, load_training_data
from sft.transcript import Transcript
from toolshed.command import USER_ERROR, run_command
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet
from toolshed.types import Json


@dataclass
class GateConfig:
    """A loss that must be reached at the end; a miss extends the run once."""

    source: str = ""
    """Name of the source whose losses count; empty for no gate."""
    last: int = 30
    """How many of its last losses are averaged."""
    loss: float = 0.02
    extra_steps: int = 150


@dataclass
class SFTConfig:
    """Everything that an SFT run depends on."""

    model: str = ""
    """Checkpoint to start from."""
    out: str = ""
    """Folder of the run."""
    sources: list[SourceConfig] = field(default_factory=list)
    data: DataConfig = field(default_factory=DataConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    steps: int = 100
    seed: int = 1
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    save_every: int = 100
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    """CPU threads; on small models a second one costs more than it brings."""
    show: ShowConfig = field(default_factory=ShowConfig)

    def __post_init__(self) -> None:
        check_choice(self, dtype=DTYPES)
        check_trained_dtype(self.dtype)
        check_positive(self, "steps", "save_every", "threads")
        check_not_negative(self, "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run whose config was checked; nothing is loaded or written yet."""

    config: SFTConfig
    tools: ToolSet
    folder: Path
    """Checkpoint to start from."""
    data: TrainingData
    steps: int
    """Before an extension."""


def prepare(config: SFTConfig) -> Plan:
    """Everything that can be wrong in a config is said here."""
    check_out(config.out)
    check_device(config.device)
    check_launch(config.learner.shard.zero, _batches(config))
    check_trackers(config.show.track)
    tools = ToolSet.named(config.tools.config, config.tools.show or None)
    folder = resolve_checkpoint(config.model)
    warning = check_schema(folder, tools.schema_hash, config.tools.schema)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    data = _load_data(config)
    # Ranks have not met yet, and each would say the same.
    if os.environ.get("RANK", "0") == "0":
        for line in (*summary_lines(data), *warnings(data, tools)):
            print(line, file=sys.stderr)
    steps = data.steps(config.steps)
    return Plan(config=config, tools=tools, folder=folder, data=data, steps=steps)


def _batches(config: SFTConfig) -> dict[str, int]:
    """Samples of a step, by the key that says so."""
    if config.data.mixture:
        return {"data.batch": config.data.batch}
    return {
        f"sources[{place}].batch_size": source.batch_size
        for place, source in enumerate(config.sources)
    }


def train(config: SFTConfig) -> Path:
    """Run to the end; returns the folder of the final checkpoint."""
    plan = prepare(config)
    with Ending() as ending:
        if config.learner.shard.zero:
            join_ranks(config.device)
        run = RankedRun(config.out, tensorboard=config.show.tensorboard, track=config.show.track)
        try:
            run.save_config(to_yaml(config))
            run.write(DATA_FILE, json.dumps(plan.data.record()))
            return _Training(plan, run, ending).run()
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(run.way_on()) from stop
        finally:
            run.close()


class _Training:
    """One run under way."""

    def __init__(self, plan: Plan, run: RankedRun, ending: Ending) -> None:
        import torch

        from sft.learner import Learner
        from sft.model import load_model

        config, options = plan.config, plan.config.learner
        self.plan, self.config, self.run_dir = plan, config, run
        self.ending = ending
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.learner = Learner(
            load_model(
                plan.folder,
                dtype=getattr(torch, config.dtype),
                device=own_device(config.device),
            ),
            Renderer.load(plan.folder, max_pixels=config.data.max_pixels),
            options.optim,
            frozen=options.frozen,
            total_steps=plan.steps,
            max_tokens=options.micro_tokens,
            shard=options.shard,
            lora=options.lora,
        )
        self.started = time.monotonic()

    def run(self) -> Path:
        from tqdm import tqdm

        self._resume()
        title = f"sft {self.run_dir.path}"
        told = {"total": self._end(), "initial": self.learner.step, "desc": title}
        with tqdm(**told, disable=rank() > 0) as bar:
            for source, rows in self.plan.data.batches(self.learner.step):
                if self.learner.step >= self._end():
                    if not self._extend():
                        break
                    bar.total = self._end()
                self._end_if_asked()
                figures = self._step(source, rows)
                bar.update()
                bar.set_postfix(loss=f"{figures['loss']:.3f}", refresh=False)
        return self._finish()

    def _step(self, source: str, rows: Sequence[Transcript]) -> dict[str, Json]:
        begun = time.monotonic()
        specs = self.plan.tools.specs
        samples = [to_sample(row, self.learner.renderer, specs) for row in rows]
        figures: dict[str, Json] = {"source": source}
        figures.update(self.learner.forward_backward(self._own(samples)))
        figures.update(self.learner.optim_step())
        figures["step_s"] = time.monotonic() - begun
        figures.update(self._held_out())
        self.run_dir.log(self.learner.step, figures)
        if self.learner.step % self.config.save_every == 0:
            self._save()
        return figures

    def _end_if_asked(self) -> None:
        """KeyboardInterrupt where a rank got a SIGTERM, after a checkpoint of what was trained."""
        if any(told_by_all(self.ending.is_asked)):
            found = self.run_dir.latest_checkpoint()
            if self.learner.step and (found is None or found[0] < self.learner.step):
                self._save()
            raise KeyboardInterrupt

    def _held_out(self) -> dict[str, float]:
        """The loss on rows that are never trained, where this step asks for it."""
        data, every = self.plan.data, self.config.data.eval_every
        if not every or not data.held_out or self.learner.step % every:
            return {}
        from sft.held_out import held_out_loss

        begun, specs = time.monotonic(), self.plan.tools.specs
        rows = data.held_out_transcripts()
        samples = (to_sample(row, self.learner.renderer, specs) for row in rows)
        loss = held_out_loss(self.learner, samples, self._own)
        return {"held_out_loss": loss, "held_out_s": time.monotonic() - begun}

    def _own(self, samples: list[TrainingSample]) -> list[TrainingSample]:
        """What this rank learns from."""
        return (
            own_share(samples, self.learner.renderer) if self.config.learner.shard.zero else samples
        )

    def _end(self) -> int:
        return self.learner.schedule_begin + self.learner.total_steps

    def _extend(self) -> bool:
        """Extend the run once where the gate was missed; says so in the metrics."""
        gate = self.config.gate
        if not gate.source or self.learner.schedule_begin:
            return False
        reached = self.gate_loss()
        if reached is None or reached <= gate.loss:
            return False
        self.learner.restart_schedule(gate.extra_steps)
        return True

    def gate_loss(self) -> float | None:
        """Mean of the gate's last losses; None if there are none."""
        gate = self.config.gate
        lines = [line for line in self.run_dir.metrics() if line.get("source") == gate.source]
        losses = [float(str(line["loss"])) for line in lines[-gate.last :]]
        return sum(losses) / len(losses) if losses else None

    def _report_gate(self) -> None:
        loss, gate = self.gate_loss(), self.config.gate
        if gate.source and loss is not None:
            reached = loss <= gate.loss
            first = reached and not self.learner.schedule_begin
            record = {"reached_first": first, "reached": reached, "loss": loss, "bar": gate.loss}
            self.run_dir.write("gate.json", json.dumps(record))

    def _resume(self) -> None:
        found = self.run_dir.latest_checkpoint()
        if found is None:
            self.run_dir.rewind(0)
            return
        step, folder = found
        self.learner.load_state(folder / "state.pt")
        self.run_dir.rewind(step)

    def _save(self) -> None:
        self.run_dir.save_checkpoint(
            self.learner.step, lambda folder: self.learner.save_state(folder / "state.pt")
        )

    def _finish(self) -> Path:
        self._save()
        self._report_gate()
        final = self.run_dir.path / "final"
        tools = self.plan.tools
        schema = schema_record(tools.schema_hash, tools.schema_text)
        if self.learner.lora:
            self.learner.export_adapters(self.run_dir.path / "adapters")
        self.learner.export(self.plan.folder, final, schema=schema)
        return final


def _load_data(config: SFTConfig) -> TrainingData:
    data = load_training_data(config.sources, config.data, config.seed, config.out)
    gate, names = config.gate.source, [source.name for source in data.sources]
    if gate and data.parts:
        raise ConfigError(
            f"gate.source={gate!r} waits for the loss of one source, and a step of data.mixture "
            "has several; leave one of the two out"
        )
    if gate and gate not in names:
        raise ConfigError(f"gate.source={gate!r} is none of the sources: {', '.join(names)}")
    return data


def check(config: SFTConfig, ranks: int) -> int:
    """Say what a run with ``ranks`` processes is, what its data holds, and whatever would stop it;
    nothing is trained."""
    found = examine(config, _load_data, ranks=ranks)
    print(found.text())
    if found.missing:
        return USER_ERROR
    prepare(config)
    print(f"a run in {config.out} can start")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sft.train",
        description="Supervised fine-tuning on tool-using transcripts.",
        epilog="keys and defaults:\n" + help_text(SFTConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="name in configs/sft (for example demo) or a YAML file")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help="overrides")
    parser.add_argument(
        "--check", action="store_true", help="the plan and its data; trains nothing"
    )
    parser.add_argument("--ranks", type=int, default=1, help="processes of the plan of --check")
    args = parser.parse_intermixed_args(words)

    def run() -> int:
        config = load_config(SFTConfig, "sft", args.config, args.words)
        if args.check:
            return check(config, args.ranks)
        final = train(config)
        if rank() == 0:
            print(final)
        return 0

    return run_command(run, "toolshed", "sft")


if __name__ == "__main__":
    sys.exit(main())
