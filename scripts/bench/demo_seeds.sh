#!/usr/bin/env bash
# The demo over several seeds, then every claim with its figure in each (demo_bars.py).
set -euo pipefail
cd "$(dirname "$0")/../.."
case " $* " in
  *" -h "* | *" --help "*)
    echo "usage: bash scripts/bench/demo_seeds.sh [SEED ...] [--json]"
    echo
    echo "  Runs scripts/demo.sh for each seed (default 1 2 3 4 5, about 10 minutes each; finished"
    echo "  runs are kept) and prints what they show. Exits with 1 where a bar is missed."
    exit 0
    ;;
esac
words=() seeds=()
for word in "$@"; do
  case "$word" in
    --json) words+=("$word") ;;
    *[!0-9]* | '') echo "demo_seeds.sh: '$word' is no seed" >&2; exit 2 ;;
    *) seeds+=("$word") ;;
  esac
done
[ "${#seeds[@]}" -gt 0 ] || seeds=(1 2 3 4 5)
runs=()
for seed in "${seeds[@]}"; do
  bash scripts/demo.sh --seed "$seed" >&2
  if [ "$seed" = 1 ]; then runs+=(runs/demo); else runs+=("runs/demo-seed$seed"); fi
done
exec .venv/bin/python scripts/bench/demo_bars.py "${words[@]}" "${runs[@]}"
