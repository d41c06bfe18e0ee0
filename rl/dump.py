"""Trajectories of a run as JSON lines, one each: the episode, and all that a step was trained on.

``python -m rl.replay`` trains on them again. Beside the episode a line holds the compact ids, their
spans, the engine's log-prob and weight version of each sampled token, the rewards of its queries,
and the hashes of its pictures; those that have no file of their own are kept in ``pictures``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from pydantic import TypeAdapter

from rl.questions.kept_pictures import FOLDER, KeptPictures, keep, pixel_hash
from rl.questions.unpacking import cache_folder
from rl.rewards.query import query_rewards
from rl.show.episode import Episode, episode_of, pictures_of
from rl.types import Question, Reward, StopReason, Trajectory
from sft.run_dir import naming, write_atomic
from sft.sample import Span, SpanKind
from toolshed.errors import ConfigError
from toolshed.types import ToolImage

FILE = "trajectories.jsonl"


class TrajectoryLog:
    """Append-only; a resumed run forgets the steps that it will play again."""

    def __init__(self, run: Path, every: int, cache: str = "") -> None:
        """``run``: the run's folder; ``every``: steps between dumps, 0 for none; ``cache``: where
        pictures were unpacked, which may be emptied while the run is kept."""
        self.path = run / FILE
        self.every = every
        self._pictures = run / FOLDER
        self._cache = cache_folder(cache)

    def write(self, step: int, groups: Sequence[Sequence[Trajectory]]) -> None:
        if not self.every or step % self.every:
            return
        size = sum(map(len, groups))
        lines = []
        for place, group in enumerate(groups):
            for trajectory in group:
                self._keep_pictures(trajectory)
                where = {"step": step, "step_size": size, "group": place}
                lines.append(json.dumps(where | record(trajectory)) + "\n")
        with naming(self.path), self.path.open("a") as file:
            file.write("".join(lines))

    def _keep_pictures(self, trajectory: Trajectory) -> None:
        pictures = pictures_of(trajectory.question, trajectory.images)
        for picture, image in zip(pictures, trajectory.images, strict=True):
            if not picture.location or Path(picture.location).is_relative_to(self._cache):
                keep(image, self._pictures)

    def rewind(self, step: int) -> None:
        """Drop lines of later steps, and a line torn by a kill."""
        if not self.path.exists():
            return
        lines = self.path.read_text().split("\n")[:-1]
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= step]
        write_atomic(self.path, "".join(kept))


def record(trajectory: Trajectory) -> dict[str, Any]:
    """A line without the step, its number of trajectories, and the group's place in it."""
    return {
        "sample_index": trajectory.sample_index,
        **asdict(episode_of(trajectory)),
        "token_ids": list(trajectory.token_ids),
        "spans": [[span.start, span.end, span.kind] for span in trajectory.spans],
        # The shortest text of a 32-bit float: exact, and no longer than it has to be.
        "logprobs": [float(str(np.float32(value))) for value in trajectory.logprobs],
        "versions": _versions(trajectory),
        "query_rewards": list(query_rewards(trajectory)),
        "pixels": [pixel_hash(image) for image in trajectory.images],
    }


def _versions(trajectory: Trajectory) -> list[list[int]]:
    """Runs of sampled tokens as [number of tokens, weight version], in order."""
    completions = [turn.completion for turn in trajectory.turns]
    versions = [
        version
        for each in completions
        for version in each.versions or (each.version,) * len(each.token_ids)
    ]
    return [[len(list(run)), version] for version, run in itertools.groupby(versions)]


# ---- reading --------------------------------------------------------------------------------

_EPISODE = TypeAdapter(Episode)


def episode_in(told: Mapping[str, Any]) -> Episode:
    """The episode that a line holds, without what it was trained on; pydantic's ValidationError
    where the line holds none."""
    return _EPISODE.validate_python({each.name: told[each.name] for each in fields(Episode)})


class StoredBatches:
    """The steps of a run's dump, to be trained on again.

    A trajectory read back has what trains, not its words: no turns, no messages.
    """

    def __init__(self, run: Path) -> None:
        """ConfigError where the run kept no trajectories."""
        self._path = run / FILE
        self._pictures = KeptPictures(run / FOLDER)
        self._queries: dict[int, tuple[float | None, ...]] = {}
        if not self._path.is_file():
            raise ConfigError(
                f"{run} holds no {FILE}; give the folder of a run with save.dump_every=1"
            )

    def read(self, first: int, last: int) -> Iterator[tuple[int, list[list[Trajectory]]]]:
        """(step, its groups) of the steps from ``first`` to ``last``; ConfigError where one of
        them or a picture is missing."""
        steps = itertools.groupby(self._lines(), key=lambda line: int(line["step"]))
        wanted = first
        for step, lines in steps:
            if step < first:
                continue
            if step > last:
                break
            if step != wanted:
                break
            self._queries.clear()
            yield step, self._groups(step, list(lines))
            wanted += 1
        if wanted <= last:
            raise ConfigError(
                f"{self._path} holds no trajectories of step {wanted}; replay needs every step, as "
                "a run with save.dump_every=1 keeps them"
            )

    def last_step(self) -> int:
        """Of the dump; 0 where it is empty."""
        return max((int(line["step"]) for line in self._lines()), default=0)

    def queries(self, trajectory: Trajectory) -> tuple[float | None, ...]:
        """For each turn of a trajectory of the step read last, the reward of its query."""
        return self._queries[trajectory.seed]

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self._path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                told = json.loads(line)
                if "pixels" not in told:
                    raise ConfigError(
                        f"{self._path}, line {number}, was written before replay was possible; run "
                        "the training again"
                    )
                yield told

    def _groups(self, step: int, lines: Sequence[dict[str, Any]]) -> list[list[Trajectory]]:
        if len(lines) != lines[0]["step_size"]:
            raise ConfigError(
                f"{self._path} holds {len(lines)} of {lines[0]['step_size']} trajectories of step "
                f"{step}, as of a run that was killed; let it go on first, or replay to step "
                f"{step - 1}"
            )
        groups = itertools.groupby(lines, key=lambda line: int(line["group"]))
        return [[self._trajectory(line) for line in siblings] for _, siblings in groups]

    def _trajectory(self, told: Mapping[str, Any]) -> Trajectory:
        self._queries[told["seed"]] = tuple(told["query_rewards"])
        return replace(unseen_trajectory(told), images=tuple(self._images(told)))

    def _images(self, told: Mapping[str, Any]) -> Iterator[ToolImage]:
        for picture, pixels in zip(told["pictures"], told["pixels"], strict=True):
            image = self._pictures.find(pixels, picture["location"])
            if image is None:
                where = picture["location"] or f"{self._path.parent / FOLDER}/{pixels}.png"
                raise ConfigError(
                    f"the picture {where} of question {told['question_id']} is gone or was changed "
                    "since the run; put it back"
                )
            yield image


def unseen_trajectory(told: Mapping[str, Any]) -> Trajectory:
    """What trains of a line's trajectory, but for its pictures."""
    return Trajectory(
        question=Question(
            id=told["question_id"],
            source=told["source"],
            kind=told["kind"],
            messages=(),
            images=(),
            target=told["target"],
        ),
        sample_index=told["sample_index"],
        seed=told["seed"],
        turns=(),
        messages=(),
        stop_reason=StopReason(told["stop_reason"]),
        token_ids=tuple(told["token_ids"]),
        spans=tuple(_span(*each) for each in told["spans"]),
        logprobs=tuple(told["logprobs"]),
        seconds=told["seconds"],
        reward=_reward(told),
        failure=told["failure"],
    )


def _span(start: int, end: int, kind: str) -> Span:
    assert kind in get_args(SpanKind), kind
    return Span(start=start, end=end, kind=cast(SpanKind, kind))


def _reward(told: Mapping[str, Any]) -> Reward | None:
    if told["reward"] is None:
        return None
    return Reward(
        value=told["reward"],
        accuracy=told["accuracy"],
        well_formed=told["well_formed"],
        answer=told["answer"],
        parts=told["parts"],
    )
