"""The tool YAML: which families, what of them a model is shown, who answers and how.

Two formats are read: ours, one key per family in the order that the model sees, and the list format
of the original release, whose schemas are kept byte for byte. Anything unknown is a ConfigError.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from toolshed.errors import ConfigError
from toolshed.registry import FAMILIES
from toolshed.types import Json, ToolSpec

_ROOT = Path(__file__).resolve().parent.parent
_UNDOTTED = {"execute_python": "code_executor.exec"}
"""Functions that the release's list names without their family."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FamilyConfig(_Strict):
    """One family: who answers, what is shown, and what it may use."""

    backend: str
    """``light``, ``real`` or an import path ``module:Class``."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the back-end's constructor."""
    show: list[str] | None = None
    """Methods shown to the model, in this order; all of them where it is missing."""
    exclude_methods: list[str] = Field(default_factory=list)
    """Methods that are neither shown nor answered."""
    environment: str | None = None
    """Tool environment of its replicas: a folder of install_tools, or the path of an interpreter;
    the caller's own where it is missing."""
    replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=0.01, ge=0)
    gpus: float = Field(default=0.0, ge=0)
    """Share of one replica; in a shared process the largest of its families counts."""
    slots: int = Field(default=1, ge=1)
    """How many calls a replica works on at a time; the same for all families of a process."""
    process: str | None = None
    """Families with the same word live in the same replica processes."""
    max_batch_size: int = Field(default=1, ge=1)
    """Calls answered together, where the back-end can."""
    max_wait_ms: float = Field(default=5.0, ge=0)
    """How long a batch waits for more calls."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Budget of one call, from its making to its answer: the queue and the run."""
    run_timeout_s: float | None = Field(default=None, gt=0)
    """A replica that works on one call for longer is hung: it is killed and replaced. The budget
    where it is missing."""
    start_timeout_s: float = Field(default=120.0, gt=0)
    max_queue: int = Field(default=4096, ge=1)
    """Calls of one program that may wait for these replicas; more fail at once as busy."""
    restarts: int = Field(default=5, ge=0)
    """How often a replica is replaced within ten minutes before it is given up."""
    cache: bool = True
    """Whether equal calls get the remembered answer; only for deterministic back-ends."""


class ToolshedConfig(_Strict):
    """A whole tool YAML."""

    replies: Literal["released", "compact"] = "released"
    defects: Literal["fixed", "released"] = "fixed"
    host: Literal["local", "ray"] = "local"
    show: list[str] | None = None
    """Dotted names; only these are shown, still in the order of the file."""
    ray_address: str | None = None
    """Address of running tools, or the file that ``toolshed.serve`` wrote; None starts own ones."""
    namespace: str = "toolshed"
    """Ray namespace of running tools."""
    pack: Literal["none", "node", "strict"] = "none"
    """Placement of the replicas: anywhere, on as few nodes as can be, on one node."""
    lease_s: float = Field(default=60.0, gt=0)
    """Tools end by themselves when no program has asked after them for so long."""
    call_log: str | None = None
    """File to which one JSON line per call is appended."""
    max_variables: int = Field(default=64, ge=1)
    """Variables that one session may hold at a time."""
    max_variable_mb: float = Field(default=256.0, gt=0)
    """Size of one variable."""
    variable_minutes: float = Field(default=30.0, gt=0)
    """A variable expires when nobody has used it for so long."""
    families: dict[str, FamilyConfig]
    """By published name, in the order of the file."""
    published: list[dict[str, JsonValue]] | None = None
    """Schemas of the release's list format, shown as they are."""


_SETTINGS = [name for name in ToolshedConfig.model_fields if name not in ("families", "published")]


def load_tools(word_or_path: str | Path) -> ToolshedConfig:
    """Read a tool YAML: a path, or a word such as ``light`` that is looked up in configs/tools."""
    path = _locate(word_or_path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must be a mapping with one key per tool family")
    return parse_tools(content, str(path))


def parse_tools(content: Mapping[str, Json], origin: str = "tool config") -> ToolshedConfig:
    """A config from the mapping that a YAML holds."""
    if isinstance(content.get("tools"), list):
        return _published(content, origin)
    settings: dict[str, object] = {}
    families: dict[str, object] = {}
    for key, value in content.items():
        if key in _SETTINGS:
            settings[key] = value
        elif key in FAMILIES or _is_own(value):
            families[key] = value
        else:
            raise ConfigError(f"{origin}: unknown key {key!r}{_nearest(key, _top_level())}")
    if not families:
        raise ConfigError(f"{origin} names no tool family; known: {', '.join(FAMILIES)}")
    return _validated({**settings, "families": families}, origin)


def replaced(config: ToolshedConfig, changes: Mapping[str, object]) -> ToolshedConfig:
    """A copy with other values at ``setting`` or ``family.setting``, checked like a file."""
    content = config.model_dump()
    for key, value in changes.items():
        family, _, setting = key.rpartition(".")
        if family and family not in config.families:
            raise ConfigError(f"no tool family {family!r} here{_nearest(family, config.families)}")
        target = content["families"][family] if family else content
        target[setting] = value
    return _validated(content, "tool config")


def known_name(name: str, names: Iterable[str], what: str) -> None:
    """Raise ConfigError with the nearest known name where ``name`` is not among ``names``."""
    listed = list(names)
    if name not in listed:
        raise ConfigError(f"unknown {what} {name!r}{_nearest(name, listed)}")


def check_home(*rooms: str) -> None:
    """Stop where one of the rooms would be imported from somewhere else than this checkout."""
    for room in rooms:
        spec = importlib.util.find_spec(room)
        found = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if found != _ROOT:
            place = f"was found in {found}" if found else "was not found"
            raise ConfigError(f"package {room!r} {place}; start from the repository root {_ROOT}")


def _validated(content: Mapping[str, object], origin: str) -> ToolshedConfig:
    try:
        config = ToolshedConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error)}") from error
    _check_slots(config, origin)
    return config


def _check_slots(config: ToolshedConfig, origin: str) -> None:
    """A replica has one number of slots: a back-end made for one call at a time must not get two
    because another family shares its process."""
    first: dict[str, str] = {}
    for name, family in config.families.items():
        process = family.process or name
        other = first.setdefault(process, name)
        slots = config.families[other].slots
        if family.slots != slots:
            raise ConfigError(
                f"{origin}: {other}.slots = {slots} and {name}.slots = {family.slots}, but both "
                f"live in the process {process!r}; write the same slots, or another process"
            )


def _explain(error: ValidationError) -> str:
    """One sentence about the first thing that is wrong."""
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    place = [str(part) for part in first["loc"] if part != "families"]
    if first["type"] == "extra_forbidden":
        fields = FamilyConfig.model_fields if len(place) > 1 else _top_level()
        return f"unknown key {'.'.join(place)!r}{_nearest(place[-1], fields)}"
    if first["type"] == "missing":
        return f"key {'.'.join(place)!r} is missing"
    return f"{'.'.join(place)} = {first['input']!r}: {first['msg'].lower()}"


def _top_level() -> list[str]:
    return [*_SETTINGS, *FAMILIES]


def _nearest(word: object, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def _is_own(value: object) -> bool:
    """Whether this is a family outside the table, which must bring its class."""
    return isinstance(value, dict) and ":" in str(value.get("backend", ""))


def _locate(word_or_path: str | Path) -> Path:
    path = Path(word_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ConfigError(f"tool config {path} {what}{_known_words()}")
        return path
    for folder in _config_folders():
        candidate = folder / f"{path}.yaml"
        if candidate.is_file():
            return candidate
    words = sorted({each.stem for folder in _config_folders() for each in folder.glob("*.yaml")})
    raise ConfigError(f"no tool config {str(path)!r}{_nearest(path, words)}")


def _known_words() -> str:
    words = sorted({each.stem for folder in _config_folders() for each in folder.glob("*.yaml")})
    return f"; give a path, or one of {', '.join(words)}"


def _config_folders() -> list[Path]:
    """configs/tools of the checkout; in an installed wheel the same files as package data."""
    folders = [_ROOT / "configs" / "tools", Path(__file__).resolve().parent / "_configs"]
    return [folder for folder in folders if folder.is_dir()]


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def _published(content: Mapping[str, Json], origin: str) -> ToolshedConfig:
    """The release's ``tools:`` list; families in order of first appearance, all real, each in the
    tool environment that has its model."""
    entries = content["tools"]
    assert isinstance(entries, list)
    schemas: list[JsonValue] = []
    families: dict[str, object] = {}
    for index, entry in enumerate(entries):
        function = _function_of(entry, f"{origin}: tools[{index}]")
        name = str(function["name"])
        function = {**function, "name": _UNDOTTED.get(name, name)}
        schemas.append(function)
        family, _, method = str(function["name"]).partition(".")
        known_name(family, FAMILIES, "tool family")
        environment = FAMILIES[family].back_ends["real"].environment
        shown = families.setdefault(
            family, {"backend": "real", "show": [], "environment": environment}
        )
        assert isinstance(shown, dict)
        shown["show"].append(method)
    rest = {key: value for key, value in content.items() if key != "tools"}
    for key in rest:
        known_name(key, _SETTINGS, f"key in {origin}:")
    return _validated({**rest, "families": families, "published": schemas}, origin)


def _function_of(entry: Json, origin: str) -> dict[str, JsonValue]:
    schema = entry.get("tool_schema") if isinstance(entry, dict) else None
    function = schema.get("function") if isinstance(schema, dict) else None
    if not isinstance(function, dict):
        raise ConfigError(f"{origin} has no tool_schema.function")
    for key, kind in (("name", str), ("description", str), ("parameters", dict)):
        if not isinstance(function.get(key), kind):
            raise ConfigError(
                f"{origin}: tool_schema.function.{key} is missing or no {kind.__name__}"
            )
    return function


def published_specs(config: ToolshedConfig) -> list[ToolSpec]:
    """Specs of the release's list format, order and texts as they stand in the file."""
    specs = []
    for function in config.published or []:
        parameters = function["parameters"]
        assert isinstance(parameters, dict)
        specs.append(
            ToolSpec(
                name=str(function["name"]),
                description=str(function["description"]),
                parameters=parameters,
            )
        )
    return specs
