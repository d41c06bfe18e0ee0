"""The demo's questions and the mixture of its SFT.

Train and test questions come from different seeds, so from different scenes; each data set is one
folder with a parquet for all kinds and one for each.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rl.drills import Row, make_direct, make_drills, make_naming, write_rows
from rl.questions.data import load_questions, write_questions
from rl.tabletop.dataset import SCENES_PER_SEED, Order, best_picture_rule, write_dataset
from rl.types import Question
from sft.data import SourceConfig
from sft.train import SFTConfig, train

WEIGHTS = {"point": 1.0, "depth": 1.0, "leftmost": 2.0, "nearer": 1.5}
"""Share of each kind among the prompts of full RL and among the traces."""
DIRECT_SHARE = 0.3
"""Of the traces' mixture: real teacher data holds answers without tools as well."""
NUM_TRACES = 2000
NUM_DRILLS = 800
DRILL_KINDS = ("depth", "depth", "point", "nearer", "nearer")
MIX, DRILLS, NAMING = "traces", "drills", "naming"
TEACHING_SET = "set.json"
"""Of both teachers' traces, in the folder of traces."""
SCENES_PER_QUESTION = 20
"""More scenes than a data set ever looks at for one question of each kind: one or two do."""
BASE_SCENES = 10_000
"""Between the bases of two seeds; a base draws a few hundred pictures."""


def base_scene_seed(seed: int) -> int:
    """First scene of the base's pictures; data sets use seeds times a million."""
    return 4_000_000_000 + seed * BASE_SCENES


def scenes_of(order: Order) -> range:
    """The numbers of the scenes that a data set is drawn from."""
    first = order.seed * SCENES_PER_SEED
    return range(first, first + SCENES_PER_QUESTION * order.num)


def orders(name: str, seed: int, smoke: bool) -> tuple[Order, ...]:
    """What a data set holds: the four kinds, twice as many comparisons for testing."""
    first = 1000 * seed + (0 if name == "train" else 500)
    num = 700 if name == "train" else 256
    if smoke:
        num = 8
    nearer = num if name == "train" or smoke else 512
    return (
        Order(kinds=("point", "depth", "leftmost"), num=num, seed=first),
        Order(kinds=("nearer",), num=nearer, seed=first + 1),
    )


def make(out: Path, name: str, parts: tuple[Order, ...]) -> None:
    """Write a data set: its pictures, a parquet for each kind."""
    folder = out / "data" / name
    for number, order in enumerate(parts):
        questions = write_dataset(folder / f"part{number}", order, force=True)
        for kind in order.kinds:
            chosen = [q for q in questions if q.source == f"tabletop-{kind}"]
            write_questions(folder / f"{kind}.parquet", chosen)
    every = [q for kind in WEIGHTS for q in load_questions(folder / f"{kind}.parquet")]
    write_questions(folder / "teacher.parquet", [q for q in every if not _is(q, "point")])
    rule = best_picture_rule([q for q in every if _is(q, "nearer")])
    facts = {"rule": rule.name, "accuracy": rule.accuracy}
    (folder / "picture_rule.json").write_text(json.dumps(facts))


def _is(question: Question, kind: str) -> bool:
    return question.source == f"tabletop-{kind}"


def parquet(out: Path, name: str, kind: str) -> Path:
    return out / "data" / name / f"{kind}.parquet"


def questions(out: Path, name: str, kind: str) -> list[Question]:
    return load_questions(parquet(out, name, kind), check_images=False)


def prompts(out: Path) -> str:
    """The prompts of full RL as a word of its config."""
    items = [f"{{path: {parquet(out, 'train', k)}, weight: {w}}}" for k, w in WEIGHTS.items()]
    return f"[{','.join(items)}]"


# ---- SFT ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """What an SFT stage learns from, besides its questions and traces."""

    shares: tuple[SourceConfig, ...]
    """Share of the steps and batch size of each file, named without its folder."""
    kinds: tuple[tuple[str, float], ...]
    """Weight of each kind of question."""
    num_traces: int = 0
    """0 for direct answers alone."""
    direct_share: float = 1.0
    num_drills: int = 0
    drill_kinds: tuple[str, ...] = ()


def mixture(*, with_tools: bool) -> Mixture:
    """The mixture of an SFT stage; without tools it holds direct answers and naming alone."""
    kinds = tuple(WEIGHTS.items())
    naming = SourceConfig(weight=0.22, batch_size=24, name=NAMING)
    if not with_tools:
        direct = SourceConfig(weight=0.78, batch_size=12, name=MIX)
        return Mixture(shares=(direct, naming), kinds=kinds)
    traces = SourceConfig(weight=0.5, batch_size=12, name=MIX)
    drills = SourceConfig(weight=0.28, batch_size=4, name=DRILLS)
    return Mixture(
        shares=(traces, naming, drills),
        kinds=kinds,
        num_traces=NUM_TRACES,
        direct_share=DIRECT_SHARE,
        num_drills=NUM_DRILLS,
        drill_kinds=DRILL_KINDS,
    )


def fine_tune(out: Path, name: str, config: SFTConfig, parts: Mixture) -> None:
    """Write the mixture's files and train on them."""
    train_questions = [q for kind, _ in parts.kinds for q in questions(out, "train", kind)]
    if parts.num_traces:
        rows = _traces(out, train_questions, parts, config.seed)
    else:
        rows = make_direct(train_questions)
    files = {
        MIX: rows,
        NAMING: make_naming(questions(out, "train", "leftmost")),
        DRILLS: make_drills(parts.num_drills, config.seed, parts.drill_kinds),
    }
    folder = out / "traces" / name
    sources = [replace(share, path=str(folder / f"{share.name}.json")) for share in parts.shares]
    for source in sources:
        write_rows(Path(source.path), files[source.name])
    data = replace(config.data, cache=str(out / "cache"))
    train(replace(config, sources=sources, data=data))
    _write_shares(out / name, sources, rows)


def _traces(out: Path, train_questions: list[Question], parts: Mixture, seed: int) -> list[Row]:
    """Traces of both teachers in the kinds' shares, and direct answers for the stated share."""
    rng = np.random.default_rng(seed)
    traces = _relative(json.loads((out / "traces" / TEACHING_SET).read_text()), out)
    whole = sum(weight for _, weight in parts.kinds)
    num_direct = round(parts.num_traces * parts.direct_share / (1 - parts.direct_share))
    rows: list[Row] = []
    for kind, weight in parts.kinds:
        known = [row for row in traces if row["question_type"] == kind]
        direct = make_direct([q for q in train_questions if _is(q, kind)])
        rows += _some(known, round(parts.num_traces * weight / whole), rng)
        rows += _some(direct, round(num_direct * weight / whole), rng)
    return [rows[i] for i in rng.permutation(len(rows))]


def _relative(rows: list[Row], out: Path) -> list[Row]:
    """The same rows with absolute image paths, to be written into another folder."""
    for row in rows:
        images = row["images"]
        assert isinstance(images, list)
        row["images"] = [str((out / "traces" / str(image)).resolve()) for image in images]
    return rows


def _some(rows: list[Row], num: int, rng: np.random.Generator) -> list[Row]:
    chosen = rng.permutation(len(rows))[:num]
    return [rows[i] for i in chosen]


def _write_shares(folder: Path, sources: list[SourceConfig], rows: list[Row]) -> None:
    """Share of each ``source`` mark among the transcripts that the steps draw."""
    drawn = {s.name: s.weight * s.batch_size for s in sources}
    counts = Counter(str(row["source"]) for row in rows)
    shares = {mark: drawn[MIX] * num / len(rows) for mark, num in counts.items()}
    shares |= {
        mark: drawn[name] for name, mark in ((DRILLS, "drill"), (NAMING, "naming")) if name in drawn
    }
    whole = sum(shares.values())
    text = json.dumps({mark: share / whole for mark, share in shares.items()})
    (folder / "shares.json").write_text(text)
