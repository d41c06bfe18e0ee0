"""Hydra configuration of the rooms: dataclass < YAML under ``configs/`` < key=value words.

Also the parts that several rooms' configs share; nothing here loads torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TypeVar, get_args, get_origin, get_type_hints

import yaml

from sft.config_errors import check_sections, explain, group_error, group_types, known_keys
from sft.run_dir import check_folder
from toolshed.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
T = TypeVar("T")
SCHEMA_POLICIES = ("same", "any")
FREEZE = ("vision", "tower", "none")
"""Parts of a model that training may leave as they are."""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class ToolsConfig:
    """Which tools the system turn announces."""

    config: str = "none"
    """Word or path of a tool YAML; ``none`` announces no tools."""
    show: list[str] = field(default_factory=list)
    """Functions to announce, in the file's order; empty for all of the file."""
    schema: str = "same"
    """``any`` accepts a checkpoint that was trained with another tool schema."""

    def __post_init__(self) -> None:
        check_choice(self, schema=SCHEMA_POLICIES)


@dataclass
class OptimConfig:
    """How weights move."""

    lr: float = 1e-5
    """Peak rate of AdamW."""
    muon_lr: float = 0.0
    """Peak rate of Muon on the 2-D weights inside the layers; 0 leaves them to AdamW."""
    muon_vision: bool = True
    """Whether Muon also takes the 2-D weights of the vision tower, if that is trained."""
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup_steps: int = 0
    schedule: str = "constant"
    """``constant``, or ``cosine`` or ``linear`` down to ``floor`` after the flat part."""
    flat: float = 0.0
    """Share of the steps that keep the peak rate before the decay."""
    floor: float = 0.05
    """Last rate as a share of the peak."""

    def __post_init__(self) -> None:
        check_choice(self, schedule=("constant", "cosine", "linear"))
        check_positive(self, "lr", "clip_norm")
        check_not_negative(self, "muon_lr", "weight_decay", "warmup_steps", "flat", "floor")


@dataclass
class LoraConfig:
    """Adapters in place of the weights of the language layers."""

    rank: int = 0
    """Rank of every adapter; 0 trains the weights themselves."""
    alpha: float = 32.0
    """An adapter counts ``alpha / rank`` times."""

    def __post_init__(self) -> None:
        check_not_negative(self, "rank")
        check_positive(self, "alpha")


@dataclass
class ShardConfig:
    """How training spreads over ranks, and what it computes twice to save memory."""

    zero: int = 0
    """DeepSpeed's ZeRO stage, 2 or 3, under torchrun; 0 for one device without DeepSpeed."""
    checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping what it made."""
    features_mb: int = 2048
    """Megabytes of features that a frozen tower made and that are kept, the latest used."""

    def __post_init__(self) -> None:
        check_not_negative(self, "features_mb")
        if self.zero not in (0, 2, 3):
            raise ConfigError(f"zero={self.zero} is none of 0, 2, 3")


@dataclass
class LearnerConfig:
    """How a run's weights are trained, and which of them."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    frozen: str = "vision"
    """``vision`` freezes tower and projector, ``tower`` trains the projector, ``none`` trains
    everything."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    micro_tokens: int = 4096
    """Places of one micro-batch."""

    def __post_init__(self) -> None:
        check_choice(self, frozen=FREEZE)
        check_positive(self, "micro_tokens")
        check_learner(self.optim, self.frozen, self.shard, self.lora)


@dataclass
class ShowConfig:
    """Where a run's figures are shown."""

    tensorboard: bool = True
    track: list[str] = field(default_factory=list)
    """Services that get the figures too: ``wandb``, ``trackio``."""


def check_learner(optim: OptimConfig, frozen: str, shard: ShardConfig, lora: LoraConfig) -> None:
    """ConfigError where the learner's options contradict each other."""
    if shard.zero and optim.muon_lr:
        raise ConfigError(
            f"learner.optim.muon_lr={optim.muon_lr} needs whole matrices and learner.shard.zero="
            f"{shard.zero} cuts them; set learner.optim.muon_lr=0"
        )
    if lora.rank and frozen != "vision":
        raise ConfigError(
            f"learner.lora.rank={lora.rank} adapts the language layers alone, and learner.frozen="
            f"{frozen} trains more; set learner.frozen=vision"
        )


def check_choice(config: object, **choices: Sequence[str]) -> None:
    """ConfigError where a field of ``config`` holds none of its words."""
    for name, words in choices.items():
        if getattr(config, name) not in words:
            raise ConfigError(f"{name}={getattr(config, name)!r} is none of {', '.join(words)}")


def check_positive(config: object, *names: str) -> None:
    """ConfigError where a numeric field of ``config`` is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name}={getattr(config, name)} must be above 0")


def check_not_negative(config: object, *names: str) -> None:
    """ConfigError where a numeric field of ``config`` is below 0."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ConfigError(f"{name}={getattr(config, name)} must be 0 or more")


def check_out(out: str) -> Path:
    """The run's folder; ConfigError where none was given, or no run can be kept there."""
    if not out:
        raise ConfigError("no folder for the run: give out=, for example out=experiments/first")
    check_folder(Path(out))
    return Path(out)


def check_device_name(device: str) -> None:
    """ConfigError where torch knows no such device."""
    if not re.fullmatch(r"(cpu|cuda)(:\d+)?", device):
        raise ConfigError(f"device={device!r} is none of cpu, cuda, cuda:0, cuda:1 ...")


def check_trained_dtype(dtype: str) -> None:
    """ConfigError for a dtype that the learner cannot train in."""
    if dtype == "float16":
        raise ConfigError("dtype=float16 would need loss scaling to be trained; use bfloat16")


def check_device(device: str) -> None:
    """ConfigError where torch knows no such device or this machine has none."""
    check_device_name(device)
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return
    import torch

    there = torch.cuda.device_count()
    if int(number or 0) >= there:
        raise ConfigError(f"device={device}, but torch finds {there} CUDA devices; give device=cpu")


def load_config(schema: type[T], room: str, name: str, words: Sequence[str]) -> T:
    """Compose ``configs/ROOM/NAME.yaml`` over the dataclass and apply ``key=value`` words.

    ``name`` may also be a path to a YAML file. A word for a mapping replaces it whole; a word for
    one of its entries sets that entry. Raises ConfigError naming the nearest known key.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import ConfigCompositionException, HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = _find(room, name, schema)
    _check_lists(schema, words)
    mappings = [key for key, _ in known_keys(schema, "", mappings=True)]
    overrides = [_override(word, mappings) for word in words]
    ConfigStore.instance().store(name="schema", node=schema)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(path.parent.resolve()), version_base="1.3"):
            config = compose(path.stem, overrides=[word for word in overrides if word])
        for word in words:
            key, _, value = word.partition("=")
            if key in mappings:
                OmegaConf.update(config, key, _mapping(key, value), merge=False)
        check_sections(config)
        result: T = OmegaConf.to_object(config)  # type: ignore[assignment]
    except (ConfigCompositionException, OmegaConfBaseException, HydraException) as error:
        raise ConfigError(explain(error, schema, path, words)) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is no YAML: {' '.join(str(error).split())}") from error
    return result


def to_yaml(config: object) -> str:
    """The resolved config, as it is kept in a run's folder."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def help_text(schema: type[object]) -> str:
    """Every key with its default, one a line, for ``--help``."""
    return "\n".join(f"  {key}={value}" for key, value in known_keys(schema, ""))


def _find(room: str, name: str, schema: type[object]) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"config {name} does not exist")
        return path
    path = CONFIGS / room / f"{name}.yaml"
    if not path.exists():
        every = sorted(path.parent.glob("*.yaml"))
        known = [p.stem for p in every if _fits(p, schema)] or [p.stem for p in every]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"no config {name!r} in configs/{room} (there is {', '.join(known)}){hint}"
        )
    return path


def _fits(path: Path, schema: type[object]) -> bool:
    """Whether a file, with those that it builds on, is this command's: several keep theirs in one
    folder."""
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    bases = [path.with_name(f"{name}.yaml") for name in keys.get("defaults", [])]
    if not all(_fits(base, schema) for base in bases if base.exists()):
        return False
    return {item.name for item in fields(schema)}.issuperset(keys.keys() - {"defaults"})  # type: ignore[arg-type]


def _check_lists(schema: type[object], words: Sequence[str]) -> None:
    """ConfigError where a word gives one value to a key that holds several."""
    groups = group_types(schema)
    for word in words:
        key, _, text = word.partition("=")
        if key in groups and not text.strip().startswith("{"):
            raise ConfigError(group_error(key, groups[key], repr(word)))
        if key in _lists(schema) and not text.strip().startswith("["):
            item = f"{{path: {text or 'FILE'}}}" if _lists(schema)[key] else text or "NAME"
            raise ConfigError(f"{key} holds a list: write '{key}=[{item}]', not {word!r}")


def _lists(schema: type[object], prefix: str = "") -> dict[str, bool]:
    """Keys that hold lists, and whether their items have keys of their own."""
    found: dict[str, bool] = {}
    for name, kind in get_type_hints(schema).items():
        if get_origin(kind) is list:
            found[prefix + name] = is_dataclass(get_args(kind)[0])
        elif isinstance(kind, type) and is_dataclass(kind):
            found |= _lists(kind, f"{prefix}{name}.")
    return found


def _override(word: str, mappings: Sequence[str]) -> str:
    """The word as Hydra is to read it; empty for a whole mapping, which Hydra would merge."""
    key, equals, _ = word.partition("=")
    if not equals or not key or key[0] in "+~":
        raise ConfigError(f"{word!r} is no key=value word; see --help")
    if key in mappings:
        return ""
    inside = any(key.startswith(f"{mapping}.") for mapping in mappings)
    return f"++{word}" if inside else word


def _mapping(key: str, text: str) -> dict[str, object]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f"{key} holds a mapping: write {key}={{name: value, ...}}, not {text!r}")
    return content
