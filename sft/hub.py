"""Data sets on the Hugging Face hub, at a commit that is known in full.

Files lie in the hub's own cache (``HF_HOME``, ``HF_HUB_CACHE``) and are fetched once; the variable
``HF_ENDPOINT`` names another server that speaks the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from toolshed.errors import ConfigError

WORD = "hub:"
"""How words of configs begin that mean a data set of the hub."""
_SET = re.compile(r"hub:([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?(?:/([^/].*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BEGINNING = re.compile(r"[0-9a-f]{7,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OnTheHub:
    """A data set of the hub, as a config names it."""

    repository: str
    revision: str = "main"
    """A commit, how one begins, or a branch."""
    file: str = ""
    """One of its files; empty where it is not said which."""


def on_the_hub(word: str, *endings: str) -> OnTheHub | None:
    """What ``hub:OWNER/NAME[@REVISION][/FILE]`` says, a file with one of ``endings``; None for
    another word, ConfigError for one that begins so and is not of that form."""
    if not word.startswith(WORD):
        return None
    found = _SET.fullmatch(word)
    if found is None or (found[3] and not found[3].endswith(endings)):
        file = f"FILE{endings[0]}" if len(endings) == 1 else f"FILE ({', '.join(endings)})"
        raise ConfigError(
            f"{word!r} is not of the form hub:OWNER/NAME, hub:OWNER/NAME@REVISION or "
            f"hub:OWNER/NAME@REVISION/{file}"
        )
    return OnTheHub(repository=found[1], revision=found[2] or "main", file=found[3] or "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file of the hub on this machine."""

    path: Path
    commit: str
    """All forty digits."""


def fetch(repository: str, revision: str, pattern: str) -> Fetched:
    """The one file that fits ``pattern`` in a data set at ``revision``: a commit, how one begins,
    or a branch. ConfigError where it cannot be had, naming both ways to get it."""
    from huggingface_hub import hf_hub_download

    with _reaching(repository, revision, pattern, "that file into a folder and pass data=FOLDER"):
        commit = commit_of(repository, revision)
        name = _file_at(repository, commit, pattern)
        found = hf_hub_download(repository, name, repo_type="dataset", revision=commit)
    return Fetched(path=Path(found), commit=commit)


def fetch_set(
    repository: str, revision: str, patterns: Sequence[str], *, fetches: bool = True
) -> Fetched:
    """The folder of a data set at ``revision``, with all files that fit one of ``patterns``; where
    it was fetched whole before, a full commit asks no server. Without ``fetches`` none is asked at
    all, and the folder holds what was fetched before. ConfigError as of ``fetch``."""
    from huggingface_hub import snapshot_download

    with _reaching(repository, revision, " and ".join(patterns), "them and give their folder"):
        commit = commit_of(repository, revision, fetches=fetches)
        found = snapshot_download(
            repository,
            repo_type="dataset",
            revision=commit,
            allow_patterns=list(patterns),
            local_files_only=not fetches,
        )
    return Fetched(path=Path(found), commit=commit)


def full_commit(repository: str, revision: str, *, fetches: bool = True) -> str:
    """``commit_of`` with a ConfigError where it cannot be had."""
    with _reaching(repository, revision, "the commit", "the data and give its folder"):
        return commit_of(repository, revision, fetches=fetches)


@contextmanager
def _reaching(repository: str, revision: str, what: str, remedy: str) -> Iterator[None]:
    """ConfigError where the hub or the cache fails, with what to copy instead."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        why = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{what} of the Hugging Face data set {repository} at {revision} cannot be fetched "
            f"({why}); run again where the hub can be reached, or copy {remedy}"
        ) from error


def commit_of(repository: str, revision: str, *, fetches: bool = True) -> str:
    """The full commit. One that was fetched at is found again without a network; a branch is asked
    for each time, and is what it was last where the hub cannot be reached or, without ``fetches``,
    may not be asked.

    Raises ConfigError where no commit or several begin so, and what ``huggingface_hub`` raises.
    """
    from huggingface_hub import HfApi, errors

    if _COMMIT.fullmatch(revision):
        return revision
    store = _store(repository)
    if not _BEGINNING.fullmatch(revision):
        last = store / "refs" / revision
        if not fetches:
            return last.read_text().strip()
        try:
            head = HfApi().repo_info(repository, repo_type="dataset", revision=revision).sha
        except (errors.HTTPError, OSError):
            if not last.is_file():
                raise
            return last.read_text().strip()
        last.parent.mkdir(parents=True, exist_ok=True)
        last.write_text(str(head))
        return str(head)
    known = {path.name for path in store.glob(f"snapshots/{revision}*")}
    if len(known) != 1 and fetches:
        # Fails at once where there is no network; the history is asked for again and again.
        HfApi().repo_info(repository, repo_type="dataset", revision="main")
        history = HfApi().list_repo_commits(repository, repo_type="dataset")
        known = {one.commit_id for one in history if one.commit_id.startswith(revision)}
    if len(known) != 1:
        raise ConfigError(
            f"{len(known) or 'no'} commits of the Hugging Face data set {repository} begin with "
            f"{revision}; its history was changed: copy the data of that revision into a folder "
            "and pass data=FOLDER"
        )
    return known.pop()


def is_fetched(repository: str, revision: str, pattern: str) -> bool:
    """Whether the file lies here already; asks no server."""
    store = _store(repository)
    if not _COMMIT.fullmatch(revision) and not _BEGINNING.fullmatch(revision):
        last = store / "refs" / revision
        if not last.is_file():
            return False
        revision = last.read_text().strip()
    known = store.glob(f"snapshots/{revision}*/{pattern}")
    return any(path.is_file() for path in known)


def promised_sha256(path: Path) -> str:
    """What the hub says that a fetched file's hash is; empty where it said nothing."""
    # The cache calls a large file by it.
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else ""


def _file_at(repository: str, commit: str, pattern: str) -> str:
    """Name of the one file that fits; its parts would each be one."""
    from huggingface_hub import HfApi

    if "*" not in pattern:
        return pattern
    snapshot = _store(repository) / "snapshots" / commit
    names = [str(path.relative_to(snapshot)) for path in snapshot.glob(pattern)]
    if len(names) != 1:
        every = HfApi().list_repo_files(repository, repo_type="dataset", revision=commit)
        names = [name for name in every if fnmatchcase(name, pattern)]
    if len(names) != 1:
        raise ConfigError(
            f"{len(names) or 'no'} files of the Hugging Face data set {repository} at {commit} are "
            f"called {pattern}; copy the right one into a folder and pass data=FOLDER"
        )
    return names[0]


def _store(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}"
