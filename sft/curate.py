"""From traces to a teaching set: ``python -m sft.curate TRACES... --out SET.json [key=value ...]``.

What is written reads back with ``sft.data.load_transcripts``; beside it lie ``SET.dropped.jsonl``,
``SET.stats.json`` and the page ``SET.html``. The same traces, words and seed give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sft.config import help_text, load_config
from sft.curation.config import CurateConfig
from sft.curation.contamination import read_lists
from sft.curation.page import page
from sft.curation.statistics import Ruler, as_text, statistics, table
from sft.curation.steps import Curated, curate
from sft.curation.traces import Trace, read_traces
from sft.run_dir import check_writable, draft_file
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.types import Json

_HELP = """Steps, in this order (docs/CURATION.md):
  rewrite        queries for an anchor alone, with rewrite.phrase; off by default
  clean          failed_call, needless_call, unused_variable, guess, leak, override
  duplicates     the same text about the same pictures; the first row stays
  contamination  rows that meet an evaluation set of contamination.lists, files that
                 `python -m eval.overlap SET.parquet --export FILE` wrote. Ways: same_picture,
                 near_picture, same_text, picture_and_text (the same or a near picture);
                 dropped are same_picture and picture_and_text
  balance        no answer of yes/no and choice questions above balance.max_share of its task
  mix            sources at a ratio, for example 'mix={teacher: 3, distilled: 1}'

keys and defaults:
"""


def read_files(paths: Sequence[Path]) -> dict[str, list[Trace]]:
    """Rows by file as it was named; ConfigError where one is named twice or is wrong."""
    from tqdm import tqdm

    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ConfigError(f"{path} is named twice; name each file of traces once")
        seen.add(path.resolve())
    return {str(path): read_traces(path) for path in tqdm(paths, desc="traces", disable=None)}


def beside(out: Path) -> dict[str, Path]:
    """Every file that a set has, the set itself last."""
    names = {"dropped": ".dropped.jsonl", "stats": ".stats.json", "page": ".html"}
    return {key: out.with_name(out.stem + end) for key, end in names.items()} | {"set": out}


def check_out(out: Path, traces: Sequence[Path], *, force: bool) -> None:
    """ConfigError where the set cannot be written, or would replace what must stay."""
    if out.suffix != ".json":
        raise ConfigError(f"--out {out} is no .json file; name one, for example runs/set.json")
    for path in beside(out).values():
        if any(path.resolve() == trace.resolve() for trace in traces):
            raise ConfigError(f"--out {out} would replace the traces {path}; name another file")
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; choose another --out")
        if path.exists() and not force:
            raise ConfigError(f"{path} exists; name another --out or pass --force")
    check_writable(out.parent)


def set_rows(rows: Sequence[Trace], out: Path) -> list[dict[str, Json]]:
    """The rows with their pictures as seen from the set's folder."""
    return [trace.row | {"images": _near(trace, out.parent)} for trace in rows]


def _near(trace: Trace, folder: Path) -> list[Json]:
    listed = trace.row.get("images") or []
    assert isinstance(listed, list), "load_transcripts has seen it"
    places = [
        picture if picture.startswith("data:") else os.path.relpath(picture, folder)
        for picture in trace.pictures
    ]
    return [
        {**entry, "image": place} if isinstance(entry, dict) else place
        for entry, place in zip(listed, places, strict=True)
    ]


def write(out: Path, curated: Curated, figures: Mapping[str, Any], config: CurateConfig) -> None:
    """All files or none of them; the set gets its name last."""
    paths = beside(out)
    rows = json.dumps(set_rows(curated.rows, out), indent=1, ensure_ascii=False)
    lines = [json.dumps(line, ensure_ascii=False) for line in curated.ledger.lines()]
    texts = {
        "dropped": "".join(f"{line}\n" for line in lines),
        "stats": as_text(figures),
        "page": page(out.stem, curated, figures, config),
        "set": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as drafts:
        # What is entered first is named last.
        for key in reversed(paths):
            draft = drafts.enter_context(draft_file(paths[key]))
            draft.write_text(texts[key], encoding="utf-8")


def curate_files(files: Sequence[Path], config: CurateConfig) -> tuple[Curated, Mapping[str, Any]]:
    """What becomes of these files' rows, and the figures of it; nothing is written."""
    lists = read_lists(config.contamination.lists)
    ruler = Ruler.of(config.page.tokenizer)
    read = read_files(files)
    curated = curate([trace for rows in read.values() for trace in rows], config, lists)
    return curated, statistics(read, curated, lists, config, ruler)


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m sft.curate``."""
    parser = argparse.ArgumentParser(
        prog="python -m sft.curate",
        description="Clean, compare, balance and mix traces; write a teaching set and its page.",
        epilog=_HELP + help_text(CurateConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="+", metavar="TRACES | key=value", help="files of traces, and overrides")
    add("--out", type=Path, required=True, metavar="SET.json", help="file to write")
    add("--config", default="curate", help="a config of configs/sft or a YAML file (curate)")
    add("--force", action="store_true", help="replace an existing set")
    add("--dry-run", action="store_true", help="print what would happen; write nothing")
    args = parser.parse_intermixed_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft")


def _run(args: argparse.Namespace) -> int:
    files = [Path(word) for word in args.words if "=" not in word or Path(word).is_file()]
    overrides = [word for word in args.words if Path(word) not in files]
    config = load_config(CurateConfig, "sft", args.config, overrides)
    if not files:
        raise ConfigError("no traces: name files that rl.collect wrote")
    out = args.out.parent.resolve() / args.out.name
    check_out(out, files, force=args.force or args.dry_run)
    curated, figures = curate_files(files, config)
    print(table(figures))
    if not curated.rows:
        raise ConfigError(f"no row is left for {args.out}, nothing was written; drop fewer rules")
    if args.dry_run:
        print(f"would write {args.out}")
        return 0
    write(out, curated, figures, config)
    print(f"wrote {args.out}; look at {beside(args.out)['page']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
