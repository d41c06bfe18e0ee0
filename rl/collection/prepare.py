"""A collection before anything is loaded: whatever can be wrong with it is said here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from rl.collection.config import CollectConfig
from rl.collection.journal import SETTINGS, check_settings, folder_of
from rl.identity import policy_identity
from rl.player import check_tools
from rl.policy.api_config import PREFIX, api_of
from rl.policy.prices import Prices, prices_of
from rl.questions.data import check_depth, load_questions
from rl.start.needs import check_answerable, check_room
from rl.types import Question
from sft.checkpoint import short_name
from sft.config import check_device, to_yaml
from sft.render import Renderer
from sft.run_dir import check_writable
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet

if TYPE_CHECKING:
    from rl.policy.sglang.config import EngineConfig

TEACHER = "teacher"
SOURCES = {TEACHER: "teacher", "": "distilled"}
"""Default ``source`` mark of a transcript: the scripted teacher's, any other policy's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """One collection, checked before anything is loaded."""

    policy: str
    questions: tuple[Question, ...]
    out: Path
    config: CollectConfig
    tools: ToolSet
    folder: Path | None
    """Of the checkpoint; None for the teacher and for a model behind an API."""
    working: Path | None
    """Where trajectories are kept as they end; None keeps none beyond this process."""
    overwrite: bool = False
    """Whether other transcripts in ``out`` may be replaced."""
    retry_failed: bool = False
    """Whether samples that machinery broke in earlier commands are played again."""

    @property
    def prices(self) -> Prices | None:
        api = self.config.api
        return prices_of(api.model, api.prices) if api.model else None

    @property
    def source(self) -> str:
        """Mark of the transcripts."""
        return self.config.source or SOURCES.get(self.policy, SOURCES[""])

    def settings(self) -> dict[str, Any]:
        """All that a trajectory depends on, and the keys that it does not."""
        who = self.policy
        if self.config.api.model:
            who = self.config.api.identity
        elif self.folder is not None:
            who = f"{short_name(self.folder)} {policy_identity(self.folder)}"
        config = yaml.safe_load(to_yaml(self.config))
        return {"who": who, "tool_schema": self.tools.schema_hash, **config}


def prepare(
    policy: str,
    data: str | Path,
    out: str | Path,
    config: CollectConfig,
    *,
    force: bool = False,
    journal: bool = True,
    retry_failed: bool = False,
) -> Collection:
    """Everything that can be wrong is said here, before any work.

    ``force``: other transcripts in ``out`` are replaced. ``journal``: trajectories are kept beside
    it as they end, and the same command goes on with them; without it nothing may be paid.
    """
    assert journal or not policy.startswith(PREFIX), "what is paid for has to be kept"
    place = _place(out)
    working = folder_of(place) if journal else None
    goes_on = working is not None and (working / SETTINGS).is_file()
    if place.exists() and not force and not goes_on:
        raise ConfigError(f"{place} exists; name another file or pass --force to make it again")
    check_writable(place.parent)
    config = replace(config, api=api_of(policy, config.api))
    tools = ToolSet.named(config.tools.config, config.tools.show or None)
    folder = _checkpoint(policy, config, tools, folder_of(place))
    questions = load_questions(data)[: config.limit or None]
    check_depth(questions, tools, config.tools.config)
    sources = [question.source for question in questions]
    check_answerable(sources, tools, config.tools.config, taught=policy == TEACHER)
    if folder is not None:
        limits = {"max_tokens": config.max_tokens, "max_length": config.max_length}
        check_room(questions, tools.specs, Renderer.load(folder), **limits)
    ready = Collection(
        policy=policy,
        questions=tuple(questions),
        out=place,
        config=config,
        tools=tools,
        folder=folder,
        working=working,
        overwrite=force,
        retry_failed=retry_failed,
    )
    _check_api(ready)
    if working is not None:
        check_settings(working, ready.settings())
    return ready


def _place(out: str | Path) -> Path:
    if not str(out).strip():
        raise ConfigError("no file to write: name one, for example runs/my_data/traces.json")
    # Pictures are named as seen from here, and `..` leads out of where a link points to.
    place = Path(out).parent.resolve() / Path(out).name
    if place.is_dir():
        raise ConfigError(
            f"{place} is a folder; name a file in it, for example {place}/traces.json"
        )
    return place


def _checkpoint(policy: str, config: CollectConfig, tools: ToolSet, working: Path) -> Path | None:
    """The folder of the weights that play; None where none do."""
    check_device(config.device)
    if policy == TEACHER or policy.startswith(PREFIX):
        return None
    schema: Literal["same", "any"] = "any" if config.tools.schema == "any" else "same"
    folder = check_tools(policy, tools, schema)
    if config.policy == "sglang":
        _check_engines(engines_of(config, working), folder, config.max_length)
    return folder


def engines_of(config: CollectConfig, working: Path) -> EngineConfig:
    """Engines of ``policy=sglang``."""
    from rl.policy.sglang.alone import engine_alone

    return engine_alone(
        config.engine,
        device=config.device,
        dtype=config.dtype,
        servers=1,
        width=config.width,
        max_length=config.max_length,
        logs=working / "engine",
    )


def _check_engines(engines: EngineConfig, folder: Path, max_length: int) -> None:
    from rl.policy.sglang.preflight import check_lengths, missing

    lacking = missing(engines)
    if lacking:
        raise ConfigError(lacking[0])
    check_lengths(engines, folder, max_length)


def _check_api(ready: Collection) -> None:
    """ConfigError where nothing could be asked, or costs cannot be limited as wished."""
    config = ready.config
    if config.api.model:
        from rl.policy.api import ApiPolicy

        ApiPolicy(config.api, ready.tools.specs)
    if config.budget.usd and ready.prices is None:
        raise ConfigError(
            f"budget.usd={config.budget.usd:g} needs a model behind an API whose prices are known; "
            "give api.prices=[input,cached,output], or budget.tokens="
        )
