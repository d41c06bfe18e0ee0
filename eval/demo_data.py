"""The demo's questions and the mixture of its SFT.

Train and test questions come from different seeds, so from different scenes; each data set is one
folder with a parquet for all kinds and one for each.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from rl.data import load_questions, write_questions
from rl.drills import Row, make_direct, make_drills, make_naming, write_rows
from rl.tabletop import Order, best_picture_rule, write_dataset
from rl.types import Question
from sft.data import SourceConfig
from sft.train import SFTConfig, train

WEIGHTS = {"point": 1.0, "depth": 1.0, "leftmost": 2.0, "nearer": 1.5}
"""Share of each kind among the prompts of full RL and among the traces."""
DIRECT_SHARE = 0.3
"""Of the traces' mixture: real teacher data holds answers without tools as well."""
NUM_TRACES = 2000
NUM_DRILLS = 800
MIX, DRILLS, NAMING = "traces", "drills", "naming"


def base_scene_seed(seed: int) -> int:
    """First scene of the base's pictures; data sets use seeds times a million."""
    return 4_000_000_000 + seed * 10_000


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


def fine_tune(out: Path, name: str, config: SFTConfig) -> None:
    """Write the mixture's files and train on them."""
    seed = config.seed
    train_questions = [q for kind in WEIGHTS for q in questions(out, "train", kind)]
    folder = out / "traces" / name
    free = name == "toolfree_sft"
    rows = make_direct(train_questions) if free else _mixture(out, train_questions, seed)
    write_rows(folder / f"{MIX}.json", rows)
    write_rows(folder / f"{NAMING}.json", make_naming(questions(out, "train", "leftmost")))
    sources = [
        SourceConfig(path=str(folder / f"{MIX}.json"), weight=0.5, batch_size=12, name=MIX),
        SourceConfig(path=str(folder / f"{NAMING}.json"), weight=0.22, batch_size=24, name=NAMING),
    ]
    if free:
        sources[0].weight = 0.78
    else:
        kinds = ("depth", "depth", "point", "nearer", "nearer")
        write_rows(folder / f"{DRILLS}.json", make_drills(NUM_DRILLS, seed, kinds))
        path = str(folder / f"{DRILLS}.json")
        sources.append(SourceConfig(path=path, weight=0.28, batch_size=4, name=DRILLS))
    train(replace(config, sources=sources))
    _write_shares(out / name, sources, rows)


def _mixture(out: Path, train_questions: list[Question], seed: int) -> list[Row]:
    """Traces of both teachers in the kinds' shares, and direct answers for the stated share."""
    rng = np.random.default_rng(seed)
    traces = [
        row
        for name in ("distilled", "teacher")
        for row in _relative(json.loads((out / "traces" / f"{name}.json").read_text()), out)
    ]
    whole = sum(WEIGHTS.values())
    num_direct = round(NUM_TRACES * DIRECT_SHARE / (1 - DIRECT_SHARE))
    rows: list[Row] = []
    for kind, weight in WEIGHTS.items():
        known = [row for row in traces if row["question_type"] == kind]
        direct = make_direct([q for q in train_questions if _is(q, kind)])
        rows += _some(known, round(NUM_TRACES * weight / whole), rng)
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
