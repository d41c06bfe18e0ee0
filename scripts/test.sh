#!/usr/bin/env bash
# Format, lint, types and tests; the same here and in CI.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() {
  echo "usage: bash scripts/test.sh [--all] [pytest words ...]"
  echo
  echo "  without --all   everything but the mark 'slow', within 10 minutes on 2 cores"
  echo "  --all           adds chaos, kill-and-resume and other slow tests, after making the"
  echo "                  environments that they need (.envs/sam2 and .envs/sglang, CPU only)"
}
marks='not slow'
words=()
for word in "$@"; do
  case "$word" in
    --all) marks='' ;;
    -h | --help) usage; exit 0 ;;
    *) words+=("$word") ;;
  esac
done
bash scripts/setup.sh
export PYTHONPATH="$PWD" OMP_NUM_THREADS=1
bin=.venv/bin
echo "test: format"; $bin/ruff format --check --quiet .
echo "test: lint"; $bin/ruff check --quiet .
# Types beside the environments, which mostly wait for disks and networks.
told=$(mktemp)
$bin/mypy >"$told" 2>&1 &
types=$!
trap 'kill "$types" 2>/dev/null || true; rm -f "$told"' EXIT
if [ -z "$marks" ]; then
  echo "test: environments"
  $bin/python -m toolshed.cli env create sam2 --cpu
  $bin/python -m toolshed.cli env create sglang --cpu
fi
echo "test: types"
code=0
wait "$types" || code=$?
cat "$told"
[ "$code" = 0 ] || exit "$code"
echo "test: tests"
$bin/python -m pytest -m "$marks" "${words[@]}"
