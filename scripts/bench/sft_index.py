"""How fast a released-size SFT set is ready: 7,907 conversations with 7,459 pictures, indexed.

The conversations are made here, in the released layout and of its lengths (turns, tool calls and
replies; about 10,000 characters), the pictures small JPEGs. Measured in a process of its own, from
its start to the table of rows: the file is scanned, every row and picture is checked, the index is
written and opened, and a first batch is read. Beside it, how long the same takes when the index is
there. The real pictures are 6.3 GB, whose reading comes on top.

``--selftest`` measures a reader that parses the file as one value and holds it five times, and
exits with 1 unless memory shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Before this file's folder, because its files have names of the library's.
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROWS, PICTURES = 7907, 7459
BARS = {"index_7907_s": 60.0, "index_7907_rss_mb": 2048.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a handicap shows")
    parser.add_argument("--rows", type=int, default=ROWS, help="conversations (%(default)s)")
    parser.add_argument("--measured", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--held", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows < 1:
        parser.error(f"--rows must be at least 1, not {options.rows}")
    if options.measured:
        print(json.dumps(_measured(Path(options.measured), options.held)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        size = make_set(Path(folder), options.rows)
        first = _alone(folder)
        again = _alone(folder)
        figures = {
            "index_7907_s": first["seconds"],
            "index_7907_rss_mb": first["rss_mb"],
            "index_7907_again_s": again["seconds"],
            "index_7907_file_mb": size / 1e6,
        }
        if options.selftest:
            figures["handicapped_rss_mb"] = _alone(folder, held=5)["rss_mb"]
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<24} {value:10.2f}")
    if options.selftest:
        return int(figures["handicapped_rss_mb"] < 1.5 * figures["index_7907_rss_mb"])
    return int(any(figures[name] > bar for name, bar in BARS.items()))


def make_set(folder: Path, num_rows: int) -> int:
    """Write the set; bytes of its conversations."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("a", "b"):
        (folder / "images" / part).mkdir(parents=True)
    names = [f"images/{'ab'[i % 2]}/{i:05d}.jpg" for i in range(min(PICTURES, num_rows))]
    for name in names:
        small = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((320, 240)).save(folder / name, quality=85)
    rows = [_conversation(i, names[i % len(names)]) for i in range(num_rows)]
    path = folder / "train.json"
    path.write_text(json.dumps(rows, indent=1))
    return path.stat().st_size


def _conversation(number: int, picture: str) -> dict[str, object]:
    thought = f"I look for object {number} in the picture, and then at what is beside it. " * 10
    call = {"name": "roborefer.detect_one", "arguments": {"obj_name": f'the "{number}" cup'}}
    turns = [{"from": "user", "value": f"<image>Where is object {number}? Answer with a point."}]
    for turn in range(4):
        said = f"<think>{thought}</think>\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
        points = [(i / 97 % 1, turn / 4) for i in range(60)]
        told = f"<tool_response>\nFound: {points}\n</tool_response>"
        turns += [{"from": "assistant", "value": said}, {"from": "user", "value": told}]
    turns.append({"from": "assistant", "value": f"<think>{thought}</think><answer>[]</answer>"})
    return {
        "task_id": f"task_{number}",
        "dataset_index": number,
        "score": 1.0,
        "conversations": turns,
        "system": "You answer questions about pictures. " * 20,
        "images": [picture],
        "ground_truth": "[]",
        "question_type": "point",
    }


def _alone(folder: str, held: int = 0) -> dict[str, float]:
    """Seconds and memory of a process that opens the set, its start included."""
    begun = time.perf_counter()
    words = [sys.executable, __file__, "--measured", folder, "--held", str(held)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the measured process ended with {done.returncode}: {done.stderr}")
    told: dict[str, float] = json.loads(done.stdout)
    return told | {"seconds": time.perf_counter() - begun}


def _measured(folder: Path, held: int) -> dict[str, float]:
    from sft.data import DataConfig, SourceConfig
    from sft.training_data import load_training_data

    path = folder / "train.json"
    kept = [json.loads(path.read_text()) for _ in range(held)]
    config = DataConfig(mixture="train", batch=8, eval_rows=20, cache=str(folder / "cache"))
    data = load_training_data([SourceConfig(path=str(path))], config, 1, "")
    _, batch = next(data.batches(0))
    assert len(batch) == config.batch and len(kept) == held
    return {"rss_mb": _peak_mb()}


def _peak_mb() -> float:
    """Most memory that this process had; getrusage would count its parent's before the start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) / 1024


if __name__ == "__main__":
    sys.exit(main())
