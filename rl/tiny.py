"""The tiny policy and its base: ``python -m rl.tiny CONFIG [key=value ...]``.

Makes tokenizer and random checkpoint, then the eyes and habits that a published
Qwen2.5-VL-Instruct would bring: visual pre-training, naming, calls on explicit order, and last
direct answers, which hide the calls that it would otherwise make unasked. A cluster run replaces
this stage by a downloaded checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl.policy.transformers import TransformersPolicy
from rl.probe import call_rate
from rl.tabletop import wording
from rl.tabletop.exercises import GRID, Exercises, Picture, make_pictures, recoloured
from rl.tabletop.vocabulary import NUMBERS, OBJECTS, build_tokenizer, save_processor
from sft.config import (
    OptimConfig,
    check_not_negative,
    check_out,
    check_positive,
    help_text,
    load_config,
    to_yaml,
)
from sft.learner import Learner
from sft.model import load_model, save_checkpoint
from sft.render import Renderer
from sft.run_dir import RunDir
from toolshed.command import run_command
from toolshed.config import load_tools
from toolshed.toolset import ToolSet
from toolshed.types import ToolSpec

SIDE_PX = 28 * GRID


@dataclass
class PhaseConfig:
    """One phase of the base's schooling."""

    steps: int = 0
    mixture: dict[str, float] = field(default_factory=dict)
    """Kind of exercise -> share of the steps."""
    batch_sizes: dict[str, int] = field(default_factory=dict)
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass
class TinyConfig:
    """Everything that the tiny base depends on."""

    out: str = ""
    tools: str = "demo"
    point_tools: list[str] = field(default_factory=lambda: ["roborefer.detect_one"])
    """The tools of step 1, announced alone in part of the exercises."""
    num_pictures: int = 500
    recoloured: int = 5
    """Pictures made of each rendered one by permuting colours and mirroring."""
    scene_seed: int = 4_000_000_000
    """First scene of the pictures; data sets of small seeds never come near it."""
    seed: int = 1
    vision_steps: int = 120
    """Steps of visual pre-training: the tower alone names what covers each patch."""
    vision_batch: int = 64
    vision_optim: OptimConfig = field(default_factory=OptimConfig)
    naming: PhaseConfig = field(default_factory=PhaseConfig)
    main: PhaseConfig = field(default_factory=PhaseConfig)
    direct: PhaseConfig = field(default_factory=PhaseConfig)
    direct_min_steps: int = 24
    direct_call_rate: float = 0.06
    """Direct answers stop when sampled calls per question are this rare."""
    direct_probe: int = 128
    """Questions that measure it."""

    def __post_init__(self) -> None:
        check_positive(self, "num_pictures", "recoloured", "vision_batch", "direct_probe")
        check_not_negative(self, "seed", "scene_seed", "vision_steps", "direct_min_steps")


def tool_sets(config: TinyConfig) -> list[tuple[ToolSpec, ...]]:
    tools = load_tools(config.tools)
    return [ToolSet.of(tools, config.point_tools).specs, ToolSet.of(tools).specs]


def make_random(folder: Path, specs: Sequence[Sequence[ToolSpec]], seed: int) -> None:
    """Write a random checkpoint of the Qwen2.5-VL architecture, about 1.1 M parameters.

    Weights start with standard deviation 0.08: with the usual 0.02 copying did not form.
    """
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer(specs)
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": -(-len(tokenizer) // 8) * 8,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.08,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_heads": 4,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "out_hidden_size": 128,
        "initializer_range": 0.08,
    }
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
            tie_word_embeddings=True,
        )
    )
    look_back(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_processor(tokenizer, folder, side_px=SIDE_PX)
    model.save_pretrained(folder)


def look_back(model: Any) -> None:
    """Let two heads of the first layer start by attending one and two tokens back.

    A hand-set prior on the q and k biases that the architecture has anyway (RoFormer, arXiv
    2104.09864, equation 16: a bias rotated by d positions attends d positions away). Copying a
    name or a number forms in a fraction of the steps; all weights go on learning.
    """
    import torch

    text = model.model.language_model
    attention = text.layers[0].self_attn
    size = attention.head_dim
    angle = text.rotary_emb.inv_freq[:5]
    with torch.no_grad():
        attention.k_proj.bias[:5] = 5.0
        for head, distance in enumerate((1, 2)):
            bias = attention.q_proj.bias[head * size : (head + 1) * size]
            bias[:5] = 5.0 * torch.cos(distance * angle)
            bias[size // 2 : size // 2 + 5] = -5.0 * torch.sin(distance * angle)


def make_base(config: TinyConfig) -> Path:
    """School the tiny base; returns the folder of the final checkpoint.

    ``raw`` beside it is the checkpoint before the direct answers.
    """
    specs = tool_sets(config)
    run = RunDir(check_out(config.out))
    try:
        return _Schooling(config, run, specs).run()
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            "a base has no checkpoints: the same command begins again"
        ) from stop
    finally:
        run.close()


class _Schooling:
    def __init__(self, config: TinyConfig, run: RunDir, specs: list[tuple[ToolSpec, ...]]) -> None:
        import torch

        self.config, self.run_dir = config, run
        run.save_config(to_yaml(config))
        run.rewind(-1)
        torch.set_num_threads(1)
        self.specs = specs
        self.random = run.path / "random"
        make_random(self.random, self.specs, config.seed)
        self.renderer = Renderer.load(self.random)
        self.model: Any = load_model(self.random)
        self.rng = np.random.default_rng(config.seed)
        rendered = make_pictures(config.num_pictures, config.scene_seed)
        self.pictures = [
            recoloured(picture, self.rng) for picture in rendered for _ in range(config.recoloured)
        ]
        self.exercises = Exercises(self.renderer, self.pictures, self.specs, self.rng)
        self.step = 0

    def run(self) -> Path:
        self._see()
        self._phase(self.config.naming, "none")
        self._phase(self.config.main, "none")
        save_checkpoint(self.model, self.random, self.run_dir.path / "raw")
        self.policy = TransformersPolicy(self.model, self.renderer, max_length=256)
        self._phase(self.config.direct, "vision", probe=True)
        final = self.run_dir.path / "final"
        save_checkpoint(self.model, self.random, final)
        return final

    def _log(self, figures: dict[str, float], source: str, begun: float) -> None:
        self.step += 1
        self.run_dir.log(
            self.step, {"source": source, **figures, "step_s": time.monotonic() - begun}
        )

    def _see(self) -> None:
        """Each image token names the object on its patch and where that object is across."""
        learner = Learner(
            self.model,
            self.renderer,
            self.config.vision_optim,
            frozen="none",
            total_steps=self.config.vision_steps,
        )
        for _ in range(self.config.vision_steps):
            begun = time.monotonic()
            pictures = [self.exercises.pick(self.pictures) for _ in range(self.config.vision_batch)]
            loss = patch_loss(learner, pictures)
            loss.backward()
            figures = {"loss": float(loss.detach())} | learner.optim_step()
            self._log(figures, "patches", begun)

    def _phase(self, phase: PhaseConfig, frozen: str, *, probe: bool = False) -> None:
        learner = Learner(
            self.model,
            self.renderer,
            phase.optim,
            frozen=frozen,
            total_steps=phase.steps,
        )
        kinds = list(phase.mixture)
        shares = np.array([phase.mixture[kind] for kind in kinds])
        rate = 1.0
        for step in range(phase.steps):
            begun = time.monotonic()
            kind = kinds[int(self.rng.choice(len(kinds), p=shares / shares.sum()))]
            samples = self.exercises.batch(kind, phase.batch_sizes[kind])
            figures = learner.forward_backward(samples) | learner.optim_step()
            # Far from the goal the rate changes slowly; near it two steps decide.
            due = step >= self.config.direct_min_steps and step % (2 if rate < 0.3 else 4) == 0
            if probe and due:
                rate = figures["call_rate"] = self._call_rate()
            self._log(figures, kind, begun)
            if rate <= self.config.direct_call_rate:
                break

    def _call_rate(self) -> float:
        """Share of sampled episodes with a call on point questions, step 1's tools announced."""
        stride = self.config.recoloured
        pictures = self.pictures[::stride][: self.config.direct_probe]
        self.policy.load(self.model, self.step)
        return asyncio.run(call_rate(self.policy, pictures, self.specs[0], self.config.seed))


def patch_loss(learner: Learner, pictures: Sequence[Picture]) -> Any:
    """Cross-entropy of what covers each patch plus that of the object's place across."""
    import torch
    import torch.nn.functional as F

    features = learner.features([picture.image for picture in pictures])
    assert features is not None
    token = learner.renderer.tokenizer.convert_tokens_to_ids
    embed = learner.model.get_input_embeddings().weight
    names = embed[[*(token(name) for name in OBJECTS), token(".")]]
    places = embed[[token(number) for number in NUMBERS[:10]]]
    what, where = zip(*(_patch_labels(picture) for picture in pictures), strict=True)
    loss = F.cross_entropy(features @ names.T, torch.from_numpy(np.concatenate(what)))
    return loss + F.cross_entropy(features @ places.T, torch.from_numpy(np.concatenate(where)))


def _patch_labels(picture: Picture) -> tuple[Any, Any]:
    """Colour of the covering object (8: none) and tenth of the width of its middle, per cell."""
    colours = [wording.COLOURS.index(seen.name.split()[0]) for seen in picture.objects]
    tenths = [min(9, int(seen.u * 10)) for seen in picture.objects]
    empty = [min(9, int((column + 0.5) / GRID * 10)) for column in range(GRID)] * GRID
    what = np.array([colours[c] if c >= 0 else len(OBJECTS) for c in picture.cells])
    where = np.array(
        [tenths[c] if c >= 0 else empty[i] for i, c in enumerate(picture.cells)], dtype=np.int64
    )
    return what, where


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.tiny",
        description="Make the tiny policy's tokenizer, random checkpoint and base.",
        epilog="keys and defaults:\n" + help_text(TinyConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="name in configs/rl (tiny) or a YAML file")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help="overrides")
    args = parser.parse_args(words)

    def run() -> int:
        print(make_base(load_config(TinyConfig, "rl", args.config, args.words)))
        return 0

    return run_command(run, "toolshed", "sft", "rl")


if __name__ == "__main__":
    sys.exit(main())
