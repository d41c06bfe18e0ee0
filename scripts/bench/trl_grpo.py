"""TRL's ``GRPOTrainer`` at work: ``PYTHON_WITH_TRL trl_grpo.py JOB.json``; imports nothing of ours.

The first line that it writes says the versions. Each line of standard input is a number of steps to
take, answered by one JSON line: wall and processor seconds, trained tokens, trajectories and turns
of these steps. The end of the input ends it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}"
    "{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- else %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    "{{- '<tool_call>\\n' + (call.function | tojson) + '\\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Qwen's form, without its tools: they stand in the system message already, as they do for us."""


def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a: First number.
        b: Second number.
    """
    return f"{a} + {b} = {a + b}"


def subtract(a: int, b: int) -> str:
    """Subtract the second number from the first.

    Args:
        a: First number.
        b: Number to subtract.
    """
    return f"{a} - {b} = {a - b}"


def paced(base: Any, answers: Any, seen: dict[str, int], versions: dict[str, str]) -> Any:
    """A callback of the class ``base`` that waits for the word before steps are taken, and says
    what they took."""

    class Paced(base):  # type: ignore[misc]
        trainer: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
            answers.write(json.dumps(versions) + "\n")
            self.wait(control)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
            self.left -= 1
            if self.left:
                return
            lengths = self.trainer._metrics["train"]["completions/mean_length"]
            told = {
                "wall_s": time.perf_counter() - self.begun[0],
                "cpu_s": time.process_time() - self.begun[1],
                "tokens": round(sum(lengths) * seen["trajectories"] / len(lengths)),
                **seen,
            }
            answers.write(json.dumps(told) + "\n")
            self.wait(control)

        def wait(self, control: Any) -> None:
            self.left = int(sys.stdin.readline() or 0)
            control.should_training_stop = not self.left
            self.trainer._metrics["train"].clear()
            seen.update(trajectories=0, turns=0)
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
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = trl.chat_template_utils.qwen3_template
    for tool in (add, subtract):
        tool.__name__ = f"calculator.{tool.__name__}"
    seen = {"trajectories": 0, "turns": 0}
    lot = random.Random(0)

    def reward(completions: list[Any], **_: object) -> list[float]:
        seen["trajectories"] += len(completions)
        seen["turns"] += sum(m["role"] == "assistant" for each in completions for m in each)
        return [lot.random() for _ in completions]

    versions = {each.__name__: each.__version__ for each in (trl, transformers, torch)}
    pace = paced(transformers.TrainerCallback, answers, seen, versions)
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(
            job["model"], dtype=torch.float32, attn_implementation="sdpa"
        ),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=trl.GRPOConfig(**job["settings"]),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in job["prompts"]]),
        tools=[add, subtract],
        callbacks=[pace],
    )
    pace.trainer = trainer
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


if __name__ == "__main__":
    main()
