"""One rank of ``rl.train`` with rewards that differ: ``python rank_run.py PIDS CONFIG WORD ...``.

Each rank writes its process id to ``PIDS/RANK``. With ``LARGEST_FILE=BYTES`` in the environment,
rank 1 can write no larger file.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from unittest.mock import patch

from rl.train import main
from tests.rl.rewarding import reward_of_tokens

if __name__ == "__main__":
    rank = os.environ.get("RANK", "0")
    Path(sys.argv[1], rank).write_text(str(os.getpid()))
    if rank == "1" and "LARGEST_FILE" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LARGEST_FILE"]), -1))
    with patch("rl.train.score", reward_of_tokens):
        sys.exit(main(sys.argv[2:]))
