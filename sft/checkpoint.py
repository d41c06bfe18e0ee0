"""Where a checkpoint lies and which tools it was trained with; loads no weights and no torch."""

from __future__ import annotations

import json
from pathlib import Path

from toolshed.errors import ConfigError

SCHEMA_FILE = "tool_schema.json"


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that ``path`` means: itself, or ``final`` of a run's folder."""
    if not str(path).strip():
        raise ConfigError("no checkpoint given; name one, for example runs/demo/base")
    for folder in (Path(path), Path(path) / "final"):
        if (folder / "config.json").exists():
            return folder
    raise ConfigError(
        f"{path} is no checkpoint: neither it nor {path}/final holds a config.json; give a "
        "Hugging Face folder or the folder of a finished run"
    )


def run_name(path: str | Path) -> str:
    """A word for a checkpoint that is another one for runs of the same name in other folders."""
    parts = Path(path).resolve().parts
    parts = parts[:-1] if parts[-1] == "final" else parts
    if "runs" in parts[:-1]:
        last = len(parts) - 1 - parts[-2::-1].index("runs")
        return "_".join(parts[last:])
    return "_".join(part for part in parts[-2:] if part != Path(path).anchor)


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
        raise ConfigError(f"schema={policy!r} is neither same nor any")
    recorded = read_schema_hash(folder)
    if recorded == "unknown":
        return f"{folder} does not say which tool schema it was trained with; taken as it is"
    if recorded != current and policy == "same":
        raise ConfigError(
            f"{folder} was trained with tool schema {recorded[:12]}, this run uses {current[:12]}; "
            "use the same tools.config= and tools.show=, or pass schema=any to compare on purpose"
        )
    return None
