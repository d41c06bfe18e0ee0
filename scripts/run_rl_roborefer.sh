#!/usr/bin/env bash
# Step 1 of the recipe: the base model learns to point, with RoboRefer as its only tool. Words and
# variables are those of run_rl.sh, which does it; another point config may be among the words.
#SBATCH --job-name=spacetools-rl-point
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
[ -f "$root/scripts/run_rl.sh" ] || root=${SLURM_SUBMIT_DIR:-$root}
if [ ! -f "$root/scripts/run_rl.sh" ]; then
  echo "run_rl_roborefer: $root is not the repository's root; submit from there" >&2
  exit 2
fi
if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<TEXT
usage: bash scripts/run_rl_roborefer.sh [point|point_paper|point_code] [--check] [key=value ...]

  BASE_MODEL       folder of Qwen2.5-VL-3B-Instruct; without it models/Qwen2.5-VL-3B-Instruct
  others           those of scripts/run_rl.sh but SFT_CHECKPOINT and VERSION
TEXT
  exit 0
fi
base=${BASE_MODEL:-models/Qwen2.5-VL-3B-Instruct}
config='' own_model=no words=()
for word in "$@"; do
  case "$word" in
    *=* | -*) words+=("$word") ;;
    *)
      if [ -n "$config" ]; then
        echo "run_rl_roborefer: two configs are given, $config and $word; give one" >&2
        exit 2
      fi
      config=$word ;;
  esac
  case "$word" in model=*) own_model=yes ;; esac
done
if [ "$own_model" = no ] && [ ! -e "$root/$base" ] && [ ! -e "$base" ]; then
  echo "run_rl_roborefer: $base is not there; .venv/bin/hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir $base," \
    "or give BASE_MODEL" >&2
  exit 2
fi
unset VERSION SFT_CHECKPOINT
[ "$own_model" = yes ] || export SFT_CHECKPOINT=$base
exec bash "$root/scripts/run_rl.sh" "${config:-point}" ${words[@]+"${words[@]}"}
