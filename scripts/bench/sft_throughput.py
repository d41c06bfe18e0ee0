"""SFT in one process against a plain Hugging Face ``Trainer``: loss-bearing tokens per second.

Same tiny model, transcripts, samples per step, optimiser, frozen tower and one thread. The Trainer
gets its samples tokenized and its pictures cut into patches beforehand; our side does both within
the time that is measured, and batches samples of like length together. Also printed: our
multiplications per second as a share of what one core reaches on a large matrix product.
``--selftest`` pads each of our steps as one batch, and exits with 1 unless the ratio falls.
Needs the extra ``dev`` (accelerate).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

# Before torch is imported: on small models a second thread costs 20 times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor

from rl.collect import CollectConfig, collect, prepare
from rl.tabletop.dataset import Order, write_dataset
from rl.tiny import TinyConfig, make_random, tool_sets
from sft.batch import trained_positions
from sft.config import OptimConfig, ToolsConfig
from sft.data import load_transcripts, to_sample
from sft.learner import Learner
from sft.model import freeze, load_model
from sft.render import Renderer
from sft.transcript import Transcript
from toolshed.config import load_tools, replaced
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet

BAR = 1.3
BATCH, WARM, STEPS, ROUNDS = 16, 2, 10, 3
LR = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a handicap shows")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each side (%(default)s)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), options.steps)
        rounds = [(bench.ours(), bench.trainer()) for _ in range(ROUNDS)]
        ours, theirs = (median(speeds) for speeds in zip(*rounds, strict=True))
        figures = {
            "ours_tokens_per_s": ours,
            "trainer_tokens_per_s": theirs,
            "ratio": ours / theirs,
            "share_of_matrix_product_limit": bench.flops_per_token() * ours / _core_flops(),
        }
        if options.selftest:
            with patch("sft.batch._OVERHEAD_PLACES", 10**9):
                slow = [bench.ours() for _ in range(ROUNDS)]
            figures["handicapped_ratio"] = median(slow) / theirs
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<32} {value:.3g}")
    if options.selftest:
        return int(figures["handicapped_ratio"] > 0.95 * figures["ratio"])
    return int(figures["ratio"] < BAR)


class _Bench:
    """Both trainers over the same transcripts, epoch after epoch in the same order."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.tools = ToolSet.named("demo")
        make_random(folder / "tiny", tool_sets(TinyConfig()), seed=0)
        self.renderer = Renderer.load(folder / "tiny")
        self.transcripts = _teach(folder)
        rng = np.random.default_rng(0)
        self.order = [
            int(i) for i in rng.integers(len(self.transcripts), size=(WARM + steps) * BATCH)
        ]
        """As both trainers draw: the kinds of question mixed."""

    def ours(self) -> float:
        """Trained tokens per second of ``sft``'s learner, rendering included."""
        learner = Learner(
            load_model(self.folder / "tiny"),
            self.renderer,
            OptimConfig(lr=LR),
            total_steps=WARM + self.steps,
        )
        num_tokens, begun = 0.0, 0.0
        for step in range(WARM + self.steps):
            if step == WARM:
                begun = time.perf_counter()
            rows = self.order[step * BATCH : (step + 1) * BATCH]
            samples = [
                to_sample(self.transcripts[i], self.renderer, self.tools.specs) for i in rows
            ]
            told = learner.forward_backward(samples)
            learner.optim_step()
            num_tokens += told["tokens"] if step >= WARM else 0.0
        return num_tokens / (time.perf_counter() - begun)

    def trainer(self) -> float:
        """Trained tokens per second of ``transformers.Trainer``, its loop alone."""
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        rows = [self._row(transcript) for transcript in self.transcripts]
        model = load_model(self.folder / "tiny")
        freeze(model, "vision")
        moments: list[float] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: object, **__: object) -> None:
                moments.append(time.perf_counter())

        arguments = TrainingArguments(
            output_dir=str(self.folder / "trainer"),
            per_device_train_batch_size=BATCH,
            max_steps=WARM + self.steps,
            learning_rate=LR,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        ordered = [rows[i] for i in self.order]
        trainer = Trainer(
            model=model, args=arguments, train_dataset=_InOrder(ordered), data_collator=_pad,
            callbacks=[Clock()],
        )  # fmt: skip
        trainer._get_train_sampler = lambda *_: None  # in the order of the list, as ours
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        seconds = time.perf_counter() - moments[WARM]
        trained = sum(int((row["labels"] != -100).sum()) for row in ordered[WARM * BATCH :])
        return trained / seconds

    def flops_per_token(self) -> float:
        """Multiply-adds x 2 per trained token: 6 per weight and real token, attention left out."""
        text: Any = load_model(self.folder / "tiny").model.language_model  # type: ignore[union-attr]
        weights = sum(p.numel() for p in text.layers.parameters() if p.ndim == 2)
        head = text.embed_tokens.weight.numel()
        rows = [self._row(transcript) for transcript in self.transcripts]
        num_places = sum(len(row["input_ids"]) for row in rows)
        num_trained = sum(int((row["labels"] != -100).sum()) for row in rows)
        return float(6.0 * (weights * num_places / num_trained + head))

    def _row(self, transcript: Transcript) -> dict[str, Any]:
        sample = to_sample(transcript, self.renderer, self.tools.specs)
        expanded = self.renderer.expand(sample.token_ids, sample.images)
        ids = torch.from_numpy(expanded.token_ids)
        labels = torch.full_like(ids, -100)
        trained = torch.from_numpy(trained_positions(sample, expanded))
        labels[trained] = ids[trained]
        visions = [self.renderer.vision(image) for image in sample.images]
        return {
            "input_ids": ids,
            "labels": labels,
            "mm_token_type_ids": (ids == self.renderer.image_token).int(),
            "pixel_values": torch.cat([torch.from_numpy(v.patches) for v in visions]),
            "image_grid_thw": torch.tensor([v.grid for v in visions]),
        }


class _InOrder(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def _pad(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Right-padded batch, as the processor would make it."""
    from torch.nn.utils.rnn import pad_sequence

    def padded(name: str, value: int) -> Tensor:
        return pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    ids = padded("input_ids", 0)
    return {
        "input_ids": ids,
        "labels": padded("labels", -100),
        "mm_token_type_ids": padded("mm_token_type_ids", 0),
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "pixel_values": torch.cat([row["pixel_values"] for row in rows]),
        "image_grid_thw": torch.cat([row["image_grid_thw"] for row in rows]),
    }


def _teach(folder: Path) -> list[Transcript]:
    """The scripted teacher's traces on 16 questions of each demo kind."""
    write_dataset(folder / "train", Order(num=16, seed=3))
    config = CollectConfig(tools=ToolsConfig(config="demo"))
    ready = prepare("teacher", folder / "train.parquet", folder / "traces.json", config)
    shed = Toolshed.open(replaced(load_tools("demo"), {"host": "local"}))
    collect(ready, shed)
    return load_transcripts(folder / "traces.json")


def _core_flops() -> float:
    """Floating point operations per second of one core on 1024 x 1024 products, best of 20."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begun)
    return 2 * 1024**3 / min(times)


if __name__ == "__main__":
    sys.exit(main())
