"""What SFT practises beside tool traces: text-only drills, naming, direct answers.

``python -m rl.drills OUT --questions TRAIN.parquet`` writes OUT/{drills,naming,direct}.json. Each
transcript says in ``source`` what it is, so that shares can be reported: none of them is a trace.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rl.policy.base import Prompt
from rl.questions.data import load_questions
from rl.rewards.geometry import centroid
from rl.rewards.region import Region
from rl.tabletop import wording
from rl.tabletop.teacher import teach
from rl.types import Question
from sft.run_dir import write_atomic
from toolshed.chat import parse_calls, write_replies
from toolshed.command import run_command
from toolshed.types import Json, Message

Row = dict[str, Json]
_TURNS = 10
"""Assistant turns of one drill, at least."""


class InventedScene:
    """Two objects that exist in text only, and the replies that tools would give about them."""

    def __init__(self, rng: np.random.Generator) -> None:
        first, second = rng.choice(len(wording.NAMES), size=2, replace=False)
        self.names = (wording.NAMES[first], wording.NAMES[second])
        self.places = [(float(u), float(v)) for u, v in rng.uniform(0.02, 0.98, size=(2, 2))]
        nearer = float(rng.uniform(0.40, 1.20))
        # Half of the pairs are close, where comparing is hard.
        gap = float(rng.uniform(0.03, 0.15) if rng.random() < 0.5 else rng.uniform(0.03, 0.60))
        self.depths = [nearer, nearer + gap]
        if rng.random() < 0.5:
            self.depths.reverse()

    def reply(self, name: str, arguments: dict[str, Json]) -> str:
        """The compact reply of a demo tool."""
        if name == "depth_estimator.estimate_depth":
            return "$depth_map"
        if name == "roborefer.detect_one":
            wanted = str(arguments["obj_name"]).split()[0]
            index = next(i for i, known in enumerate(self.names) if known.startswith(wanted))
            u, v = self.places[index]
            return f"[({u:.2f}, {v:.2f})]"
        at = (float(str(arguments["u"])), float(str(arguments["v"])))
        far = [abs(u - at[0]) + abs(v - at[1]) for u, v in self.places]
        return f'{{"depth": {self.depths[int(np.argmin(far))]:.2f}}}'


def make_drills(num: int, seed: int, kinds: Sequence[str]) -> list[Row]:
    """Conversations of several questions each, played by the teacher over invented scenes."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for index in range(num):
        turns: list[Message] = []
        while sum(turn.role == "assistant" for turn in turns) < _TURNS:
            turns += _play(InventedScene(rng), str(rng.choice(list(kinds))))
        rows.append(_row(f"drill/{index}", "drill", turns, []))
    return rows


def _play(scene: InventedScene, kind: str) -> list[Message]:
    question = _question(scene, kind)
    turns = list(question.messages)
    while True:
        text = teach(Prompt(question=question, messages=tuple(turns), images=()))
        turns.append(Message(role="assistant", text=text))
        calls = parse_calls(text).calls
        if not calls:
            return turns
        replies = [scene.reply(call.name, call.arguments) for call in calls]
        turns.append(Message(role="user", text=write_replies(replies)))


def _question(scene: InventedScene, kind: str) -> Question:
    first, second = scene.names
    texts = {
        "point": wording.point_question(first),
        "depth": wording.depth_question(first),
        "leftmost": wording.leftmost_question(),
        "nearer": wording.nearer_question(first, second),
    }
    return Question(
        id="drill",
        source="drill",
        kind="",
        messages=(Message(role="user", text=texts[kind]),),
        images=(),
        target=None,
        extra={"leftmost": first.split()[0]},
    )


def make_naming(questions: Sequence[Question]) -> list[Row]:
    """The leftmost object's name in plain text, for pictures that have a clear one."""
    return [
        _row(
            f"naming/{question.id}",
            "naming",
            [
                Message(role="user", text="<image>" + wording.NAMING_QUESTION, num_images=1),
                Message(
                    role="assistant", text=wording.naming_reply(str(question.extra["leftmost"]))
                ),
            ],
            [question.images[0].image],
        )
        for question in questions
        if "leftmost" in question.extra
    ]


def make_direct(questions: Sequence[Question]) -> list[Row]:
    """The true answer at once, without a tool."""
    return [
        _row(
            f"direct/{question.id}",
            "direct",
            [
                question.messages[-1],
                Message(role="assistant", text=_true_answer(question)),
            ],
            [image.image for image in question.images],
        )
        for question in questions
    ]


def _true_answer(question: Question) -> str:
    if question.kind == "number":
        return wording.depth_answer(float(str(question.target)))
    if question.kind == "point_object":
        place = centroid(Region.of(question.target).hull)
        return wording.point_answer(place.u, place.v)
    return wording.name_answer(str(question.target))


def _row(name: str, source: str, turns: Sequence[Message], images: list[str]) -> Row:
    conversations: list[Json] = [{"from": turn.role, "value": turn.text} for turn in turns]
    return {
        "task_id": name,
        "source": source,
        "system": wording.DEMO_INSTRUCTION,
        "conversations": conversations,
        "images": list[Json](images),
    }


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    write_atomic(path, json.dumps(list(rows)))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.drills", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("out", type=Path, help="folder for drills.json, naming.json, direct.json")
    parser.add_argument("--questions", required=True, help="parquet of demo questions")
    parser.add_argument("--num", type=int, default=600, help="text-only drills (600)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl")


def _run(args: argparse.Namespace) -> int:
    questions = load_questions(args.questions, check_images=False)
    drills = make_drills(args.num, args.seed, ("depth", "depth", "point", "nearer", "nearer"))
    write_rows(args.out / "drills.json", drills)
    write_rows(args.out / "naming.json", make_naming(questions))
    write_rows(args.out / "direct.json", make_direct(questions))
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
