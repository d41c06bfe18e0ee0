#!/usr/bin/env bash
# Reinforcement learning with live tools on a plain machine: bash scripts/run_rl.sh CONFIG [key=value ...]
# CONFIG is a name in configs/rl or a YAML file; --help lists every key. Goes on after an interruption.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PYTHONPATH="$PWD"
exec .venv/bin/python -m rl.train "$@"
