"""Where the questions of a run come from: a parquet, a folder in the published layout, or the hub.

The published sets (``siyich/spacetools-rlpointtools`` and ``-rlfulltools``) hold
``data/train.parquet``, perhaps in several pieces, and pictures either inside it or below
``images/``, named from the set's root. Where they lie is no matter: questions hold absolute paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rl.questions.data import check_readable, load_questions, meant_file, question_of, read_rows
from rl.questions.unpacking import PlainPaths, cache_folder, file_sha256, unpacked
from rl.rewards import check_target
from rl.types import Question
from sft import hub
from toolshed.errors import ConfigError

HUB = hub.WORD
_TRAIN = ("data/train.parquet", "data/train-*.parquet", "train.parquet", "train-*.parquet")
_PICTURES = "images/*"


def on_the_hub(word: str) -> hub.OnTheHub | None:
    """What ``hub:OWNER/NAME[@REVISION][/FILE.parquet]`` says; without a file it means the training
    files. None for another word, ConfigError for one that begins so and is not of that form."""
    return hub.on_the_hub(word, ".parquet")


def load_source(
    word: str, *, rows: int = 0, limit: int = 0, cache: str = "", fetches: bool = True
) -> list[Question]:
    """The questions of a parquet, a folder or a set of the hub, all or the first ``limit``.

    ``rows`` is how many there must be (0 for any), which is not asked of a part. Pictures inside
    files are unpacked below ``cache`` (empty for the user's). Without ``fetches`` no server is
    asked, and what was fetched before has to suffice. Raises ConfigError for whatever is wrong with
    the data, naming row and value.
    """
    paths = files_of(word, fetches=fetches)
    questions = [question for path in paths for question in _read(path, cache)]
    if rows and not limit and len(questions) != rows:
        raise ConfigError(
            f"data set {word} has {len(questions)} rows, and rows={rows} says otherwise; get it "
            "again, correct rows, or take a part of it with limit"
        )
    return questions[: limit or None]


def at_commit(word: str, known: Mapping[str, str], *, fetches: bool = True) -> str:
    """The word with its commit in full: the one ``known`` of this word, else that of today, or
    without ``fetches`` of the last time; a word that is not of the hub as it is."""
    wanted = on_the_hub(word)
    if wanted is None:
        return word
    commit = known.get(word) or hub.full_commit(wanted.repository, wanted.revision, fetches=fetches)
    return f"{HUB}{wanted.repository}@{commit}" + (f"/{wanted.file}" if wanted.file else "")


def files_of(word: str, *, fetches: bool = True) -> list[Path]:
    """The parquet files that a word means, in order; ``fetches`` what is on the hub."""
    wanted = on_the_hub(word)
    if wanted is None:
        path = Path(word)
        return _training_files(path) if path.is_dir() else [path]
    patterns = [wanted.file] if wanted.file else list(_TRAIN)
    found = hub.fetch_set(
        wanted.repository, wanted.revision, [*patterns, _PICTURES], fetches=fetches
    )
    if not wanted.file:
        return _training_files(found.path)
    path = found.path / wanted.file
    if not path.is_file():
        raise ConfigError(
            f"the Hugging Face data set {wanted.repository} at {found.commit} holds no "
            f"{wanted.file}; name one of its files"
        )
    return [path]


def is_here(word: str) -> bool:
    """Whether reading it needs no server; ConfigError where a file or folder is not as it must
    be."""
    wanted = on_the_hub(word)
    if wanted is None:
        for path in files_of(word):
            if not path.is_file():
                hint = meant_file(path) or "give a parquet, or hub:NAME"
                raise ConfigError(f"data set {path} does not exist; {hint}")
        return True
    patterns = [wanted.file] if wanted.file else _TRAIN
    return any(hub.is_fetched(wanted.repository, wanted.revision, each) for each in patterns)


def origin_of(word: str) -> str:
    """Where questions come from, for people; nothing is fetched. ConfigError as of ``is_here``."""
    wanted, here = on_the_hub(word), is_here(word)
    if wanted is None:
        return ", ".join(str(path.absolute()) for path in files_of(word))
    state = "fetched before" if here else "to be fetched"
    return f"{wanted.repository} at {wanted.revision} on the hub, {state}"


def _training_files(folder: Path) -> list[Path]:
    """The one set of training files in a folder; two of them would be asked twice."""
    fitting = [(each, sorted(folder.glob(each))) for each in _TRAIN]
    fitting = [(pattern, found) for pattern, found in fitting if found]
    if len(fitting) != 1:
        several = " and ".join(pattern for pattern, _ in fitting) or f"none of {', '.join(_TRAIN)}"
        raise ConfigError(f"folder {folder} holds {several}; name the parquet file that is meant")
    return fitting[0][1]


def _read(path: Path, cache: str) -> list[Question]:
    if not path.is_file():
        return load_questions(path)
    root = _root_of(path)
    try:
        folder, rows = unpacked(path, file_sha256(path), read_rows, cache_folder(cache))
    except PlainPaths:
        return load_questions(path, data_root=root)
    except ConfigError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError):
        # Not in the layout; reading it says where.
        return load_questions(path, data_root=root)
    if not rows:
        raise ConfigError(f"data set {path} has no rows; get it again or name another file")
    questions = [question_of(row, index, path.stem, folder) for index, row in enumerate(rows)]
    for question in questions:
        check_target(question)
    check_readable(questions)
    return questions


def _root_of(path: Path) -> Path:
    """The folder that relative pictures are named from: the file's own, or that of the set where
    the file lies in its ``data``."""
    is_inner = path.parent.name == "data" and (path.parent.parent / "images").is_dir()
    own = path.parent / "images"
    return path.parent.parent if is_inner and not own.is_dir() else path.parent
