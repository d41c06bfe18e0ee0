"""TRL's ``SFTTrainer`` at work: ``PYTHON_WITH_TRL trl_sft.py JOB.json``; imports nothing of ours.

The first line that it writes says the versions. Each line of standard input is a number of steps to
take, answered by one JSON line: wall and processor seconds, tokens in the loss, and the mean loss
of these steps. The end of the input ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def paced(base: Any, answers: Any, seen: dict[str, float], versions: dict[str, str]) -> Any:
    """A callback of the class ``base`` that waits for the word before steps are taken, and says
    what they took."""

    class Paced(base):  # type: ignore[misc]
        left = taken = 0
        begun = 0.0, 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
            answers.write(json.dumps(versions) + "\n")
            self.wait(control)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
            self.left, self.taken = self.left - 1, self.taken + 1
            if self.left:
                return
            told = {
                "wall_s": time.perf_counter() - self.begun[0],
                "cpu_s": time.process_time() - self.begun[1],
                "tokens": seen["tokens"],
                "loss": seen["loss"] / self.taken,
            }
            answers.write(json.dumps(told) + "\n")
            self.wait(control)

        def wait(self, control: Any) -> None:
            self.left = int(sys.stdin.readline() or 0)
            control.should_training_stop = not self.left
            self.taken = 0
            seen.update(tokens=0, loss=0.0)
            self.begun = time.perf_counter(), time.process_time()

    return Paced()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import torch
    import transformers
    import trl  # type: ignore[import-not-found, unused-ignore]
    from datasets import Dataset  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(1)
    seen: dict[str, float] = {}

    class Counted(trl.SFTTrainer):  # type: ignore[misc, unused-ignore]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            seen["tokens"] += int((inputs["labels"][:, 1:] != -100).sum())
            told = super().compute_loss(model, inputs, *rest, **more)
            seen["loss"] += float((told[0] if isinstance(told, tuple) else told).detach())
            return told

    versions = {each.__name__: each.__version__ for each in (trl, transformers, torch)}
    trainer = Counted(
        model=transformers.AutoModelForCausalLM.from_pretrained(
            job["model"], dtype=torch.float32, attn_implementation="sdpa"
        ),
        processing_class=transformers.AutoTokenizer.from_pretrained(job["model"]),
        args=trl.SFTConfig(**job["settings"]),
        train_dataset=Dataset.from_list(job["rows"]),
        callbacks=[paced(transformers.TrainerCallback, answers, seen, versions)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


if __name__ == "__main__":
    main()
