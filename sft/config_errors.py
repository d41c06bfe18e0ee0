"""What is said of configs that are wrong: the key as it is written on the command line, and its
nearest known one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from toolshed.errors import ConfigError


def known_keys(
    schema: type[object], prefix: str, *, mappings: bool = False
) -> list[tuple[str, object]]:
    """Keys with their defaults, or only those that hold a mapping with free keys."""
    found: list[tuple[str, object]] = []
    hints = get_type_hints(schema)
    defaults = schema()
    for item in fields(schema):  # type: ignore[arg-type]
        kind = hints[item.name]
        if isinstance(kind, type) and is_dataclass(kind):
            found += known_keys(kind, f"{prefix}{item.name}.", mappings=mappings)
        elif not mappings or get_origin(kind) is dict:
            found.append((prefix + item.name, getattr(defaults, item.name)))
    return found


def group_types(schema: type[object], prefix: str = "") -> dict[str, type[object]]:
    """Keys that hold keys of their own, with what they hold."""
    found: dict[str, type[object]] = {}
    for name, kind in get_type_hints(schema).items():
        if isinstance(kind, type) and is_dataclass(kind):
            found[prefix + name] = kind
            found |= group_types(kind, f"{prefix}{name}.")
    return found


def group_error(key: str, group: type[object], instead: str) -> str:
    """The sentence about one value given to a whole group."""
    names = [item.name for item in fields(group)]  # type: ignore[arg-type]
    return f"{key} holds {', '.join(names)}: write {key}={{{names[0]}: ...}}, not {instead}"


def _item_keys(schema: type[object], prefix: str = "") -> list[str]:
    """Keys of the parts of which a config holds lists, for example ``sources[].path``."""
    found: list[str] = []
    for name, kind in get_type_hints(schema).items():
        part = get_args(kind)[0] if get_origin(kind) is list else None
        if isinstance(part, type) and is_dataclass(part):
            found += [key for key, _ in known_keys(part, f"{prefix}{name}[].")]
        elif isinstance(kind, type) and is_dataclass(kind):
            found += _item_keys(kind, f"{prefix}{name}.")
    return found


def explain(error: Exception, schema: type[object], path: Path, words: Sequence[str]) -> str:
    """The sentence about what Hydra raised for a config file and ``words``."""
    from hydra.errors import OverrideParseException
    from omegaconf.errors import (
        ConfigAttributeError,
        ConfigKeyError,
        OmegaConfBaseException,
    )
    from omegaconf.errors import ValidationError as OmegaConfValidationError

    cause: BaseException = error
    while not isinstance(cause, OmegaConfBaseException | OverrideParseException):
        inner = cause.__cause__ or cause.__context__
        if inner is None:
            break
        cause = inner
    if isinstance(cause, OverrideParseException):
        return (
            f"{cause.override!r} cannot be read; a value with blanks, commas, brackets, ~, = needs "
            "quotes of its own, for example 'out=\"a b\"'"
        )
    if isinstance(cause, OmegaConfValidationError):
        text = str(cause.msg).partition("full_key")[0]
        said = " ".join(text.split())
        name = re.search(r"is not a subclass of (\w+)", said)
        for key, group in group_types(schema).items():
            if name and group.__name__ == name[1]:
                return group_error(key, group, f"one value, in {path.name}")
        return f"{cause.full_key or cause.key}: {said}, in the command or in {path.name}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(str(cause.full_key or cause.key), schema, path, words)
    text = " ".join(str(cause.msg if isinstance(cause, OmegaConfBaseException) else cause).split())
    place = cause.full_key if isinstance(cause, OmegaConfBaseException) else None
    return f"config {path.name}: {f'{place}: ' if place else ''}{text[:300]}"


def _unknown_key(key: str, schema: type[object], path: Path, words: Sequence[str]) -> str:
    """Hydra names no more than the first part that it does not know; the word has all of them."""
    typed = (word.partition("=")[0] for word in words)
    key = next((each for each in typed if each.startswith(f"{key}.")), key)
    said = f"unknown config key {key!r} in {path.name} or the command"
    known = [name for name, _ in known_keys(schema, "")] + _item_keys(schema)
    known += sorted({name.rpartition(".")[0] for name in known} - {""})
    leaf = key.rpartition(".")[2]
    inside = [name for name in known if name.endswith(f".{key}")]
    inside = inside or [name for name in known if name.rpartition(".")[2] == leaf]
    if len(inside) == 1:
        return f"{said}; {key} is {inside[0]}"
    by_leaf = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(key, known, 1, cutoff=0.75) or inside
    near = near or [by_leaf[n] for n in difflib.get_close_matches(leaf, by_leaf, 1, cutoff=0.6)]
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists every key"
    return f"{said}; {hint}"


def check_sections(config: Any, section: str = "") -> None:
    """ConfigError where the check of a composed config or of a part of it fails, with the part's
    section before the field that the sentence begins with."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    parts = config.items() if isinstance(config, DictConfig) else ()
    for key, part in parts:
        name = str(key)
        if isinstance(part, DictConfig):
            check_sections(part, f"{section}{name}.")
        elif isinstance(part, ListConfig):
            for number, item in enumerate(part):
                check_sections(item, f"{section}{name}[{number}].")
    kind = OmegaConf.get_type(config)
    if not section or not is_dataclass(kind):
        return
    try:
        OmegaConf.to_object(config)
    except ConfigError as error:
        first = re.match(r"\w+(?=[=.])", str(error))
        if first and first[0] in {item.name for item in fields(kind)}:
            raise ConfigError(f"{section}{error}") from error
        raise
