"""How well the learner uses one GPU: Qwen2.5-VL-3B in shape, random weights, nothing downloaded.

The learner as the recipes start it on one GPU: bfloat16 with a float32 master
(``learner.shard.zero=2`` on one rank), recomputed layers, a frozen tower, the plain path (no shared
prompts). Rollouts of the published length: 4,250 tokens of which 600 are sampled, in groups of 5
that share a prompt with one picture of 262,144 pixels; one more comes back from a tool. The first
step is not counted.

*MFU* of an update: its floating-point operations over its seconds, over the device's dense bfloat16
peak. Counted are, with N the numbers of all matrices that a token is multiplied with,

    6 N   for each token that gets forward and backward, the prompt's too;
    2 N   for each patch that the frozen tower sees, forward alone, each distinct picture once;
    attention: 4 x width x pairs of places that see each other, in each layer, forward; 3 times
    that with the backward pass.

The head counts only for tokens whose log-probs are asked for. What is computed a second time in the
backward pass, padding, norms and the optimiser count nothing. Log-prob tokens are all tokens of
the samples, forward alone. Memory by what holds it adds up to the peak of forward and backward.

``--selftest`` computes everything three times and holds 1 GiB more, and exits with 1 unless time
and, on a GPU, MFU and peak memory show it. Without a GPU the script ends with 2. ``--tiny --device
cpu`` runs all of it on a tiny shape; figures that need a GPU are absent there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

# Before this file's folder, because its files have names of the library's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# It warns on stdout.
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")

import numpy as np
import torch

from rl.algorithms.losses import PolicyLoss
from rl.algorithms.table import algorithm_named
from rl.tiny import TinyConfig, make_random, tool_sets
from scripts.bench.learner_flops import peak_of, update_flops
from sft.config import OptimConfig, ShardConfig
from sft.learner import Learner
from sft.model import load_model
from sft.render import Renderer, Rendering
from sft.sample import TrainingSample
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import ToolImage

TEXT = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 2048,
}
BARS = {"mfu": 0.40, "peak_gb": 60.0}
_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
_HELD = 1 << 30
"""Bytes of the handicap."""
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Rollouts of one update."""

    groups: int
    group_size: int
    side_px: int
    prompt: int
    """Tokens of the prompt beside its picture."""
    sampled: int
    reply: int
    """Tokens of the tools' replies beside their picture."""


PAPER = Workload(groups=6, group_size=5, side_px=512, prompt=2750, sampled=600, reply=250)
SMALL = Workload(groups=2, group_size=2, side_px=112, prompt=60, sampled=16, reply=8)


class Bench:
    """One learner and the rollouts that it learns from."""

    def __init__(
        self, folder: Path, device: str, *, tiny: bool, micro_tokens: int, zero: int
    ) -> None:
        make_random(folder, tool_sets(TinyConfig()), seed=0)
        self.work = SMALL if tiny else PAPER
        self.device = device
        self.is_gpu = device.startswith("cuda")
        model: Any = load_model(folder, dtype=torch.bfloat16, device=device)
        if not tiny:
            model = _large(model.config, device)
        self.config = model.config
        side = self.work.side_px
        _set_pixels(folder, side * side)
        self.renderer = Renderer.load(folder)
        self.learner = Learner(
            model,
            self.renderer,
            OptimConfig(lr=1e-6),
            total_steps=100,
            max_tokens=micro_tokens,
            shard=ShardConfig(zero=zero, checkpointing=True),
        )
        self.loss = PolicyLoss(algorithm=algorithm_named("dapo_static"), max_tokens=8192)
        self.repeats = 1
        """How often all is computed; more is the handicap."""
        self._rng = np.random.default_rng(0)

    def samples(self) -> list[TrainingSample]:
        """New rollouts, their pictures read as rollouts would have read them."""
        made = [each for _ in range(self.work.groups) for each in self._group()]
        for sample in made:
            for image in sample.images:
                self.renderer.vision(image)
        return made

    def _group(self) -> list[TrainingSample]:
        work, mark = self.work, list(self.renderer.encode(_MARK))
        prompt, seen = mark + self._words(work.prompt), self._picture()
        siblings = []
        for _ in range(work.group_size):
            rendering = Rendering()
            rendering.append(prompt, "prompt")
            rendering.append(self._words(work.sampled // 2), "sampled")
            rendering.append(mark + self._words(work.reply), "reply")
            rendering.append(self._words(work.sampled - work.sampled // 2), "sampled")
            siblings.append(
                TrainingSample(
                    token_ids=tuple(rendering.token_ids),
                    spans=tuple(rendering.spans),
                    images=(seen, self._picture()),
                    advantage=float(self._rng.normal()),
                    logprobs=tuple(self._rng.normal(-5, 0.3, work.sampled).tolist()),
                )
            )
        return siblings

    def _words(self, size: int) -> list[int]:
        return [int(token) for token in self._rng.integers(20, 200, size)]

    def _picture(self) -> ToolImage:
        side = self.work.side_px
        return make_image(self._rng.integers(0, 255, (side, side, 3), dtype=np.uint8))

    def sizes(
        self, samples: Sequence[TrainingSample]
    ) -> tuple[list[int], int, list[tuple[int, int, int]]]:
        """(length of each sample, trained tokens, grid of each distinct picture)."""
        lengths = [len(self.renderer.expand(s.token_ids, s.images).token_ids) for s in samples]
        distinct = {image.sha256: image for s in samples for image in s.images}
        grids = [self.renderer.vision(image).grid for image in distinct.values()]
        return lengths, sum(s.num_trained for s in samples), grids

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds, the device's included."""
        self._wait()
        begun = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - begun

    def _wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def update(self, samples: Sequence[TrainingSample]) -> float:
        """Seconds of forward, backward and the optimiser's step."""

        def work() -> None:
            for _ in range(self.repeats):
                self.learner.forward_backward(samples, self.loss)
            self.learner.optim_step()

        return self.timed(work)

    def ask(self, samples: Sequence[TrainingSample]) -> float:
        """Seconds in which the log-probs of all samples are computed, forward alone."""

        def work() -> None:
            with torch.no_grad():
                for batch in self.learner.micro_batches(samples) * self.repeats:
                    self.learner.logprobs(batch)

        return self.timed(work)

    def memory(self, samples: Sequence[TrainingSample]) -> Figures:
        """1e9 bytes by what holds them, and the peak; on a CPU only what has a size by itself."""
        model = {p.data_ptr(): p for p in self.learner.model.parameters()}
        (optimiser,) = self.learner._optimisers
        # ZeRO puts its float32 masters in the place of the weights.
        masters = [p for g in optimiser.param_groups for p in g["params"]]
        masters = [p for p in masters if p.data_ptr() not in model]
        states = [t for s in optimiser.state.values() for t in s.values() if torch.is_tensor(t)]
        told = {
            "weights_gb": _bytes(model.values()),
            "master_gb": _bytes(masters),
            "optimiser_gb": _bytes(states),
        }
        if self.is_gpu:
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.learner.forward_backward(samples, self.loss)
            after = torch.cuda.memory_allocated(self.device)
            highest = torch.cuda.max_memory_allocated(self.device)
            self.learner.optim_step()
            told["other_gb"] = before - sum(told.values())
            told["gradients_gb"] = after - before
            told["activations_gb"] = highest - after
            told["peak_gb"] = torch.cuda.max_memory_allocated(self.device)
        return {name: size / 1e9 for name, size in told.items()}

    def measure(self, rounds: int, peak: float) -> Figures:
        """All figures; without a ``peak`` no MFU."""
        update_s, ask_s = [], []
        for number in range(rounds + 1):
            samples = self.samples()
            # The tower sees pictures in the update, as it does in a run.
            took = self.update(samples)
            asked = self.ask(samples)
            if number:
                update_s.append(took)
                ask_s.append(asked)
        lengths, num_trained, grids = self.sizes(samples)
        flops = update_flops(self.config, lengths, num_trained, grids)
        figures = {
            "update_s": median(update_s),
            "tokens": float(sum(lengths)),
            "trained_tokens": float(num_trained),
            "update_tflop": flops / 1e12,
            "logprob_tokens_per_s": sum(lengths) / median(ask_s),
        }
        if peak:
            figures["mfu"] = flops / median(update_s) / peak
        return figures | self.memory(self.samples())

    def handicapped(self, rounds: int, peak: float) -> Figures:
        """The same, all computed three times and memory held besides."""
        held = torch.empty(_HELD if self.is_gpu else 0, dtype=torch.uint8, device=self.device)
        self.repeats = 3
        figures = self.measure(rounds, peak)
        self.repeats = 1
        del held
        return {f"handicapped_{name}": value for name, value in figures.items()}


def _large(tiny: Any, device: str) -> Any:
    """The 3B shape with random weights, made on the device; ids of pictures are the tiny one's."""
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen2_5_VLConfig(
        text_config=TEXT,
        vision_config=VISION,
        tie_word_embeddings=True,
        **{name: getattr(tiny, name) for name in ids},
    )
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )


def _set_pixels(folder: Path, most: int) -> None:
    """Let the tiny checkpoint's processor leave pictures of ``most`` pixels as they are."""
    path = folder / "preprocessor_config.json"
    told = json.loads(path.read_text())
    told["size"]["longest_edge"] = most
    path.write_text(json.dumps(told))
    whole = folder / "processor_config.json"
    told = json.loads(whole.read_text())
    told["image_processor"]["size"]["longest_edge"] = most
    whole.write_text(json.dumps(told))


def _bytes(tensors: Any) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _has_moved(figures: Figures) -> bool:
    slower = figures["handicapped_update_s"] > 1.3 * figures["update_s"]
    larger = figures.get("handicapped_peak_gb", np.inf) > figures.get("peak_gb", 0.0) + 0.5
    worse = figures.get("handicapped_mfu", 0.0) < 0.9 * figures.get("mfu", np.inf)
    return bool(slower and larger and worse)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a handicap shows")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape and short rollouts")
    parser.add_argument("--device", default="cuda", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="updates (%(default)s)")
    parser.add_argument("--micro-tokens", type=int, default=8192, help="places (%(default)s)")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of a device unknown here")
    parser.add_argument("--zero", type=int, choices=(0, 2), default=2, help="0: without a master")
    options = parser.parse_args(words)
    if options.rounds < 1 or options.micro_tokens < 1 or options.peak_tflops < 0:
        parser.error("--rounds and --micro-tokens must be at least 1, --peak-tflops above 0")
    return run_command(lambda: _run(options), "toolshed", "sft", "rl")


def _run(options: argparse.Namespace) -> int:
    is_gpu = options.device.startswith("cuda")
    if is_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "there is no GPU here that torch can use, so nothing was measured; "
            "--tiny --device cpu tries the script without one"
        )
    if not (is_gpu or options.tiny):
        raise ConfigError(f"--device {options.device} is for --tiny; the 3B shape needs a GPU")
    peak = peak_of(options.device, options.peak_tflops) if is_gpu else 0.0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder),
            options.device,
            tiny=options.tiny,
            micro_tokens=options.micro_tokens,
            zero=options.zero,
        )
        figures = bench.measure(options.rounds, peak)
        if options.selftest:
            figures |= bench.handicapped(options.rounds, peak)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<32} {value:.4g}")
    if options.selftest:
        return int(not _has_moved(figures))
    if options.tiny:
        return 0
    return int(figures["mfu"] < BARS["mfu"] or figures["peak_gb"] > BARS["peak_gb"])


if __name__ == "__main__":
    sys.exit(main())
