#!/usr/bin/env bash
# Evaluation on a plain machine: bash scripts/run_eval.sh CKPT BENCHMARK... [key=value ...]
# --help lists benchmarks and keys. A second run asks only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PYTHONPATH="$PWD"
exec .venv/bin/python -m eval.run "$@"
