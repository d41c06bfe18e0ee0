"""The demo's stages: what each one makes, from what, and with which config.

A stage is a function of its resolved configs and of its inputs; the hash of both decides whether
it has to run again. The configs are those of ``configs/*/demo.yaml`` and a few words, the content
of the tool YAML, and the demo's own numbers: kinds and weights, the mixture, how many answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from eval.config import EvalConfig
from eval.demo import data_sets
from eval.demo.examination import EvaluateConfig, evaluate_stage, stage_plan, tool_ceiling
from eval.demo.stages import CEILING
from rl.collect import TEACHER, CollectConfig, collect, prepare
from rl.config import RLConfig
from rl.tiny import TinyConfig, make_base
from sft.config import load_config
from sft.curate import curate_files, write
from sft.curation.config import CurateConfig
from sft.train import SFTConfig
from toolshed.config import ToolshedConfig, load_tools

POINT_TOOL = "roborefer.detect_one"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """What the command line decides."""

    out: Path
    seed: int = 1
    smoke: bool = False

    @property
    def tools(self) -> Path:
        """The demo's tool YAML with the address of the running tool server."""
        return self.out / "tools.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One stage, or the evaluation of one."""

    name: str
    needs: tuple[str, ...]
    seconds: float
    """Expected on one core; orders nothing, only tells how much is left."""
    config: object
    """What it depends on besides its inputs; anything that prints the same if it is the same."""
    run: Callable[[], None]
    folder: Path | None = None
    """Made by this work alone; deleted when config or inputs have changed."""
    files: tuple[Path, ...] = ()
    """Single files instead of a folder."""
    tools: bool = True
    """Whether it calls tools."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the driver knows of a work without loading anything that is heavy."""

    name: str
    needs: tuple[str, ...]
    seconds: float
    fingerprint: str
    folder: Path | None
    files: tuple[Path, ...]
    tools: bool


def plans(every: Sequence[Work]) -> list[Plan]:
    """The works with their fingerprints, in the same order."""
    known: dict[str, str] = {}
    by_name = {work.name: work for work in every}

    def fingerprint(work: Work) -> str:
        if work.name not in known:
            inputs = [fingerprint(by_name[name]) for name in work.needs]
            text = json.dumps([work.name, repr(work.config), inputs])
            known[work.name] = hashlib.sha256(text.encode()).hexdigest()
        return known[work.name]

    return [
        Plan(
            name=work.name,
            needs=work.needs,
            seconds=work.seconds,
            fingerprint=fingerprint(work),
            folder=work.folder,
            files=work.files,
            tools=work.tools,
        )
        for work in every
    ]


@dataclass
class _Demo:
    """Builds the works of one run."""

    settings: DemoSettings
    tools: ToolshedConfig
    """What is in the tool YAML; configs only name its file."""
    asking: EvalConfig
    """How every stage is examined."""
    works: list[Work] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.settings.out

    def add(self, work: Work) -> None:
        self.works.append(work)

    # ---- data and traces ------------------------------------------------------------------------

    def data(self) -> None:
        for name, seconds in (("train", 30.0), ("test", 30.0)):
            order = data_sets.orders(name, self.settings.seed, self.settings.smoke)
            self.add(
                Work(
                    name=f"data_{name}",
                    needs=(),
                    seconds=seconds,
                    config=(order, tuple(data_sets.WEIGHTS)),
                    run=partial(data_sets.make, self.out, name, order),
                    folder=self.out / "data" / name,
                    tools=False,
                )
            )

    def teacher(self) -> None:
        config = self._collect_words("teacher", [])
        out = self.out / "traces" / "teacher.json"
        data = data_sets.parquet(self.out, "train", "teacher")
        self.add(
            Work(
                name="teacher",
                needs=("data_train",),
                seconds=25.0,
                config=(config, self.tools),
                run=lambda: _collect(TEACHER, data, out, config),
                files=(out,),
            )
        )

    def distilled(self) -> None:
        """Step 2, first half: what the step-1 policy does right."""
        words = [f"tools.show=[{POINT_TOOL}]"]
        config = self._collect_words("distilled", words)
        out = self.out / "traces" / "distilled.json"
        data = data_sets.parquet(self.out, "train", "point")
        self.add(
            Work(
                name="distilled",
                needs=("point_rl", "data_train"),
                seconds=8.0,
                config=(config, self.tools),
                run=lambda: _collect(str(self.out / "point_rl"), data, out, config),
                files=(out,),
            )
        )

    def teaching_set(self) -> None:
        """Step 2, second half: both teachers' traces, cleaned, as what step 3 imitates."""
        config = load_config(CurateConfig, "sft", "curate_demo", [f"seed={self.settings.seed}"])
        traces = [self.out / "traces" / f"{name}.json" for name in ("distilled", "teacher")]
        out = self.out / "traces" / data_sets.TEACHING_SET
        self.add(
            Work(
                name="teaching_set",
                needs=("distilled", "teacher"),
                seconds=5.0,
                config=config,
                run=lambda: _curate(traces, out, config),
                files=(out,),
                tools=False,
            )
        )

    def _collect_words(self, name: str, words: Sequence[str]) -> CollectConfig:
        seed = self.settings.seed
        words = [f"tools.config={self.settings.tools}", f"seed={seed}", *words]
        return load_config(CollectConfig, "rl", "collect_demo", words)

    # ---- training -------------------------------------------------------------------------------

    def base(self) -> None:
        words = [f"out={self.out / 'base'}", f"seed={self.settings.seed}"]
        words.append(f"scene_seed={data_sets.base_scene_seed(self.settings.seed)}")
        if self.settings.smoke:
            words += ["num_pictures=12", "recoloured=2", "vision_steps=3", "vision_batch=8"]
            words += ["naming.steps=3", "main.steps=6", "direct.steps=2", "direct_probe=8"]
        config = load_config(TinyConfig, "rl", "tiny", words)
        self.add(
            Work(
                name="base",
                needs=(),
                seconds=110.0,
                config=(config, self.tools),
                run=lambda: _quiet(make_base(config)),
                folder=self.out / "base",
                tools=False,
            )
        )

    def sft(self, name: str, needs: tuple[str, ...], words: Sequence[str]) -> None:
        steps = ["steps=8", "save_every=4", "gate.extra_steps=2", "gate.last=2"]
        words = [
            f"model={self.out / 'base'}",
            f"out={self.out / name}",
            f"seed={self.settings.seed}",
            *words,
            *(steps if self.settings.smoke else []),
        ]
        config = load_config(SFTConfig, "sft", "demo", words)
        parts = data_sets.mixture(with_tools=config.tools.config != "none")
        self.add(
            Work(
                name=name,
                needs=needs,
                seconds=95.0 if name == "sft" else 55.0,
                config=(config, parts, self.tools),
                run=lambda: data_sets.fine_tune(self.out, name, config, parts),
                folder=self.out / name,
                tools=False,
            )
        )

    def rl(self, name: str, start: str, seconds: float, words: Sequence[str]) -> None:
        smoke = ["steps=2", "num_prompts=2", "group_size=4", "rollout.width=8"]
        words = [
            f"model={self.out / start}",
            f"out={self.out / name}",
            f"seed={self.settings.seed}",
            *words,
            *(smoke if self.settings.smoke else []),
        ]
        config = load_config(RLConfig, "rl", "demo", words)
        self.add(
            Work(
                name=name,
                needs=(start, "data_train"),
                seconds=seconds,
                config=(config, self.tools),
                run=lambda: _train_rl(config),
                folder=self.out / name,
            )
        )

    # ---- evaluation -----------------------------------------------------------------------------

    def evaluate(self, name: str, needs: tuple[str, ...], seconds: float, tools: str) -> None:
        config = self._evaluate_config(name, tools)
        self.add(
            Work(
                name=f"eval_{name}",
                needs=(*needs, "data_test"),
                seconds=seconds,
                config=(config, self.tools),
                run=lambda: evaluate_stage(self.out, config),
                files=(self.out / "rows" / f"{name}.jsonl",),
            )
        )

    def ceiling(self) -> None:
        config = self._evaluate_config(CEILING, "demo")
        self.add(
            Work(
                name=CEILING,
                needs=("data_test",),
                seconds=12.0,
                config=(config, self.tools),
                run=lambda: tool_ceiling(self.out, config),
                files=(self.out / "rows" / f"{CEILING}.jsonl",),
            )
        )

    def _evaluate_config(self, name: str, tools: str) -> EvaluateConfig:
        stage = stage_plan(name, smoke=self.settings.smoke)
        return EvaluateConfig(stage=stage, tools=tools, settings=self.asking)


def works(settings: DemoSettings) -> list[Work]:
    """All works of a run, most urgent first: the long chain, then what hangs on it."""
    tools = f"tools.config={settings.tools}"
    asking = load_config(EvalConfig, "eval", "demo", [tools, f"seed={settings.seed}"])
    demo = _Demo(settings, load_tools(settings.tools), asking)
    point_words = _point_words(settings)
    full_words = [tools, f"data={data_sets.prompts(settings.out)}"]
    demo.base()
    demo.data()
    demo.teacher()
    demo.rl("point_rl", "base", 14.0, point_words)
    demo.distilled()
    demo.teaching_set()
    demo.sft(
        "sft",
        ("base", "teaching_set", "data_train"),
        [f"tools.config={settings.tools}", "gate.source=drills"],
    )
    demo.rl("full_rl", "sft", 60.0, full_words)
    demo.evaluate("full_rl", ("full_rl",), 55.0, "demo")
    demo.rl("shuffled_rl", "sft", 55.0, [*full_words, "shuffle_rewards=true"])
    demo.evaluate("sft", ("sft",), 55.0, "demo")
    demo.evaluate("base_raw", ("base",), 4.0, "point")
    demo.evaluate("base", ("base",), 12.0, "base")
    demo.evaluate("point_rl", ("point_rl",), 4.0, "point")
    demo.sft("toolfree_sft", ("base", "data_train"), ["tools.config=none"])
    free = [f"data={data_sets.prompts(settings.out)}", "tools.config=none"]
    demo.rl("toolfree_rl", "toolfree_sft", 20.0, free)
    demo.rl("shuffled_point_rl", "base", 12.0, [*point_words, "shuffle_rewards=true"])
    demo.evaluate("toolfree_sft", ("toolfree_sft",), 10.0, "none")
    demo.evaluate("toolfree_rl", ("toolfree_rl",), 10.0, "none")
    demo.evaluate("shuffled_point_rl", ("shuffled_point_rl",), 4.0, "point")
    demo.evaluate("shuffled_rl", ("shuffled_rl",), 25.0, "demo")
    demo.evaluate("swapped_image", ("full_rl",), 8.0, "demo")
    demo.ceiling()
    return demo.works


def _point_words(settings: DemoSettings) -> list[str]:
    point = data_sets.parquet(settings.out, "train", "point")
    return [
        f"tools.config={settings.tools}",
        f"tools.show=[{POINT_TOOL}]",
        "tools.schema=any",
        f"data=[{{path: {point}}}]",
        "steps=40",
        "learner.optim.lr=1.0e-4",
        "learner.optim.schedule=constant",
    ]


def _collect(policy: str, data: Path, out: Path, config: CollectConfig) -> None:
    # A work is done again as a whole, so nothing is kept for going on.
    done = collect(prepare(policy, data, out, config, force=True, journal=False))
    counts = out.with_suffix(".counts")
    counts.write_text(json.dumps(asdict(done)))


def _curate(traces: Sequence[Path], out: Path, config: CurateConfig) -> None:
    # A policy of few steps (--smoke) does nothing right, and leaves no trace.
    filled = [path for path in traces if json.loads(path.read_text())]
    write(out, *curate_files(filled, config), config)


def _train_rl(config: RLConfig) -> None:
    from rl.train import train

    train(config)


def _quiet(result: object) -> None:
    del result
