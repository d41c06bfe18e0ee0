"""Ask a checkpoint one question and look over its shoulder.

    python -m rl.ask runs/demo/full_rl --scene 7 'How far from the camera is the leftmost object?'

Prints the episode and writes its pictures on one PNG sheet. Where the question is one that the
tabletop can judge, the answer is scored; any other question is just played.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from toolshed.command import run_command
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from rl.types import Question, Trajectory
    from sft.config import ToolsConfig
    from toolshed.images import ImageSource

_LIMITS = (
    *("max_turns", "max_calls", "max_tokens", "max_turn_tokens", "max_length"),
    *("max_reply_chars", "max_pixels"),
)
"""Keys of ``rollout`` in an RL run's config; RolloutConfig's defaults serve other checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """One question to one checkpoint."""

    checkpoint: str
    question: str
    scene: int = 7
    image: str = ""
    """A picture file in place of a scene."""
    tools: str = ""
    """Word or path of a tool YAML; empty for those that the checkpoint was trained with."""
    temperature: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """ConfigError before anything is loaded."""
        if not self.question.strip():
            raise ConfigError("no question given; ask for example 'Where is the red cube?'")
        if not 0 <= self.scene < 2**63:
            raise ConfigError(f"scene {self.scene} is out of range; give a number from 0 on")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature {self.temperature} must be 0 (greedy) or above")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} must be 0 or more")
        if self.image and not Path(self.image).is_file():
            raise ConfigError(f"image {self.image} does not exist")

    @property
    def sheet(self) -> Path:
        """Where its picture goes: another place for another question, checkpoint or sampling."""
        from sft.checkpoint import run_name

        about = Path(self.image).stem if self.image else f"scene-{self.scene}"
        words = re.sub(r"[^a-z0-9]+", "-", self.question.lower())[:40].strip("-")
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:6]
        return Path("runs/ask") / f"{run_name(self.checkpoint)}-{about}-{words}-{digest}.png"


def ask(asking: Asking) -> Trajectory:
    """Play the question; scored where its right answer is known."""
    import asyncio

    from toolshed.images import ImageSource

    asking.check()
    with TemporaryDirectory() as folder:
        if asking.image:
            question = _question(asking.question, ImageSource(image=asking.image))
        else:
            question = scene_question(asking.question, asking.scene, Path(folder))
        return asyncio.run(_play(asking, question))


def scene_question(words: str, number: int, folder: Path) -> Question:
    """The question about scene ``number``, with its right answer if the tabletop has one.

    The scene's picture and depth image are written into ``folder``.
    """
    import numpy as np
    from PIL import Image

    from rl.questions.data import SOURCE_KINDS
    from rl.rewards import KINDS
    from rl.tabletop.kinds import TASK_KINDS, Margins, Shot
    from rl.tabletop.wording import asked
    from toolshed.images import ImageSource
    from toolshed.tabletop.render import render
    from toolshed.tabletop.scene import DEMO, make_scene

    found = asked(words)
    task = TASK_KINDS.get(found.kind) if found else None
    scene = make_scene(number, task.style if task and task.with_picture else DEMO)
    rendering = render(scene, noise_seed=scene.seed)
    image, depth = folder / f"scene-{number}.png", folder / f"scene-{number}.depth.png"
    Image.fromarray(rendering.pixels).save(image)
    Image.fromarray(rendering.depth_mm).save(depth)
    source = ImageSource(
        image=str(image), depth=str(depth), focal_length_px=rendering.focal_length_px
    )
    question = _question(words, source)
    if found is None or task is None or not task.with_picture:
        return question
    shot = Shot(scene=scene, rendering=rendering)
    margins = Margins(leftmost=0.0, nearer_m=0.0)
    drafts = task.make(shot, margins, np.random.default_rng(number))
    kind = SOURCE_KINDS[f"tabletop-{found.kind}"]
    for draft in drafts:
        if draft.text == words and KINDS[kind].is_target(draft.target):
            return replace(
                question,
                source=f"tabletop-{found.kind}",
                kind=kind,
                target=draft.target,
                extra=dict(draft.facts),
            )
    return question


def _question(words: str, source: ImageSource) -> Question:
    from rl.tabletop.wording import DEMO_INSTRUCTION
    from rl.types import Question
    from toolshed.types import Message

    return Question(
        id="asked",
        source="asked",
        kind="",
        messages=(
            Message(role="system", text=DEMO_INSTRUCTION),
            Message(role="user", text=f"<image>{words}", num_images=1),
        ),
        images=(source,),
        target=None,
    )


async def _play(asking: Asking, question: Question) -> Trajectory:
    from rl.config import RolloutConfig
    from rl.player import check_tools, load_player
    from rl.rewards import DEMO_RULE, score
    from rl.rollout import Job, Limits, run_episode
    from rl.types import SamplingParams
    from sft.config import ToolsConfig
    from toolshed.shed import Toolshed
    from toolshed.toolset import ToolSet

    saved = saved_config(Path(asking.checkpoint))
    chosen = ToolsConfig(config=asking.tools) if asking.tools else trained_tools(saved)
    show = chosen.show or None
    policy: Literal["same", "any"] = "any" if asking.tools else "same"
    folder = check_tools(asking.checkpoint, ToolSet.named(chosen.config, show), policy)
    rollout = saved.get("rollout")
    known = rollout if isinstance(rollout, dict) else {}
    settings = RolloutConfig(**{name: known[name] for name in _LIMITS if name in known})
    limits = Limits(
        max_turns=settings.max_turns,
        max_tokens=settings.max_tokens,
        max_calls=settings.max_calls,
        max_reply_chars=settings.max_reply_chars,
    )
    sampling = SamplingParams(temperature=asking.temperature, max_tokens=settings.max_turn_tokens)
    shed = None
    if chosen.config != "none":
        shed = Toolshed.open(chosen.config, host="local", show=show)
    try:
        player = load_player(
            folder,
            shed,
            limits=limits,
            width=8,
            max_length=settings.max_length,
            max_pixels=settings.max_pixels,
        )
        job = Job(question=question, sampling=sampling, seed=asking.seed)
        trajectory = await run_episode(job, player)
        await player.policy.aclose()
    finally:
        if shed is not None:
            await shed.aclose()
    if not question.kind:
        return trajectory
    return replace(trajectory, reward=score(question, trajectory, DEMO_RULE))


def saved_config(checkpoint: Path) -> dict[str, Any]:
    """The config in a run's folder, for it or its ``final``; empty where there is none."""
    import yaml

    for path in (checkpoint / "config.yaml", checkpoint.parent / "config.yaml"):
        if path.is_file():
            saved = yaml.safe_load(path.read_text(encoding="utf-8"))
            if isinstance(saved, dict):
                return saved
    return {}


def trained_tools(saved: Mapping[str, Any]) -> ToolsConfig:
    """The tools of a run's config; the demo's where it names none."""
    from sft.config import ToolsConfig

    tools = saved.get("tools")
    if isinstance(tools, dict) and isinstance(tools.get("config"), str):
        return ToolsConfig(config=tools["config"], show=list(tools.get("show") or []))
    return ToolsConfig(config="demo")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rl.ask",
        description="Ask a checkpoint one question and look over its shoulder.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint or run folder")
    parser.add_argument("question", help="for example 'Where is the red cube?'")
    parser.add_argument("--scene", type=int, default=7, help="number of a tabletop scene (7)")
    parser.add_argument("--image", default="", help="a picture file in place of a scene")
    parser.add_argument("--tools", default="", help="tool config; else the checkpoint's own")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--seed", type=int, default=0, help="of a sampled answer (0)")
    parser.add_argument(
        "--out", type=Path, help="the PNG; else one in runs/ask, named after all of this"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m rl.ask``."""
    args = _parser().parse_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl")


def _run(args: argparse.Namespace) -> int:
    from rl.show.episode import episode_of
    from rl.show.viewer import Album, episode_png, episode_text
    from sft.run_dir import draft_file

    asking = Asking(
        checkpoint=args.checkpoint,
        question=args.question,
        scene=args.scene,
        image=args.image,
        tools=args.tools,
        temperature=args.temperature,
        seed=args.seed,
    )
    out: Path = args.out or asking.sheet
    _check_out(out)
    trajectory = ask(asking)
    episode = episode_of(trajectory)
    print(episode_text(episode))
    out.parent.mkdir(parents=True, exist_ok=True)
    with draft_file(out) as draft:
        episode_png(episode, Album(trajectory.images)).save(draft, format="PNG")
    print(f"picture   {out}")
    return 0


def _check_out(out: Path) -> None:
    """ConfigError where the picture cannot be kept, before the answer is computed."""
    from sft.run_dir import check_writable

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out} must end in .png; that is what is written")
    check_writable(out.parent)


if __name__ == "__main__":
    sys.exit(main())
