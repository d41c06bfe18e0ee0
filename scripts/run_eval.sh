#!/usr/bin/env bash
# Evaluation on a plain machine or in a SLURM job; docs/CLUSTER.md and --help say how.
#SBATCH --job-name=spacetools-eval
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -euo pipefail

# sbatch runs a copy of this file, from a folder of its own.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
[ -f "$root/scripts/allocation.sh" ] || root=${SLURM_SUBMIT_DIR:-$root}
if [ ! -f "$root/scripts/allocation.sh" ]; then
  echo "run_eval: $root is not the repository's root; submit from there" >&2
  exit 2
fi
cd "$root"
# Read by allocation.sh.
# shellcheck disable=SC2034
stage=eval check=no
# shellcheck source=scripts/allocation.sh
. scripts/allocation.sh

usage() {
  cat <<TEXT
usage: bash scripts/run_eval.sh CKPT [BENCHMARK...] [--check] [key=value ...]
       sbatch [options] scripts/run_eval.sh CKPT ...      (from the repository's root)

Evaluates a checkpoint with live tools. CKPT is a checkpoint or a run's folder, a global_step_N or a folder of
several (the last one counts), or what else eval.run takes, such as api:MODEL. Without a BENCHMARK: the nine of the paper.
Keys are those of eval.run: .venv/bin/python -m eval.run --help. Paths are relative to the repository's root.

  --check          print the plan and start nothing

  VERSION          v1 (11 tools) or v2 (17); without it v1, and the demo's tools where all benchmarks are tabletop-*
  TOOLS            other tools: light, none, or a tool YAML; tools=... does the same
  ROBOREFER_MODEL  folder of RoboRefer's weights; without it the tools take them from the hub
  DEPTH_CHECKPOINT depth_pro.pt; likewise
  OUTPUT_DIR       folder of rows, table and report; without it a new experiments/eval_VERSION_TIME.
                   A run goes on, in another job too, with its folder in OUTPUT_DIR and the same words
  GPUS_PER_NODE    GPUs used on each node (NUM_GPUS is the same); must be as many as are visible, and
                   all of them are used without it. 0 is a machine without
  EVAL_GPUS        how many of this node's GPUs serve the policy, a copy on each; the rest serve tools.
                   Without it 1, or on several nodes all of the first, so that tools are on the others
TEXT
}

# ---- words ---------------------------------------------------------------------------------------

subject='' tools='' words=() benchmarks=() options=() given='' own_config=no device='' dtype=''
arguments=("$@")
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --check) check=yes ;;
    --config | --limit | --repeats)
      [ $# -ge 2 ] || die "$1 needs a value"
      [ "$1" != --config ] || own_config=yes
      options+=("$1" "$2")
      shift ;;
    -*) options+=("$1") ;;
    tools=* | tools.config=*) given=${1#*=} ;;
    out=*)
      [ "${OUTPUT_DIR:-${1#out=}}" = "${1#out=}" ] || die "OUTPUT_DIR=$OUTPUT_DIR and $1 are two folders; give one of them"
      OUTPUT_DIR=${1#out=} ;;
    device=* | devices=*) device=$1; words+=("$1") ;;
    dtype=*) dtype=$1; words+=("$1") ;;
    [A-Z_]*[A-Z]=*) die "$1 is a variable: write it before the command, $1 bash scripts/run_eval.sh ..." ;;
    *=*) words+=("$1") ;;
    *) if [ -z "$subject" ]; then subject=$1; else benchmarks+=("$1"); fi ;;
  esac
  shift
done
[ -n "$subject" ] || die "no checkpoint given; see --help"
case "${VERSION:-v1}" in
  v1 | v2) ;;
  *) die "VERSION=$VERSION is neither v1 nor v2; for other tools give TOOLS=light, TOOLS=none or a tool YAML" ;;
esac
[ "${TOOLS:-$given}" = "${given:-${TOOLS:-}}" ] || die "TOOLS=$TOOLS and tools=$given are two tool sets; give one of them"
case "${VERSION:+${TOOLS:-}}" in
  v1 | v2) [ "$TOOLS" = "$VERSION" ] || die "VERSION=$VERSION and TOOLS=$TOOLS are two tool sets; give one of them" ;;
esac
tools=${given:-${TOOLS:-${VERSION:-}}}
# Models that are asked over a network, or that are none, have no folder here.
is_folder=yes
if [[ $subject =~ ^[a-z]+: ]] && [ ! -e "$subject" ]; then is_folder=no; fi
[ "$is_folder" = no ] || [ -e "$subject" ] || die "$subject does not exist; the first word is a checkpoint, a run's folder, api:MODEL or baseline:NAME"
if [ -z "$tools" ]; then
  [ "$own_config" = no ] || die "which tools? beside --config give VERSION, TOOLS or tools="
  tools=demo
  [ ${#benchmarks[@]} -gt 0 ] || tools=v1
  for name in "${benchmarks[@]}"; do
    case "$name" in tabletop-*) ;; *) tools=v1 ;; esac
  done
  [ "$is_folder" = yes ] || tools=none
fi

# ---- what there is -------------------------------------------------------------------------------

bash scripts/setup.sh
export PYTHONPATH="$root"
python=$root/.venv/bin/python

find_nodes
find_gpus
room=$("$python" -m toolshed.serving.room "$tools") || exit
read -r host needed <<<"$room"
if [ ${#gpus[@]} -eq 0 ] || [ "$is_folder" = no ]; then
  share_gpus EVAL_GPUS 0
elif [ "$num_nodes" -gt 1 ] && [ "$host" = ray ]; then
  share_gpus EVAL_GPUS ${#gpus[@]}
else
  share_gpus EVAL_GPUS 1
fi
places=(--gpus $((${#gpus[@]} - num_policy)))
for ((node = 1; node < num_nodes; node++)); do places+=(--gpus ${#gpus[@]}); done
[ "$needed" -eq 0 ] || "$python" -m toolshed.serving.room "$tools" "${places[@]}" >/dev/null || exit

if [ "$is_folder" = yes ] && [ -z "$device" ]; then
  if [ "$num_policy" -gt 0 ]; then
    words+=(device=cuda "devices=$num_policy")
  else
    words+=(device=cpu)
    [ -n "$dtype" ] || words+=(dtype=float32)
  fi
elif [ "$is_folder" = yes ] && [ ${#gpus[@]} -gt 0 ]; then
  die "$device: EVAL_GPUS=$num_policy says where the policy is; leave $device out"
fi
uses_cluster=no
if [ "$host" = ray ] && { [ -n "${SLURM_JOB_NODELIST:-}" ] || [ ${#gpus[@]} -gt 0 ]; }; then uses_cluster=yes; fi

# ---- the plan ------------------------------------------------------------------------------------

choose_folder "$(basename "${tools%.y*ml}")" "${arguments[@]}"
say "nodes       $num_nodes${SLURM_JOB_ID:+ of SLURM job $SLURM_JOB_ID}, ${#gpus[@]} GPUs on each"
say "policy      $subject on $num_policy GPUs of this node${policy_gpus:+ ($policy_gpus)}"
say_tools policy eval.run
idle=$((${#gpus[@]} - num_policy))
if [ "$host" != ray ] && [ "$idle" -gt 0 ]; then say "note: $idle GPUs of this node have nothing to do; EVAL_GPUS=${#gpus[@]} gives them to the policy"; fi
if [ "$needed" -gt 0 ]; then
  need_weights ROBOREFER_MODEL
  need_weights DEPTH_CHECKPOINT
fi
say "folder      $folder; to go on later: OUTPUT_DIR=$(printf %q "$folder") and the same words"

# ---- the run -------------------------------------------------------------------------------------

command=("$python" -m eval.run "$subject" "${benchmarks[@]}" "tools=$tools" "out=$folder" "${words[@]}" "${options[@]}")
export CUDA_VISIBLE_DEVICES=$policy_gpus
# The GPUs of tools in a cluster were counted above; they need not be seen from here.
checking=("${command[@]}" --check)
[ "$uses_cluster" = no ] || checking=(env TOOLSHED_CLUSTER=to-be-started "${checking[@]}")
[ "$check" = no ] || exec "${checking[@]}"
[ "$uses_cluster" = yes ] || exec "${command[@]}"
# What is wrong is said before Ray starts anywhere.
found=$("${checking[@]}") || { code=$?; grep '^missing: ' <<<"$found" >&2 || true; exit $code; }
hosts=(--hosts localhost)
[ -z "${SLURM_JOB_NODELIST:-}" ] || hosts=()
exec bash scripts/ray_cluster.sh "${hosts[@]}" --gpus-here "$tool_gpus" -- "${command[@]}"
