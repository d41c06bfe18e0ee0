#!/usr/bin/env bash
# Supervised fine-tuning on a plain machine: bash scripts/run_sft.sh CONFIG [key=value ...]
# CONFIG is a name in configs/sft or a YAML file; --help lists every key. Goes on after an interruption.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PYTHONPATH="$PWD"
exec .venv/bin/python -m sft.train "$@"
