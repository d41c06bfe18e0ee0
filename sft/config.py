"""Hydra configuration of the rooms: dataclass < YAML under ``configs/`` < key=value words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints

from toolshed.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
T = TypeVar("T")


def load_config(schema: type[T], room: str, name: str, words: Sequence[str]) -> T:
    """Compose ``configs/ROOM/NAME.yaml`` over the dataclass and apply ``key=value`` words.

    ``name`` may also be a path to a YAML file. Raises ConfigError naming the nearest known key.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import ConfigCompositionException, HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = _find(room, name)
    bad = [word for word in words if "=" not in word]
    if bad:
        raise ConfigError(f"{bad[0]!r} is no key=value word; see --help")
    ConfigStore.instance().store(name="schema", node=schema)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(path.parent.resolve()), version_base="1.3"):
            config = compose(path.stem, overrides=list(words))
            result: T = OmegaConf.to_object(config)  # type: ignore[assignment]
    except (ConfigCompositionException, OmegaConfBaseException, HydraException) as error:
        raise ConfigError(_explain(error, schema, path)) from error
    return result


def to_yaml(config: object) -> str:
    """The resolved config, as it is kept in a run's folder."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def help_text(schema: type[object]) -> str:
    """Every key with its default, one a line, for ``--help``."""
    return "\n".join(f"  {key}={value}" for key, value in _known(schema, ""))


def _find(room: str, name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.exists():
            raise ConfigError(f"config {name} does not exist")
        return path
    path = CONFIGS / room / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"no config {name!r} in configs/{room} (there is {', '.join(known)}){hint}"
        )
    return path


def _known(schema: type[object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    hints = get_type_hints(schema)
    defaults = schema()
    for item in fields(schema):  # type: ignore[arg-type]
        kind = hints[item.name]
        if isinstance(kind, type) and is_dataclass(kind):
            found += _known(kind, f"{prefix}{item.name}.")
        else:
            found.append((prefix + item.name, getattr(defaults, item.name)))
    return found


def _explain(error: BaseException, schema: type[object], path: Path) -> str:
    text = " ".join(str(error.__cause__ or error).split())
    for word in text.replace("'", " ").replace(".", " ").split():
        known = [key for key, _ in _known(schema, "")]
        leaves = {key.rpartition(".")[2] for key in known}
        near = difflib.get_close_matches(word, [*known, *leaves], 1, cutoff=0.75)
        if near and word not in leaves and "not in" in text:
            full = next((key for key in known if key.rpartition(".")[2] == near[0]), near[0])
            return (
                f"unknown config key {word!r} in {path.name} or the command; did you mean {full}?"
            )
    return f"config {path.name}: {text[:300]}"
