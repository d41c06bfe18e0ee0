#!/usr/bin/env bash
# The whole DIRL pipeline in miniature on a CPU machine; ends with a table and a report.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in
  *" -h "* | *" --help "*)
    echo "usage: bash scripts/demo.sh [--smoke] [--seed N] [--out FOLDER]"
    echo
    echo "Makes its environment when missing, then: base, point-tool RL, teacher traces, SFT, full-tool RL with"
    echo "live tools, controls, evaluation. About 10 minutes on 2 cores; may be interrupted and run again."
    echo "Report: runs/demo/report.html (rewritten while it runs), numbers: runs/demo/summary.json."
    echo
    echo "  --smoke    the same path with tiny step counts (1 minute, learns nothing) -> runs/demo-smoke"
    echo "  --seed N   another seed than 1 -> runs/demo-seedN"
    echo "  --out FOLDER   another folder of the run"
    exit 0
    ;;
esac
begun=$(date +%s)
bash scripts/setup.sh
took=$(($(date +%s) - begun))
words=()
# A set-up that had nothing to do is no measurement.
[ "$took" -lt 3 ] || words=(--setup-s "$took")
export PYTHONPATH="$PWD" OMP_NUM_THREADS=1
exec .venv/bin/python -m eval.demo "${words[@]}" "$@"
