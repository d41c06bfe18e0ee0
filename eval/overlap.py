"""What training and evaluation share: ``python -m eval.overlap TRAIN... BENCHMARK...``.

Compared are pictures (the same pixels; nearly the same by a difference hash) and questions (the
same text once normalised). Templates ask the same of different pictures, so that a text alone says
little: what was trained on is a row that shares picture and text with an evaluation row. Only the
evaluation sets' hashes are held in memory; training files pass by row by row.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from eval.benchmarks import BENCHMARKS, data_file
from eval.overlap_rows import Item, read_items
from eval.overlap_sets import EvaluationSet, Options, Pictures
from sft.fingerprint import NEAR_BITS, Fingerprint
from sft.run_dir import write_atomic
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.types import Json

WAYS = ("same_picture", "near_picture", "same_text", "picture_and_text")
"""How a training row meets an evaluation row; a picture that is the same is not near as well, and
the last way takes either."""
EXPORT_FORMAT = "spacetools-evaluation-hashes-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training row beside one evaluation row."""

    way: str
    training: str
    """Place of the row."""
    evaluation: str
    bits: int | None
    """In which the pictures' difference hashes differ; None where only texts are the same."""


@dataclass(kw_only=True, slots=True)
class Overlap:
    """One training file against one evaluation set."""

    training: str
    benchmark: str
    training_rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    """Rows of the training file that meet the set, for each of WAYS."""
    evaluation_rows: dict[str, set[int]] = field(
        default_factory=lambda: {way: set() for way in WAYS}
    )
    """Numbers of the set's rows that are met."""
    examples: list[Example] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Passed:
    """How much of a training file was seen."""

    file: str
    rows: int = 0
    rows_without_picture: int = 0
    overlaps: list[Overlap] = field(default_factory=list)


def compare_file(
    path: Path, sets: Sequence[EvaluationSet], options: Options, pictures: Pictures
) -> Passed:
    """Every row of a training file against all evaluation sets; ConfigError names a bad row."""
    passed = Passed(file=str(path))
    passed.overlaps = [Overlap(training=str(path), benchmark=each.name) for each in sets]
    for item in read_items(path, options.root):
        passed.rows += 1
        passed.rows_without_picture += not item.pictures
        locations = () if options.texts_only else item.pictures
        shown = [pictures.of(location, item.place) for location in locations]
        for each, overlap in zip(sets, passed.overlaps, strict=True):
            _meet(item, shown, each, overlap, options)
    if not passed.rows:
        raise ConfigError(f"training file {path} has no rows; make it again")
    return passed


def _meet(
    item: Item,
    shown: Sequence[Fingerprint],
    each: EvaluationSet,
    overlap: Overlap,
    options: Options,
) -> None:
    texts, same = each.rows_with(item.texts), each.rows_showing(shown)
    near = each.rows_near(shown, options.near_bits)
    bits: dict[int, int | None] = {**near, **dict.fromkeys(same, 0)}
    met = {
        "same_picture": same,
        "near_picture": set(near) - same,
        "same_text": texts,
        "picture_and_text": texts & (same | set(near)),
    }
    for way, rows in met.items():
        if not rows:
            continue
        overlap.training_rows[way] += 1
        overlap.evaluation_rows[way] |= rows
        if sum(one.way == way for one in overlap.examples) < options.num_examples:
            first = min(rows)
            overlap.examples.append(
                Example(
                    way=way,
                    training=item.place,
                    evaluation=each.places[first],
                    bits=bits.get(first),
                )
            )


# ---- words ------------------------------------------------------------------------------------


def report(passed: Sequence[Passed], sets: Sequence[EvaluationSet]) -> dict[str, Json]:
    """Everything that was found, for ``--json``."""
    return {
        "training": [
            {"file": p.file, "rows": p.rows, "rows_without_picture": p.rows_without_picture}
            for p in passed
        ],
        "evaluation": [
            {"benchmark": one.name, "file": str(one.path), "rows": len(one.places)} for one in sets
        ],
        "overlaps": [
            {
                "training": overlap.training,
                "benchmark": overlap.benchmark,
                **{
                    way: {
                        "training_rows": overlap.training_rows[way],
                        "evaluation_rows": len(overlap.evaluation_rows[way]),
                    }
                    for way in WAYS
                },
                "examples": [asdict(one) for one in overlap.examples],
            }
            for p in passed
            for overlap in p.overlaps
        ],
    }


def table(passed: Sequence[Passed], sets: Sequence[EvaluationSet], options: Options) -> str:
    """Counts for each pair of files, training rows / evaluation rows, then examples."""
    sizes = {one.name: len(one.places) for one in sets}
    lines = [f"evaluation {one.name}: {one.path}, {len(one.places)} rows" for one in sets]
    lines += [
        f"training {p.file}: {p.rows} rows, {p.rows_without_picture} without a picture"
        for p in passed
    ]
    lines.append(
        f"\nrows of training / of evaluation that meet; near: at most {options.near_bits} of 64 "
        "bits differ"
    )
    if options.texts_only:
        lines.append("pictures were not compared (--texts)")
    titles = "".join(f"{way.replace('_', ' '):>18}" for way in WAYS)
    lines.append(f"{'training':<28}{'evaluation':<26}{titles}")
    for p in passed:
        for overlap in p.overlaps:
            cells = "".join(
                f"{f'{overlap.training_rows[way]} / {len(overlap.evaluation_rows[way])}':>18}"
                for way in WAYS
            )
            benchmark = f"{overlap.benchmark} ({sizes[overlap.benchmark]})"
            lines.append(f"{Path(p.file).name:<28}{benchmark:<26}{cells}")
    examples = [one for p in passed for overlap in p.overlaps for one in overlap.examples]
    for one in examples:
        bits = "" if one.bits is None else f" ({one.bits} bits)"
        lines.append(f"  {one.way.replace('_', ' ')}{bits}: {one.training} and {one.evaluation}")
    return "\n".join(lines)


def export(path: Path, sets: Sequence[EvaluationSet], options: Options) -> None:
    """Write the sets' hashes as JSON: ``{format, near_bits, sets: {name: {picture_sha256,
    picture_dhash, text_sha256, rows}}}``, hashes as ``sft.fingerprint`` makes them."""
    held = {
        "format": EXPORT_FORMAT,
        "near_bits": options.near_bits,
        "sets": {one.name: one.exported() for one in sets},
    }
    write_atomic(path, json.dumps(held, indent=1) + "\n")


# ---- the command ------------------------------------------------------------------------------


def split_words(
    words: Sequence[str], against: Sequence[str], data: Path | None, *, exports: bool
) -> tuple[list[Path], Mapping[str, Path]]:
    """Training files and evaluation sets by name.

    With ``against`` it says which are evaluation sets; without it they are the words that are a
    benchmark's key, or a file named after one. ConfigError where a name comes twice or a side is
    empty; hashes can be exported without a training file.
    """
    chosen = list(against) or [word for word in words if Path(word).stem in BENCHMARKS]
    training = [Path(word) for word in words if against or word not in chosen]
    if not chosen or not (training or exports):
        raise ConfigError(
            f"{'none' if not chosen else 'all'} of {', '.join(words)} are evaluation sets (a "
            "benchmark's key, or a file named after one); give training files and evaluation "
            "sets, the latter after --against where their names do not say it"
        )
    sets: dict[str, Path] = {}
    for word in chosen:
        path = Path(word)
        if word in BENCHMARKS and not path.exists():
            path = _published(word, data)
        if path.stem in sets:
            raise ConfigError(f"two evaluation sets are called {path.stem}; rename one")
        sets[path.stem] = path
    return training, sets


def _published(key: str, data: Path | None) -> Path:
    try:
        path = data_file(key, data)
    except ConfigError as error:
        raise ConfigError(f"{error} (here: --data FOLDER)") from error
    if path is None:
        raise ConfigError(f"{key} is made on demand; name the parquet that holds its questions")
    return path


_HELP = """Files are parquet in the released layout, JSONL, or JSON lists (ShareGPT). Evaluation
sets are the words that are a benchmark's key (with --data) or a file named after one, such as
robospatial.parquet; --against names any others. With --export no training file is needed. Texts
are the same when letters and digits are, whatever case, spacing and punctuation. The exit code is
0 whether anything is shared or not."""


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.overlap``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.overlap",
        description="Pictures and questions that training and evaluation share.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="training files and evaluation sets")
    add(
        "--against",
        metavar="FILE",
        nargs="+",
        default=[],
        help="evaluation sets; then all others are training files",
    )
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="holds KEY.parquet of the benchmarks named by key",
    )
    add(
        "--root", type=Path, metavar="FOLDER", help="where relative pictures lie (beside each file)"
    )
    add("--texts", action="store_true", help="compare texts alone, for sets without their pictures")
    add(
        "--near",
        type=int,
        default=NEAR_BITS,
        metavar="BITS",
        help=f"bits of 64 in which near pictures may differ ({NEAR_BITS})",
    )
    add("--examples", type=int, default=5, metavar="N", help="examples for each count (5)")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    add("--export", type=Path, metavar="FILE", help="write the evaluation sets' hashes as JSON")
    args = parser.parse_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl", "eval")


def _run(args: argparse.Namespace) -> int:
    if not 0 <= args.near < 64:
        raise ConfigError(f"--near {args.near} is not between 0 and 63, of 64 bits")
    if args.examples < 0:
        raise ConfigError(f"--examples {args.examples} is below 0; give how many to show")
    training, named = split_words(
        args.files, args.against, args.data, exports=args.export is not None
    )
    options = Options(
        root=args.root, texts_only=args.texts, near_bits=args.near, num_examples=args.examples
    )
    pictures = Pictures()
    sets = [EvaluationSet(name, path, options, pictures) for name, path in named.items()]
    passed = [compare_file(path, sets, options, pictures) for path in training]
    if args.export is not None:
        export(args.export, sets, options)
    print(json.dumps(report(passed, sets)) if args.json else table(passed, sets, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
