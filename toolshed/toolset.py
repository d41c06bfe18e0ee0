"""What a model is shown of a tool config: specs, their text, and the hash that checkpoints record.

Nothing is opened here: training data can be made without starting a tool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolshed.chat import spec_line
from toolshed.config import ToolshedConfig, known_name, load_tools, published_specs
from toolshed.errors import ConfigError
from toolshed.registry import contract_of
from toolshed.tool import Method, methods_of, specs_of
from toolshed.types import ToolSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSet:
    """The tools shown, in the order of the file."""

    specs: tuple[ToolSpec, ...]
    schema_text: str
    """One line of JSON per tool, as in the system prompt."""
    schema_hash: str
    """SHA-256 of the text and of how tools reply."""
    methods: dict[str, Method]
    """By dotted name, for checking arguments."""

    @classmethod
    def of(cls, config: str | Path | ToolshedConfig, show: Sequence[str] | None = None) -> ToolSet:
        """The tools of a config; ``show`` overrides its ``show``."""
        if not isinstance(config, ToolshedConfig):
            config = load_tools(config)
        specs = published_specs(config) if config.published is not None else _own_specs(config)
        chosen = config.show if show is None else list(show)
        if chosen is not None:
            for name in chosen:
                known_name(name, [spec.name for spec in specs], "tool")
            specs = [spec for spec in specs if spec.name in chosen]
        text = "\n".join(map(spec_line, specs))
        hashed = f"{text}\nreplies: {config.replies}\ndefects: {config.defects}"
        return cls(
            specs=tuple(specs),
            schema_text=text,
            schema_hash=hashlib.sha256(hashed.encode()).hexdigest(),
            methods=_methods(config, specs),
        )

    @classmethod
    def named(cls, word: str, show: Sequence[str] | None = None) -> ToolSet:
        """The tools of a config by word or path; ``none`` is the set without tools."""
        if word == "none":
            return cls(specs=(), schema_text="", schema_hash="none", methods={})
        return cls.of(load_tools(word), show)

    @property
    def families(self) -> list[str]:
        """Families that have a tool here, in order."""
        return list(dict.fromkeys(spec.family for spec in self.specs))


def _own_specs(config: ToolshedConfig) -> list[ToolSpec]:
    specs = []
    for name, family in config.families.items():
        contract = contract_of(name, family.backend)
        if contract.name != name:
            raise ConfigError(
                f"family {name!r}: its contract {contract.__qualname__} is named "
                f"{contract.name!r}; write that name as the key"
            )
        for method in family.exclude_methods:
            known_name(method, methods_of(contract), f"{name} method")
        shown = specs_of(contract, family.show)
        specs += [each for each in shown if each.method not in family.exclude_methods]
    return specs


def _methods(config: ToolshedConfig, specs: Iterable[ToolSpec]) -> dict[str, Method]:
    methods = {}
    for spec in specs:
        known = methods_of(contract_of(spec.family, config.families[spec.family].backend))
        known_name(spec.method, known, f"{spec.family} method")
        methods[spec.name] = known[spec.method]
    return methods
