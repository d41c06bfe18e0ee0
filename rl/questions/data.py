"""Questions from parquet files in the released layout and back, and their resumable order.

A row is ``data_source, prompt, images, ability, reward_model, extra_info``; ``images`` holds paths
or structs ``{image, depth?, focal_length_px?}`` of paths and data URIs. Relative paths mean the
parquet's own folder and are absolute from here on. Whatever is wrong with a file is a ConfigError.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rl.rewards import KINDS, check_target
from rl.rewards.answer import grasp_points, number, points, yes_or_no
from rl.rewards.geometry import is_mask_text
from rl.types import Question
from sft.run_dir import draft_file
from toolshed.config import load_tools
from toolshed.errors import ConfigError
from toolshed.images import ImageSource
from toolshed.toolset import ToolSet
from toolshed.types import Json, Message, Role

COLUMNS = ("data_source", "prompt", "images", "reward_model")
IMAGE_MARK = "<image>"
_MAKING = "`python -m rl.tabletop --help` makes one"
_BATCH_ROWS = 4
"""Of rows with pictures inside, some megabytes each."""
_BUFFER_BYTES = 1 << 20
"""Else a row group is held as a whole, and a file may be one row group."""

SOURCE_KINDS: dict[str, str] = {
    "tabletop-point": "point_object",
    "tabletop-depth": "number",
    "tabletop-leftmost": "number",
    "tabletop-nearer": "choice",
    "tabletop-choice": "choice",
    "tabletop-yesno": "yesno",
    "tabletop-number": "number",
    "tabletop-point_object": "point_object",
    "tabletop-point_free": "point_free",
    "tabletop-pose": "pose",
    "tabletop-grasp": "grasp",
    "tabletop-pick": "pick",
    "tabletop-place": "place",
}
"""Answer kind of each of our own sources; others are told by the form of their ground truth."""

Row = Mapping[str, Any]


def load_questions(
    path: str | Path, *, data_root: str | Path | None = None, check_images: bool = True
) -> list[Question]:
    """All rows of a parquet; relative image paths mean ``data_root`` or else the file's folder."""
    path = Path(path).absolute()
    root = path.parent if data_root is None else Path(data_root).absolute()
    questions = [
        question_of(row, index, path.stem, root) for index, row in enumerate(read_rows(path))
    ]
    if not questions:
        raise ConfigError(f"data set {path} has no rows; make it again or name another file")
    for question in questions:
        check_target(question)
    if check_images:
        check_readable(questions)
    return questions


def write_questions(path: str | Path, questions: Sequence[Question]) -> None:
    """Write the released layout, atomically; images below the file's folder become relative."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_row(question, index, path.parent) for index, question in enumerate(questions)]
    with draft_file(path) as draft:
        pq.write_table(pa.Table.from_pylist(rows), draft)


def check_readable(questions: Sequence[Question]) -> None:
    """ConfigError for the first picture that is missing or damaged, without decoding pixels."""
    seen: set[str] = set()
    for question in questions:
        for source in question.images:
            for location in (source.image, source.depth):
                if location is None or location in seen:
                    continue
                seen.add(location)
                _verify(location, question.id)


def has_depth(questions: Sequence[Question]) -> bool:
    """Whether every picture brings a depth image; light depth tools refuse those without."""
    return all(source.depth is not None for each in questions for source in each.images)


def check_depth(questions: Sequence[Question], tools: ToolSet, config: str) -> None:
    """ConfigError where light depth is shown and a picture has none: it could only refuse.

    ``config`` is the word or path of the tool YAML that ``tools`` was named from.
    """
    if "depth_estimator" not in tools.families or has_depth(questions):
        return
    if load_tools(config).families["depth_estimator"].backend != "light":
        return
    lacking = next(q for q in questions if any(source.depth is None for source in q.images))
    raise ConfigError(
        f"question {lacking.id} ({lacking.source}) has a picture without a depth image, which the "
        "light depth_estimator reads; leave depth tools out with 'tools.show=[NAME,...]', or add "
        "depth to the data set"
    )


def answer_kind(source: str, hint: str, target: Json, question: str) -> str:
    """The key of ``rl.rewards.KINDS`` for a row; ``hint`` is its ``qa_type``."""
    if hint in KINDS:
        return hint
    if source in SOURCE_KINDS:
        return SOURCE_KINDS[source]
    if isinstance(target, (int, float)) and not isinstance(target, bool):
        return "number"
    if isinstance(target, list):
        return _kind_of_points(source, len(target), question)
    text = target.strip() if isinstance(target, str) else ""
    if yes_or_no(text):
        return "yesno"
    if re.fullmatch(r"\(?[A-Z]\)?", text):
        return "choice"
    if is_mask_text(text):
        return "point_object"
    if grasp_points(text):
        return "grasp"
    if points(text):
        return _kind_of_points(source, len(points(text)), question)
    if number(text) is not None:
        return "number"
    raise ConfigError(
        f"data source {source!r}: no answer kind fits the ground truth {str(target)[:60]!r}; "
        f"set extra_info.qa_type to one of {', '.join(KINDS)}"
    )


def _kind_of_points(source: str, count: int, question: str) -> str:
    if count == 8 and (source.endswith("pose") or "corners" in question):
        return "pose"
    return "point_free"


# ---- reading ----------------------------------------------------------------------------------


def meant_file(path: Path) -> str:
    """The question whether ``PATH.parquet`` is meant, where that is a file and ``path`` none."""
    meant = path.with_name(f"{path.name}.parquet")
    return f"did you mean {meant}?" if path.name and meant.is_file() else ""


def read_rows(path: Path, columns: Sequence[str] | None = COLUMNS) -> Iterator[Row]:
    """The rows of a parquet, a few in memory at a time; ConfigError where it cannot be read.

    ``columns`` must be there and are read, with ``extra_info`` where there is one; None reads all
    that there are.
    """
    if not path.is_file():
        raise ConfigError(f"data set {path} does not exist; {meant_file(path) or _MAKING}")
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            names = file.schema_arrow.names
            missing = [name for name in columns or () if name not in names]
            if missing:
                raise ConfigError(
                    f"data set {path} lacks the column(s) {', '.join(missing)}; "
                    f"it has {', '.join(names)}"
                )
            wanted = [name for name in names if columns is None or name in (*columns, "extra_info")]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"data set {path} is not a readable parquet file: {error}") from error
    finally:
        # A page, of up to some 1,000 rows, is held as a whole; else its memory would be kept.
        pa.default_memory_pool().release_unused()


def question_of(
    row: Row, index: int, stem: str, root: Path, kind_of: Callable[[Json], str] | None = None
) -> Question:
    """Row ``index`` of the set ``stem``; relative pictures mean ``root``.

    ``kind_of`` tells the answer kind from the ground truth, for sets that are known; else the row
    itself tells it. ConfigError where the row is not in the released layout.
    """
    where = f"row {index} of {stem}.parquet"
    try:
        reward, prompt = row["reward_model"], row["prompt"]
        target: Json = reward["ground_truth"]
        turns = [(cast(Role, turn["role"]), str(turn["content"])) for turn in prompt]
        images = tuple(_image_source(entry, root) for entry in row["images"] or ())
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{where} is not in the released layout (prompt: list of role and content; images: "
            f"list; reward_model: ground_truth and style): {error!r}"
        ) from error
    extra = _without_nulls(row.get("extra_info") or {})
    source = str(row.get("data_source", stem))
    text = turns[-1][1] if turns else ""
    scene = extra.get("scene")
    hint = str(extra.get("qa_type", ""))
    return Question(
        id=f"{stem}/{index}",
        source=source,
        kind=kind_of(target) if kind_of else answer_kind(source, hint, target, text),
        messages=_messages(turns, len(images), where),
        images=images,
        target=target,
        scene=scene if isinstance(scene, int) else None,
        extra=extra,
    )


def _messages(
    turns: Sequence[tuple[Role, str]], num_images: int, where: str
) -> tuple[Message, ...]:
    if (
        not turns
        or turns[-1][0] != "user"
        or any(role not in ("system", "user") for role, _ in turns)
    ):
        raise ConfigError(f"{where}: the prompt must be system and user messages, the user's last")
    marks = sum(text.count(IMAGE_MARK) for role, text in turns if role == "user")
    if marks != num_images:
        raise ConfigError(
            f"{where}: {marks} {IMAGE_MARK} mark(s) in the prompt, but {num_images} image(s)"
        )
    return tuple(
        Message(role=role, text=text, num_images=text.count(IMAGE_MARK) if role == "user" else 0)
        for role, text in turns
    )


def _image_source(entry: str | Row, root: Path) -> ImageSource:
    if isinstance(entry, str):
        return ImageSource(image=_locate(entry, root))
    if entry.get("image") is None and isinstance(entry.get("bytes"), bytes):
        return ImageSource(image=data_uri(entry["bytes"]))
    depth, focal_length = entry.get("depth"), entry.get("focal_length_px")
    return ImageSource(
        image=_locate(entry["image"], root),
        depth=None if depth is None else _locate(depth, root),
        focal_length_px=None if focal_length is None else float(focal_length),
    )


def data_uri(encoded: bytes) -> str:
    """The bytes of an image file as a data URI."""
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(encoded).decode("ascii")


def _locate(location: str, root: Path) -> str:
    if location.startswith("data:"):
        return location
    return str(root / location)


def _without_nulls(value: Row) -> dict[str, Json]:
    """Rows of one column share their keys, so a key that a row lacks comes back as null."""
    return {key: item for key, item in value.items() if item is not None}


def _verify(location: str, question_id: str) -> None:
    try:
        if location.startswith("data:"):
            payload = base64.b64decode(location.partition(",")[2], validate=True)
            Image.open(io.BytesIO(payload)).verify()
        else:
            with Image.open(location) as image:
                image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        shown = location if len(location) < 160 else location[:40] + "..."
        raise ConfigError(
            f"question {question_id}: image {shown} is missing or damaged ({error}); "
            "restore it or make the data set again"
        ) from error


# ---- writing ----------------------------------------------------------------------------------


def _row(question: Question, index: int, folder: Path) -> dict[str, Any]:
    extra: dict[str, Any] = {
        "answer": str(question.target),
        "index": index,
        "qa_type": question.kind,
        "question": question.messages[-1].text.replace(IMAGE_MARK, "").strip(),
        **question.extra,
    }
    if question.scene is not None:
        extra["scene"] = question.scene
    return {
        "data_source": question.source,
        "prompt": [{"role": each.role, "content": each.text} for each in question.messages],
        "images": [
            {
                "image": _relative(source.image, folder),
                "depth": None if source.depth is None else _relative(source.depth, folder),
                "focal_length_px": source.focal_length_px,
            }
            for source in question.images
        ],
        "ability": "spatial",
        "reward_model": {"ground_truth": question.target, "style": "rule"},
        "extra_info": extra,
    }


def _relative(location: str, folder: Path) -> str:
    if location.startswith("data:") or not Path(location).is_relative_to(folder):
        return location
    return str(Path(location).relative_to(folder))


# ---- order ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """Where a stream stands; with the same questions it goes on exactly from here."""

    seed: int
    num_taken: int
    fingerprint: str
    """Hash of the questions, so that another data set is not continued by mistake."""


def _content(question: Question) -> tuple[object, ...]:
    """What makes a question another one; not its pictures' places, which may move."""
    return (question.id, question.kind, question.messages, question.target, question.scene)


class QuestionStream:
    """Endless seeded order: one fresh permutation of all questions per epoch."""

    def __init__(self, questions: Sequence[Question], seed: int) -> None:
        if not questions:
            raise ConfigError("a question stream needs at least one question")
        self._questions = list(questions)
        self._seed = seed
        self._num_taken = 0
        self._order: list[int] = []
        self._order_epoch = -1
        content = "\n".join(repr(_content(question)) for question in questions)
        self._fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def __iter__(self) -> QuestionStream:
        return self

    def __next__(self) -> Question:
        epoch, place = divmod(self._num_taken, len(self._questions))
        if epoch != self._order_epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._order = rng.permutation(len(self._questions)).tolist()
            self._order_epoch = epoch
        self._num_taken += 1
        return self._questions[self._order[place]]

    def take(self, num: int) -> list[Question]:
        return [next(self) for _ in range(num)]

    def state(self) -> StreamState:
        return StreamState(
            seed=self._seed, num_taken=self._num_taken, fingerprint=self._fingerprint
        )

    def restore(self, state: StreamState) -> None:
        """Go on where ``state`` was taken; ConfigError if the questions are others."""
        if state.fingerprint != self._fingerprint or state.seed != self._seed:
            raise ConfigError(
                "the saved data order belongs to another data set or seed; "
                "start a new run or name the data set that the run began with"
            )
        self._num_taken = state.num_taken
