"""The score of one answer from benchmark, question, ground truth and answer alone.

Parser, geometry and measures are those of training (``rl.rewards``); what is added is which of
them a benchmark uses, which figure it reports, and the type of its questions. So a file of answers
can be scored again without a model, a picture or a tool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from eval.benchmarks import benchmark_named
from rl.rewards import KINDS, AnswerState, RewardRule, measure_text
from rl.rewards.answer import target_points, yes_or_no
from rl.rewards.choice import offered_letters
from rl.types import Question
from toolshed.errors import ConfigError
from toolshed.types import Json, Message

GRASP_BENCHMARK = "bopgrasp"
"""The one benchmark whose published per-sample score is an error: NCE, lower is better."""

_RULE = RewardRule(point="binary", pose="iou")
"""The figures of the benchmarks; the dense variants are for training alone."""

_FIT = re.compile(r"^\s*can\b.*\bfit\b", re.IGNORECASE | re.DOTALL)
_FRONT_BEHIND = re.compile(r"\b(?:in front of|behind)\b", re.IGNORECASE)
_SIDES = re.compile(r"\b(?:(?:left|right) of|above|below)\b", re.IGNORECASE)
_OPTION = r"\({}\)\s*{}\b"

_ONE_TYPE = {
    "reflocation": "location",
    "refplacement": "placement",
    "refunseen": "unseen",
    "blinkdepth": "relative_depth",
    "cvb3ddepth": "closer_of_two",
    "boppose": "cuboid_corners",
    "bopgrasp": "grasp_plane",
}
OFFICIAL_CATEGORIES = {
    "vqa_fit": "compatibility",
    "vqa_relation": "configuration",
    "vqa_front_behind": "configuration",
    "vacant": "context",
}
"""Question types of robospatial to the categories of RoboSpatial-Home."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One answer against its ground truth."""

    score: float
    """The benchmark's per-sample score: NCE for bopgrasp (0 is best, 10 worst), else in [0, 1]."""
    accuracy: float
    """What evaluation rows call score, in [0, 1], higher is better: MACE for bopgrasp."""
    state: AnswerState
    parts: dict[str, float] = field(default_factory=dict)
    """``nce``, ``mace`` and ``sr`` of a grasp; else what the answer kind measured."""


def score_answer(benchmark: str, question: str, ground_truth: Json, answer: str | None) -> Scored:
    """Score an answer; None or an empty text is no answer.

    Raises ConfigError for an unknown benchmark, a ground truth that does not have the form its
    answer kind needs, and a kind that is judged by what the robot did.
    """
    kind = kind_of(benchmark, ground_truth)
    asked = Question(
        id="?",
        source=benchmark,
        kind=kind,
        messages=(Message(role="user", text=question),),
        images=(),
        target=ground_truth,
    )
    # By the published rule other than eight corners score 0, on either side.
    is_truth = target_points if kind == "pose" else KINDS[kind].is_target
    if not is_truth(ground_truth):
        raise ConfigError(
            f"ground truth {str(ground_truth)[:60]!r} of {benchmark} is not {KINDS[kind].form}; "
            "mend the record or name the right benchmark"
        )
    measured = measure_text(asked, answer or None, _RULE)
    parts = dict(measured.parts)
    if kind == "grasp":
        parts = {"nce": parts["nce"], "mace": parts["mace"], "sr": parts["success"]}
    return Scored(
        score=parts["nce"] if benchmark == GRASP_BENCHMARK else measured.accuracy,
        accuracy=measured.accuracy,
        state=measured.state,
        parts=parts,
    )


def kind_of(benchmark: str, ground_truth: Json) -> str:
    """Key of ``rl.rewards.KINDS``; where a benchmark has two, the ground truth's form decides."""
    kinds = benchmark_named(benchmark).kinds
    if len(kinds) == 1:
        return kinds[0]
    is_word = isinstance(ground_truth, str) and yes_or_no(ground_truth) is not None
    return "yesno" if is_word else "point_free"


def reads_world(benchmark: str) -> bool:
    """Whether answers of a benchmark are judged by what the robot did, so never by their text."""
    return any(KINDS[kind].reads_world for kind in benchmark_named(benchmark).kinds)


def question_type(benchmark: str, question: str, ground_truth: Json) -> str | None:
    """Type of a question; None where its text is missing or fits no type or several.

    Source: the question templates of RoboSpatial-Home ("Can the X fit ...", "Is the X RELATION the
    Y", points for vacant space; the form of the ground truth tells words from points) and of
    CV-Bench's 2D relation (by the options offered). Every other benchmark has one type. None of
    the published files carries a type of its own.
    """
    benchmark_named(benchmark)
    if benchmark == "robospatial":
        return _robospatial_type(question, ground_truth)
    if benchmark == "cvb2drelation":
        pairs = {"left_right": ("left", "right"), "above_below": ("above", "below")}
        fitting = [name for name, words in pairs.items() if _offers(question, words)]
        return fitting[0] if len(fitting) == 1 else None
    return _ONE_TYPE.get(benchmark, benchmark)


def _robospatial_type(question: str, ground_truth: Json) -> str | None:
    if ground_truth is None:
        return None
    if kind_of("robospatial", ground_truth) == "point_free":
        return "vacant"
    # "Can the cup fit in front of the speaker?" is about fitting, whatever the relation.
    if _FIT.search(question):
        return "vqa_fit"
    sides, depths = _SIDES.search(question), _FRONT_BEHIND.search(question)
    if bool(sides) == bool(depths):
        return None
    return "vqa_relation" if sides else "vqa_front_behind"


def _offers(question: str, words: tuple[str, str]) -> bool:
    """Whether the two options are these words, in either order."""
    letters = offered_letters(question)
    found = {
        word
        for word in words
        for letter in letters
        if re.search(_OPTION.format(letter, word), question, re.IGNORECASE)
    }
    return len(letters) == 2 and len(found) == 2
