"""Runs one command under sandlock; its arguments are a policy as JSON, then the command.

A program of its own, so that sandlock's supervisor threads live in a process that ends with the
command. Standard input, output and errors are handed on; every other descriptor is closed.
"""

from __future__ import annotations

import importlib
import json
import sys


def main() -> int:
    policy = json.loads(sys.argv[1])
    sys.path.append(policy.pop("packages"))
    # Imported by name, for the package is optional and has no types.
    sandlock = importlib.import_module("sandlock")
    return int(sandlock.Sandbox(**policy).run_interactive(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
