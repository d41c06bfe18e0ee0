"""Where a checkpoint lies and which tools it was trained with; loads no weights and no torch."""

from __future__ import annotations

import json
from pathlib import Path

from toolshed.errors import ConfigError

SCHEMA_FILE = "tool_schema.json"
EXPORT = "huggingface"
"""Where a checkpoint of a run keeps itself as an ordinary folder, beside its state."""
_IN_A_STEP = ("", EXPORT, f"actor/{EXPORT}", "actor", "hf")
"""Where a step of this or of the original training may keep its Hugging Face folder."""
_INNER = ("final", EXPORT, "actor")
"""Folders that every run has, so that they say nothing about which it is."""


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that ``path`` means; ConfigError where it means none.

    Itself, ``final`` of a run's folder, or of the layout of runs here and of the original release
    (verl) ``RUN[/rl_output]/global_step_N[/actor][/huggingface]``, where a folder of several steps
    means the last one.
    """
    if not str(path).strip():
        raise ConfigError("no checkpoint given; name one, for example runs/demo/base")
    for folder in (Path(path), Path(path) / "final"):
        if (folder / "config.json").exists():
            return folder
    step = _last_step(Path(path))
    if step is not None:
        return _of_step(step)
    raise ConfigError(
        f"{path} is no checkpoint: neither it nor {path}/final holds a config.json, and it has no "
        "global_step_N; give a Hugging Face folder or the folder of a finished run"
    )


def _last_step(path: Path) -> Path | None:
    """The step's folder that ``path`` is, or the last of those in it or in its ``rl_output``."""
    if step_number(path) is not None:
        return path if path.is_dir() else None
    for folder in (path, path / "rl_output"):
        steps = [each for each in folder.glob("global_step_*") if step_number(each) is not None]
        if steps:
            return max(steps, key=lambda each: step_number(each) or 0)
    return None


def step_number(path: Path) -> int | None:
    """N of a folder ``global_step_N``; None for another name."""
    word, _, number = path.name.rpartition("_")
    return int(number) if word == "global_step" and number.isdecimal() else None


def _of_step(step: Path) -> Path:
    for folder in (step / inner for inner in _IN_A_STEP):
        if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
            return folder
    shards = sorted(step.rglob("model_world_size_*.pt"))
    if shards:
        raise ConfigError(
            f"{step} holds its weights in {len(shards)} shards of its training; merge them into a "
            "Hugging Face folder first (verl: python -m verl.model_merger merge) and give that"
        )
    raise ConfigError(
        f"{step} holds no config.json with weights (*.safetensors), in itself or in "
        f"{' or '.join(_IN_A_STEP[1:])}; give a step that was saved whole"
    )


def run_name(path: str | Path) -> str:
    """A word for a checkpoint that is another one for runs of the same name in other folders."""
    parts = Path(path).resolve().parts
    while parts[-1] in _INNER:
        parts = parts[:-1]
    if parts[-2:-1] == ("rl_output",):
        parts = (*parts[:-2], parts[-1])
    if "runs" in parts[:-1]:
        last = len(parts) - 1 - parts[-2::-1].index("runs")
        return "_".join(parts[last:])
    return "_".join(part for part in parts[-2:] if part != Path(path).anchor)


def short_name(path: str | Path) -> str:
    """Name of a checkpoint's run, for titles."""
    return next(part for part in reversed(Path(path).resolve().parts) if part not in _INNER)


def read_schema_hash(folder: str | Path) -> str:
    """Hash of the tool schema that a checkpoint was trained with; ``unknown`` if it has none."""
    path = Path(folder) / SCHEMA_FILE
    return str(json.loads(path.read_text())["hash"]) if path.exists() else "unknown"


def schema_record(schema_hash: str, schema_text: str) -> dict[str, str]:
    """What a checkpoint keeps of the tools that it was trained with."""
    return {"hash": schema_hash, "schema": schema_text}


def check_schema(folder: str | Path, current: str, policy: str) -> str | None:
    """Refuse a checkpoint made with other tools; returns a warning when its hash is unknown."""
    if policy not in ("same", "any"):
        raise ConfigError(f"tools.schema={policy!r} is neither same nor any")
    recorded = read_schema_hash(folder)
    if recorded == "unknown":
        return f"{folder} does not say which tool schema it was trained with; taken as it is"
    if recorded != current and policy == "same":
        raise ConfigError(
            f"{folder} was trained with tool schema {recorded[:12]}, this run uses {current[:12]}; "
            "use the same tools.config= and tools.show=, or pass tools.schema=any to compare on "
            "purpose"
        )
    return None
