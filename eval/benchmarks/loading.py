"""Questions of a benchmark: from a local folder, from the hub, or made on demand.

The tabletop makes its own questions. All others are read from ``data=FOLDER``, or else fetched at
the revision that their entry names; pictures inside a file are unpacked once, so that questions
hold paths and memory does not grow with pictures.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.entry import Benchmark
from eval.benchmarks.sampling import stratified
from eval.benchmarks.table import BENCHMARKS, TABLETOP
from rl.questions.unpacking import PlainPaths, cache_folder, file_sha256, unpacked
from sft import hub
from toolshed.errors import ConfigError
from toolshed.types import Json, Message

if TYPE_CHECKING:
    from rl.types import Question

log = logging.getLogger(__name__)

_MOST_NAMED = 5
"""Rows that a warning names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """The questions of one benchmark that a run asks, and what they are."""

    questions: tuple[Question, ...]
    num_all: int
    """Questions of the whole set."""
    facts: dict[str, str] = field(default_factory=dict)
    """Where they come from, for a run's records: ``file``, ``sha256``, and of the hub
    ``repository`` and ``revision``, the full commit; of the tabletop ``made``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    path: Path
    commit: str = ""


def benchmark_named(key: str) -> Benchmark:
    """The entry of a key; ConfigError naming the nearest one."""
    if key not in BENCHMARKS:
        near = difflib.get_close_matches(key, BENCHMARKS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown benchmark {key!r}; known: {', '.join(BENCHMARKS)}{hint}")
    return BENCHMARKS[key]


# ---- finding ----------------------------------------------------------------------------------


def data_file(key: str, data: Path | None) -> Path | None:
    """The data file of a benchmark, fetched from the hub where no folder is given; None for a
    tabletop set that is made on demand. ConfigError where it cannot be had."""
    found = _find(key, data)
    return found.path if found else None


def check_data(key: str, data: Path | None) -> None:
    """ConfigError where a benchmark cannot be had for lack of a file; nothing is fetched."""
    if _local_file(key, data) is not None or key.startswith(TABLETOP):
        return
    if data is not None or not BENCHMARKS[key].repository:
        raise _lacking(key, data)


def origin_of(key: str, data: Path | None) -> str:
    """Where the questions come from, for people; nothing is fetched."""
    path = _local_file(key, data)
    if path is not None:
        return str(path)
    source = benchmark_named(key).data
    if source.repository:
        there = hub.is_fetched(source.repository, source.revision, _hub_file(key))
        state = "fetched before" if there else "to be fetched"
        return f"{source.repository} at {source.revision} on the hub, {state}"
    made = "the tabletop, made on demand"
    return made if data is None else f"{made} ({data} holds no {key}.parquet)"


def _find(key: str, data: Path | None) -> _Found | None:
    path = _local_file(key, data)
    if path is not None:
        return _Found(path=path.absolute())
    if key.startswith(TABLETOP):
        return None
    source = BENCHMARKS[key].data
    if data is not None or not source.repository:
        raise _lacking(key, data)
    fetched = hub.fetch(source.repository, source.revision, _hub_file(key))
    return _Found(path=fetched.path, commit=fetched.commit)


def _local_file(key: str, data: Path | None) -> Path | None:
    """The one file in a folder of the user's; a pattern that fits several is an error."""
    benchmark = benchmark_named(key)
    if data is None:
        return None
    for pattern in (each.format(key=key) for each in benchmark.data.files):
        fitting = sorted(path for path in data.glob(pattern) if path.is_file())
        if len(fitting) > 1:
            raise ConfigError(
                f"benchmark {key}: {data} holds {len(fitting)} files {pattern}; keep the right one"
            )
        if fitting:
            return fitting[0]
    return None


def _hub_file(key: str) -> str:
    return BENCHMARKS[key].data.hub_file.format(key=key)


def _lacking(key: str, data: Path | None) -> ConfigError:
    source = BENCHMARKS[key].data
    name = source.files[0].format(key=key)
    where = "no data folder was given" if data is None else f"{data} holds no {name}"
    if data is not None and not data.is_dir():
        where = f"{data} is {'a file' if data.exists() else 'not there'}, data= names a folder"
    remedy = f"pass data=FOLDER, one that holds {name}"
    if source.repository:
        remedy = (
            f"copy {_hub_file(key)} of the Hugging Face data set {source.repository} there, or "
            "leave data= out and it is fetched"
        )
    return ConfigError(f"benchmark {key}: {where}; {remedy}")


# ---- loading ----------------------------------------------------------------------------------


def load_benchmark(
    key: str, data: Path | None, made: Path, *, limit: int = 0, seed: int = 0, cache: str = ""
) -> list[Question]:
    """The questions of ``open_benchmark`` alone."""
    found = open_benchmark(key, data, made, limit=limit, seed=seed, cache=cache)
    return list(found.questions)


def open_benchmark(
    key: str, data: Path | None, made: Path, *, limit: int = 0, seed: int = 0, cache: str = ""
) -> QuestionSet:
    """Questions of a benchmark; ``limit`` takes a random part, stratified by question type.

    Tabletop questions that no file holds are made once in the folder ``made``. Pictures are
    unpacked below ``cache`` (empty for the user's). Raises ConfigError for whatever is wrong with
    the data, naming row and value, and for another number of questions than a pinned revision has.
    """
    benchmark = benchmark_named(key)
    found = _find(key, data)
    if found is None:
        found = _Found(path=_made(key, made, limit))
        facts = {"made": f"tabletop, seed {EVAL_SEED}"}
        questions = list(_questions(key, benchmark, found.path, found.path.parent))
    else:
        sha256 = file_sha256(found.path)
        facts = _facts(benchmark, found, sha256)
        questions = _read(key, benchmark, found.path, sha256, cache)
        _check_size(key, benchmark, found, len(questions))
    if not questions:
        raise ConfigError(f"{found.path} has no rows; get the data again")
    types = [question_type_of(key, question) or "" for question in questions]
    picks = stratified(types, limit, seed)
    return QuestionSet(
        questions=tuple(questions[pick] for pick in picks), num_all=len(questions), facts=facts
    )


def question_type_of(key: str, question: Question) -> str | None:
    """Type of a loaded question; None where it fits none, and for a key that is no benchmark."""
    from rl.show.episode import user_words

    benchmark = BENCHMARKS.get(key)
    if benchmark is None or benchmark.question_type is None:
        return key if benchmark else None
    # The question by itself, where the data keep it apart from what the prompt adds.
    texts = [user_words(question), str(question.extra.get("question", ""))]
    found = (benchmark.question_type(text, question.target) for text in texts)
    return next((name for name in found if name), None)


def _facts(benchmark: Benchmark, found: _Found, sha256: str) -> dict[str, str]:
    facts = {"file": str(found.path), "sha256": sha256}
    if found.commit:
        facts |= {"repository": benchmark.repository, "revision": found.commit}
        promised = hub.promised_sha256(found.path)
        if promised and promised != sha256:
            raise ConfigError(
                f"{found.path.resolve()} is damaged (its hash is {sha256[:12]}...); "
                "delete it and run again"
            )
    return facts


def _read(key: str, benchmark: Benchmark, path: Path, sha256: str, cache: str) -> list[Question]:
    rows = benchmark.data.rows
    try:
        folder, unpacked_rows = unpacked(path, sha256, rows, cache_folder(cache))
    except PlainPaths:
        from rl.questions.data import check_readable

        questions = list(_questions(key, benchmark, path, path.absolute().parent))
        check_readable(questions)
        return questions
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _out_of_layout(path, key, error) from error
    return list(_questions(key, benchmark, path, folder, unpacked_rows))


def _questions(
    key: str,
    benchmark: Benchmark,
    path: Path,
    root: Path,
    rows: Sequence[dict[str, Any]] | None = None,
) -> Iterator[Question]:
    """Checked questions of a file's rows, or of ``rows`` that were read from it before."""
    from rl.questions.data import question_of

    kind_of = None if key.startswith(TABLETOP) else benchmark.kind_of
    short_poses: list[int] = []
    try:
        for index, row in enumerate(benchmark.data.rows(path) if rows is None else rows):
            question = question_of(row, index, key, root, kind_of)
            _check(question, key, benchmark, f"{path} row {index}")
            if question.kind == "pose" and not _has_all_corners(question.target):
                short_poses.append(index)
            yield _prompted(question, benchmark.prompt)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _out_of_layout(path, key, error) from error
    if short_poses:
        log.warning(
            "%s: %d ground truths of %s have other than eight corners and score 0 whatever is "
            "answered, by the published rule (rows %s%s)",
            path, len(short_poses), key, ", ".join(map(str, short_poses[:_MOST_NAMED])),
            ", ..." if len(short_poses) > _MOST_NAMED else "",
        )  # fmt: skip


def _check(question: Question, key: str, benchmark: Benchmark, place: str) -> None:
    if question.kind not in benchmark.kinds:
        raise ConfigError(
            f"{place}: it asks for {question.kind}, but {key} has only "
            f"{' and '.join(benchmark.kinds)}; is this another benchmark's file?"
        )
    if question.source in BENCHMARKS and question.source != key:
        raise ConfigError(f"{place} is of {question.source}, not of {key}; name the right file")
    try:
        check_truth(key, question.kind, question.target)
        if benchmark.repository and question.kind == "choice":
            _check_offered(question)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}; is this another benchmark's file?") from error


def check_truth(key: str, kind: str, ground_truth: Json) -> None:
    """ConfigError where a ground truth cannot be read. Of a pose any number of corners can: by the
    published rule other than eight score 0, on either side."""
    from rl.rewards import kind_named
    from rl.rewards.answer import target_points

    known = kind_named(kind)
    is_truth = target_points if kind == "pose" else known.is_target
    if not is_truth(ground_truth):
        shown = str(ground_truth)[:60]
        raise ConfigError(f"ground truth {shown!r} of {key} is not {known.form}")


def _check_offered(question: Question) -> None:
    """A published question with options offers letters, and its ground truth is one of them."""
    from rl.rewards.choice import offered_letters

    letters = offered_letters(question.messages[-1].text)
    truth = str(question.target).strip("() ").upper()
    if truth not in letters:
        raise ConfigError(f"ground truth {truth[:60]!r} is none of the options {letters}")


def _has_all_corners(ground_truth: Json) -> bool:
    from rl.rewards import kind_named

    return kind_named("pose").is_target(ground_truth)


def _prompted(question: Question, prompt: str | None) -> Question:
    if prompt is None:
        return question
    asked = (message for message in question.messages if message.role != "system")
    return replace(question, messages=(Message(role="system", text=prompt), *asked))


def _out_of_layout(path: Path, key: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path} is not in the layout of {key}: {error!r}; is this another benchmark's file?"
    )


def _check_size(key: str, benchmark: Benchmark, found: _Found, num: int) -> None:
    if key.startswith(TABLETOP) or num == benchmark.size:
        return
    said = f"{found.path} holds {num} questions, the published {key} {benchmark.size}"
    if found.commit and benchmark.data.is_pinned:
        raise ConfigError(f"{said}; delete {found.path.resolve()} and run again")
    log.warning("%s; its scores are not comparable with published ones", said)


EVAL_SEED = 2_147_000_777
"""Of tabletop data sets made here: near the end of the seeds that there are, and in its last three
digits none that the demo makes of its own seed, so nobody trains on these scenes."""


def _made(key: str, folder: Path, limit: int) -> Path:
    from rl.tabletop.dataset import Order, write_dataset

    num = limit or BENCHMARKS[key].size
    path = folder / f"seed{EVAL_SEED}" / f"{key}-{num}.parquet"
    if not path.is_file():
        order = Order(kinds=(key.removeprefix(TABLETOP),), num=num, seed=EVAL_SEED)
        # What an interruption left there is made again.
        write_dataset(path, order, force=True)
    return path
