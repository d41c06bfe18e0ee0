"""Text-only dialogues with a calculator, and a tiny checkpoint that was taught to lead them.

A question asks for a sum of two to five numbers, each answer takes one call a number, so that
trajectories have two to five turns.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.policy.base import Prompt
from rl.policy.scripted import ScriptedPolicy
from rl.rollout import Job, Player, run_episode
from rl.tabletop.wording import DEMO_INSTRUCTION
from rl.tiny import make_random
from rl.types import Question, SamplingParams
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model, save_checkpoint
from sft.render import Renderer
from sft.sample import TrainingSample
from toolshed.chat import write_call
from toolshed.shed import Toolshed
from toolshed.types import Json, Message

NUM_QUESTIONS, STEPS, BATCH = 32, 120, 16
TOOLS: dict[str, Json] = {
    "replies": "compact",
    "calculator": {"backend": "light", "show": ["add", "subtract"]},
}


def make_questions() -> list[Question]:
    rng = np.random.default_rng(0)
    questions = []
    for number in range(NUM_QUESTIONS):
        asked = str(rng.integers(20, 60))
        for _ in range(1 + number % 4):
            asked += f" {rng.choice(['+', '-'])} {rng.integers(1, 10)}"
        messages = (
            Message(role="system", text=DEMO_INSTRUCTION),
            Message(role="user", text=f"What is {asked}?"),
        )
        questions.append(
            Question(
                id=f"sum{number}", source="sums", kind="", messages=messages, images=(), target=None
            )
        )
    return questions


def solve(prompt: Prompt) -> str:
    """The next turn of one who computes from left to right."""
    first, *rest = re.findall(r"[+-]|\d+", prompt.messages[1].text)
    terms = list(zip(rest[::2], map(int, rest[1::2]), strict=True))
    value = int(first) + sum(n if sign == "+" else -n for sign, n in terms[: prompt.turn])
    if prompt.turn == len(terms):
        return f"<answer>{value}</answer>"
    sign, number = terms[prompt.turn]
    name = "calculator.add" if sign == "+" else "calculator.subtract"
    thought = f"<think>{value} {sign} {number} is next</think>"
    return thought + write_call(name, {"a": value, "b": number})


def teach(folder: Path, shed: Toolshed, questions: Sequence[Question]) -> Path:
    """Write a checkpoint that almost always solves these questions; returns its folder."""
    source, taught = folder / "random", folder / "taught"
    make_random(source, [shed.specs], seed=0)
    renderer = Renderer.load(source)
    player = Player(policy=ScriptedPolicy(solve), renderer=None, shed=shed)
    samples = []
    for question in questions:
        job = Job(question=question, sampling=SamplingParams())
        rendering = renderer.render(asyncio.run(run_episode(job, player)).messages)
        ids, spans = tuple(rendering.token_ids), tuple(rendering.spans)
        samples.append(TrainingSample(token_ids=ids, spans=spans, images=()))
    model = load_model(source)
    optim = OptimConfig(lr=4e-3, muon_lr=0.02, clip_norm=0.5, warmup_steps=10, schedule="linear")
    learner = Learner(model, renderer, optim, total_steps=STEPS)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        learner.forward_backward([samples[i] for i in rng.permutation(len(samples))[:BATCH]])
        learner.optim_step()
    save_checkpoint(model, source, taught)
    return taught


def save_language_model(source: Path, folder: Path) -> None:
    """Write the language model of ``source`` alone, as a Qwen2 checkpoint with equal logits."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    whole: Any = load_model(source)
    text = whole.model.language_model
    known = Qwen2Config().to_dict()
    settings = {name: value for name, value in text.config.to_dict().items() if name in known}
    settings |= {"model_type": "qwen2", "tie_word_embeddings": True}
    # Of text all three rotary positions are equal, so sections change nothing.
    theta = text.config.rope_parameters["rope_theta"]
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    model = Qwen2ForCausalLM(Qwen2Config.from_dict(settings))
    model.model.load_state_dict(text.state_dict())
    model.tie_weights()
    ids = torch.arange(40, 100)[None]
    with torch.no_grad():
        gap = (model.eval()(ids).logits - whole.eval()(ids).logits).abs().max()
    assert gap < 1e-4, gap
    model.save_pretrained(folder)
    Renderer.load(source).tokenizer.save_pretrained(folder)
