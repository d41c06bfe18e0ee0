"""What a collection has played already: one line per trajectory that ended, beside the transcripts.

Invariant: whatever ended is in the file before anything else is begun for its question, so that the
same command asks for nothing twice, however the one before it ended.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from rl.collection.config import FREE_KEYS
from rl.collection.played import Played
from rl.identity import question_identity
from rl.lines import JsonLines
from rl.policy.replies import Replies
from rl.types import Question
from sft.run_dir import changed_keys, leaves, take_lock, write_atomic
from toolshed.errors import ConfigError

SETTINGS = "settings.yaml"
TRAJECTORIES = "trajectories.jsonl"
REPLIES = "replies.jsonl"
_TAKEN = "is in use by another collection; wait for it or name another file to write"
_PLAYED = TypeAdapter(Played)


def folder_of(out: Path) -> Path:
    """Where a collection keeps what it has while its transcripts are not written."""
    return out.with_name(f"{out.name}.collecting")


class Journal:
    """The trajectories that ended, by question and sample; of one process at a time."""

    def __init__(
        self, questions: Sequence[Question], folder: Path | None, *, retry_failed: bool = False
    ) -> None:
        """``folder``: None keeps nothing beyond this process. ``retry_failed`` forgets the tries
        that broke.

        ConfigError where the folder is in use, or holds trajectories of other questions.
        """
        # Without a file there is nothing that could be about other questions.
        self.hashes = {
            question.id: question_identity(question) if folder is not None else ""
            for question in questions
        }
        self.replies: Replies | None = None
        self._tries: defaultdict[str, defaultdict[int, list[Played]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._lines: JsonLines | None = None
        self._open = contextlib.ExitStack()
        if folder is None:
            return
        with contextlib.ExitStack() as opened:
            opened.enter_context(contextlib.closing(take_lock(folder, _TAKEN)))
            self._lines = opened.enter_context(contextlib.closing(JsonLines(folder / TRAJECTORIES)))
            for line in self._lines.read():
                played = _played(line, self._lines.path)
                if played.question in self.hashes:
                    self._check(played, folder)
                    if not (retry_failed and played.failure):
                        self._tries[played.question][played.sample].append(played)
            self._open = opened.pop_all()

    def open_replies(self) -> Replies | None:
        """Raw replies of an API's model, in the same folder; None where nothing is kept."""
        if self._lines is not None and self.replies is None:
            self.replies = Replies(self._lines.path.with_name(REPLIES))
            self._open.callback(self.replies.close)
        return self.replies

    def last(self, question: str, sample: int, tries: int) -> Played | None:
        """How a sample ended: scored, or broken ``tries`` times; None where it did not yet."""
        found = self._tries[question][sample]
        over = found and (found[-1].reward is not None or len(found) >= tries)
        return found[-1] if over else None

    def samples(self, question: str) -> dict[int, Played]:
        """The last try of each sample of a question."""
        return {sample: tries[-1] for sample, tries in self._tries[question].items() if tries}

    def add(self, played: Played) -> None:
        if self._lines is not None:
            self._lines.append(asdict(played))
        self._tries[played.question][played.sample].append(played)

    def close(self) -> None:
        self._open.close()

    def _check(self, played: Played, folder: Path) -> None:
        if self.hashes[played.question] != played.question_hash:
            raise ConfigError(
                f"{folder} holds trajectories of another question {played.question} than the one "
                "asked now (its text, target or pictures differ); name another file to write, or "
                "delete that folder to begin again"
            )


def _played(line: Mapping[str, Any], path: Path) -> Played:
    try:
        return _PLAYED.validate_python(line)
    except ValidationError as error:
        raise ConfigError(
            f"{path} holds a line that is no trajectory of this version ({error.error_count()} "
            "fields); delete its folder to begin again"
        ) from None


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """ConfigError where the folder's trajectories were played under other settings."""
    path = folder / SETTINGS
    if not path.is_file():
        return
    try:
        before = _played_with(leaves(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read; delete its folder to begin again") from error
    changed = changed_keys(before, _played_with(leaves(settings)))
    if changed:
        raise ConfigError(
            f"{folder} holds trajectories of other settings ({changed}); name another file to "
            "write, or delete that folder to begin again"
        )


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    write_atomic(folder / SETTINGS, yaml.safe_dump(dict(settings), sort_keys=False))


def _played_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that decide what a trajectory is."""
    return {
        key: value
        for key, value in settings.items()
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    }
