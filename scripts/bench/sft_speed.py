"""A supervised step against TRL's ``SFTTrainer``: loss-bearing tokens a second of processor time.

Both sides train the same language model (Qwen2 in float32, vocabulary 151,936, hidden 256, 4
layers; ours within a Qwen2.5-VL checkpoint whose tower sees nothing) on the same text-only
dialogues, tokenised beforehand: 15 % of the tokens, in two turns of the assistant, bear loss;
lengths are log-normal with median 106 (a fortieth of the recipe's) and sigma 0.35. Eight dialogues
a step, AdamW, one process and one thread each. Text-only, since TRL's pictures need torchvision.

TRL gets its best of the settings in ``SWEEP``, found in the same run by one step of each,
and printed with what each reached; Liger's kernels need Triton and therefore a GPU. Then
sides take turns in rounds, one waiting while the other works. ``trl_sft_speedup`` is the median of
the rounds' ratios by the processes' own time. On CPUs TRL's fused head scores every position, on
GPUs those that bear loss: there the ratio would be smaller. The handicap on our side: every token
of a dialogue bears loss for the head, and 15 % of them are counted.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from rl.tiny import TinyConfig, make_random, tool_sets
from scripts.bench.sums import save_language_model
from scripts.bench.trl_peer import Peer, peer_python
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.render import Renderer
from sft.sample import Span, TrainingSample

VOCABULARY, HIDDEN, LAYERS = 151_936, 256, 4
MEDIAN, SIGMA, LONGEST, TRAINED = 106, 0.35, 205, 0.15
BATCH, NUM_DIALOGUES, LR = 8, 160, 1e-5
MICRO_TOKENS = 4096
SETTINGS: dict[str, Any] = {
    "max_length": LONGEST,
    "learning_rate": LR,
    "lr_scheduler_type": "constant",
    "max_steps": 10_000,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}
SWEEP: dict[str, dict[str, Any]] = {
    "padded": {"per_device_train_batch_size": BATCH},
    "padded, 2 at a time": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": BATCH // 2,
    },
    "padding-free": {
        "per_device_train_batch_size": BATCH,
        "padding_free": True,
        "max_length": None,
    },
    "packed, bfd": {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": BATCH // 2,
        "packing": True,
        "packing_strategy": "bfd",
    },
    "packed, bfd, 4 rows at once": {
        "per_device_train_batch_size": BATCH // 2,
        "packing": True,
        "packing_strategy": "bfd",
    },
}


def compare(folder: Path, *, rounds: int, handicapped: bool) -> dict[str, float]:
    """The figures; without TRL none, and the reason on stderr."""
    try:
        python = peer_python()
    except RuntimeError as error:
        print(f"trl_sft_speedup is left out, TRL cannot be had: {error}", file=sys.stderr)
        return {}
    make_checkpoint(folder / "whole")
    save_language_model(folder / "whole", folder / "language")
    samples = make_dialogues(Renderer.load(folder / "whole"))
    with ExitStack() as opened:
        peer = _best(python, folder, samples, opened)
        print(f"ours: {BATCH} samples a step, micro_tokens={MICRO_TOKENS}", file=sys.stderr)
        ours = Ours(folder / "whole", samples)
        ours.run(1)
        pairs = [(ours.run(2), peer.run(1)) for _ in range(rounds)]
        ratios = [_speed(mine) / _speed(theirs) for mine, theirs in pairs]
        figures = {
            "trl_sft_speedup": median(ratios),
            "trl_sft_speedup_least": min(ratios),
            "trl_sft_speedup_most": max(ratios),
            "ours_sft_tokens_per_s": median(_speed(mine) for mine, _ in pairs),
            "trl_sft_tokens_per_s": median(_speed(theirs) for _, theirs in pairs),
            "ours_loss": pairs[0][0]["loss"],
            "trl_loss": pairs[0][1]["loss"],
        }
        if handicapped:
            all_trained = [_all_trained(sample) for sample in samples]
            slow = Ours(folder / "whole", all_trained)
            slow.run(1)
            told = slow.run(1)
            counted = told | {"tokens": told["tokens"] * TRAINED}
            figures["handicapped_trl_sft_speedup"] = median(
                _speed(counted) / _speed(theirs) for _, theirs in pairs
            )
    return figures


def _best(python: Path, folder: Path, samples: Sequence[TrainingSample], opened: ExitStack) -> Peer:
    """TRL at work with the settings of the sweep that trained most tokens a second."""
    best, most = "", 0.0
    for name in SWEEP:
        with ExitStack() as tried:
            peer = _peer(python, folder, samples, name, tried)
            told = peer.run(1)
            print(f"TRL, {name}: {_speed(told):.0f} tokens/s, {told}", file=sys.stderr)
        if _speed(told) > most:
            best, most = name, _speed(told)
    peer = _peer(python, folder, samples, best, opened)
    said = json.dumps(peer.versions | SETTINGS | SWEEP[best])
    print(f"TRL at its best, {best}: {said}", file=sys.stderr)
    peer.run(1)
    return peer


def _peer(
    python: Path, folder: Path, samples: Sequence[TrainingSample], name: str, opened: ExitStack
) -> Peer:
    place = folder / f"trl-{list(SWEEP).index(name)}"
    place.mkdir(exist_ok=True)
    job = {
        "model": str(folder / "language"),
        "rows": [_row(sample) for sample in samples],
        "settings": {"output_dir": str(place), **SETTINGS, **SWEEP[name]},
    }
    peer = Peer(python, place, job, Path(__file__).with_name("trl_sft.py"))
    opened.callback(peer.close)
    return peer


def _speed(told: dict[str, float]) -> float:
    return told["tokens"] / told["cpu_s"]


class Ours:
    """The steps of ``sft.train`` without its run folder."""

    def __init__(self, folder: Path, samples: Sequence[TrainingSample]) -> None:
        self.samples = samples
        self.step = 0
        self.learner = Learner(
            load_model(folder),
            Renderer.load(folder),
            OptimConfig(lr=LR),
            total_steps=10_000,
            max_tokens=MICRO_TOKENS,
        )

    def run(self, steps: int) -> dict[str, float]:
        """Take steps; wall_s, cpu_s and tokens of them all, and their mean loss."""
        begun = time.perf_counter(), time.process_time()
        tokens = loss = 0.0
        for _ in range(steps):
            places = range(self.step * BATCH, (self.step + 1) * BATCH)
            self.step += 1
            batch = [self.samples[place % len(self.samples)] for place in places]
            told = self.learner.forward_backward(batch)
            self.learner.optim_step()
            tokens, loss = tokens + told["tokens"], loss + told["loss"]
        return {
            "wall_s": time.perf_counter() - begun[0],
            "cpu_s": time.process_time() - begun[1],
            "tokens": tokens,
            "loss": loss / steps,
        }


def make_checkpoint(folder: Path) -> None:
    """Write a random Qwen2.5-VL checkpoint with the published vocabulary and narrow layers."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    make_random(folder, tool_sets(TinyConfig()), seed=0)
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    text = config.text_config
    text.vocab_size, text.hidden_size, text.intermediate_size = VOCABULARY, HIDDEN, 3 * HIDDEN
    text.num_hidden_layers, text.layer_types = LAYERS, ["full_attention"] * LAYERS
    text.initializer_range = 0.02
    # A head has 64 numbers: the rotary sections say half of them.
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [8, 12, 12]}
    config.vision_config.out_hidden_size = HIDDEN
    torch.manual_seed(0)
    shutil.rmtree(folder / "model", ignore_errors=True)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


def make_dialogues(renderer: Renderer) -> list[TrainingSample]:
    """Question, call, reply, answer, in words of the tokenizer drawn by lot."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(NUM_DIALOGUES):
        length = min(LONGEST, round(float(rng.lognormal(np.log(MEDIAN), SIGMA))))
        said = round(TRAINED * length / 2)
        sizes = {"prompt": length - 3 * said, "call": said, "reply": said, "answer": said}
        bounds = np.cumsum([0, *sizes.values()]).tolist()
        kinds = ("prompt", "sampled", "reply", "sampled")
        samples.append(
            TrainingSample(
                token_ids=tuple(int(token) for token in rng.integers(20, 200, length)),
                spans=tuple(
                    Span(start=start, end=end, kind=kind)  # type: ignore[arg-type]
                    for start, end, kind in zip(bounds, bounds[1:], kinds, strict=False)
                ),
            )
        )
    assert all(renderer.image_token not in sample.token_ids for sample in samples)
    return samples


def _all_trained(sample: TrainingSample) -> TrainingSample:
    spans = (
        Span(start=0, end=1, kind="prompt"),
        Span(start=1, end=len(sample.token_ids), kind="sampled"),
    )
    return replace(sample, spans=spans)


def _row(sample: TrainingSample) -> dict[str, list[int]]:
    labels = [-100] * len(sample.token_ids)
    for span in sample.spans:
        if span.kind == "sampled":
            labels[span.start : span.end] = sample.token_ids[span.start : span.end]
    return {"input_ids": list(sample.token_ids), "labels": labels}
