#!/usr/bin/env bash
# Supervised fine-tuning, on a plain machine or in a SLURM job; docs/TRAINING.md and --help say how.
#SBATCH --job-name=spacetools-sft
#SBATCH --nodes=1
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

# sbatch runs a copy of this file, from a folder of its own.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
[ -f "$root/scripts/allocation.sh" ] || root=${SLURM_SUBMIT_DIR:-$root}
if [ ! -f "$root/scripts/allocation.sh" ]; then
  echo "run_sft: $root is not the repository's root; submit from there" >&2
  exit 2
fi
cd "$root"
# Read by allocation.sh.
# shellcheck disable=SC2034
stage=sft check=no
# shellcheck source=scripts/allocation.sh
. scripts/allocation.sh
# shellcheck source=scripts/words.sh
. scripts/words.sh

usage() {
  cat <<TEXT
usage: bash scripts/run_sft.sh [CONFIG] [--check] [key=value ...]
       sbatch [options] scripts/run_sft.sh [CONFIG] ...      (from the repository's root)

Teaches a checkpoint to call tools, from conversations; without CONFIG step 3 of the recipe with the tools of
VERSION. CONFIG is a name in configs/sft (v1, v1_paper, v1_code, demo ...) or a YAML file. Keys are those of
sft.train: .venv/bin/python -m sft.train --help. Paths are relative to the repository's root.

  --check          print the plan and what the data holds, and start nothing

  VERSION          v1 (11 tools, without it) or v2 (17)
  BASE_MODEL       checkpoint to start from; model=... does the same. Without it that of the config, in the
                   recipe models/Qwen2.5-VL-3B-Instruct
  TOOL_CONFIG      tool YAML, or its word, whose schemas are taught; tools.config=... does the same
  OUTPUT_DIR       folder of the run; without it a new experiments/sft_CONFIG_TIME. A run goes on, in another
                   job too, with its folder in OUTPUT_DIR and the same words. Its checkpoint is OUTPUT_DIR/final
  SAVE_FREQ        steps between checkpoints; save_every=... does the same
  GPUS_PER_NODE    GPUs used on each node, a process on each (NUM_GPUS is the same); must be as many as are
                   visible, and all of them are used without it. 0 is a machine without
  RANKS            with device=cpu: processes on each node, 1 without it
TEXT
}

# ---- words ---------------------------------------------------------------------------------------

arguments=("$@")
read_words "$@"
choose_config
take BASE_MODEL model
take TOOL_CONFIG tools.config
take SAVE_FREQ save_every

# ---- what there is -------------------------------------------------------------------------------

bash scripts/setup.sh
export PYTHONPATH="$root"
python=$root/.venv/bin/python

find_nodes
find_gpus
chosen=$("$python" -m sft.division "$config" "${words[@]}") || exit
device='' out='' zero=''
while IFS= read -r line; do
  case "${line%%=*}" in
    device | out | zero) printf -v "${line%%=*}" %s "${line#*=}" ;;
  esac
done <<<"$chosen"

ranks_here=${RANKS:-1}
[ "$ranks_here" -gt 0 ] || die "RANKS=$RANKS: at least one process is needed"
if [ "$device" = cuda ]; then
  [ -z "${RANKS:-}" ] || die "RANKS=$RANKS is for device=cpu; on GPUs there is a process on each of GPUS_PER_NODE"
  if [ ${#gpus[@]} -gt 0 ]; then ranks_here=${#gpus[@]}; fi
elif [ "$device" != cpu ] && [ "$ranks_here" -gt 1 ]; then
  die "RANKS=$RANKS and device=$device: several processes need device=cpu or device=cuda"
elif [ "$num_nodes" -gt 1 ] && [ -z "${RANKS:-}" ]; then
  say "note: with device=$device the other nodes have nothing to do; give RANKS, or one node (--nodes=1)"
  num_nodes=1 other_nodes=()
fi
ranks=$((ranks_here * num_nodes))
uses_torchrun=no
# On one GPU too: ZeRO keeps weights in float32 beside those in bfloat16.
if [ "$ranks" -gt 1 ] || { [ "$device" = cuda ] && [ "${own[learner.shard.zero]:-2}" != 0 ]; }; then
  uses_torchrun=yes
  [ "$zero" != 0 ] || [ -n "${own[learner.shard.zero]+set}" ] || words+=(learner.shard.zero=2)
fi

# ---- the plan ------------------------------------------------------------------------------------

OUTPUT_DIR=${OUTPUT_DIR:-$out}
choose_folder "$(basename "${config%.y*ml}")" "${arguments[@]}"
say "nodes       $num_nodes${SLURM_JOB_ID:+ of SLURM job $SLURM_JOB_ID}, ${#gpus[@]} GPUs on each"
launch=("$python" -m torch.distributed.run "--nproc-per-node=$ranks_here")
if [ "$uses_torchrun" = no ]; then
  say "processes   1, sft.train here, device=$device"
elif [ "$num_nodes" -eq 1 ]; then
  say "processes   $ranks of sft.train under torchrun here, device=$device"
  launch+=(--standalone)
else
  endpoint=${SLURMD_NODENAME:-$(hostname)}:$((20000 + ${SLURM_JOB_ID%%[!0-9]*} % 10000))
  say "processes   $ranks of sft.train, $ranks_here under torchrun on each node, device=$device; they meet at $endpoint"
  launch+=("--nnodes=$num_nodes" --rdzv-backend=c10d "--rdzv-endpoint=$endpoint" "--rdzv-id=$SLURM_JOB_ID")
fi
say "folder      $folder; to go on later: OUTPUT_DIR=$(printf %q "$folder") and the same words"

# ---- the run -------------------------------------------------------------------------------------

words+=("out=$folder")
train=(sft.train "$config" "${words[@]}")
checking=("$python" -m "${train[@]}" --check --ranks "$ranks")
[ "$check" = no ] || exec "${checking[@]}"
[ "$uses_torchrun" = yes ] || exec "$python" -m "${train[@]}"
# What is wrong is said once, and data is fetched and indexed once, before there are ranks.
found=$("${checking[@]}") || { code=$?; grep '^missing: ' <<<"$found" >&2 || true; exit $code; }

# Ranks get a SIGTERM from here and end together after their step. To torchrun it says to kill them after
# 30 seconds, which a step and a checkpoint may take longer than; so torchrun must not hear it.
launch+=(--signals-to-handle=SIGINT,SIGHUP,SIGQUIT -m)
deaf=(bash -c 'trap "" TERM; exec "$@"' torchrun)
if [ "$num_nodes" -gt 1 ]; then
  names=$(IFS=,; echo "${other_nodes[*]}")
  srun --nodes="${#other_nodes[@]}" --ntasks="${#other_nodes[@]}" --ntasks-per-node=1 --nodelist="$names" --overlap \
    --mem=0 --cpu-bind=none "${deaf[@]}" "${launch[@]}" "${train[@]}" &
fi
"${deaf[@]}" "${launch[@]}" "${train[@]}" &
launcher=$!

# Sends SIGTERM to this node's ranks; they tell those of other nodes.
ask_to_end() {
  local rank
  for rank in $(cat "/proc/$launcher/task/$launcher/children"); do kill -TERM "$rank" || true; done
} 2>/dev/null
trap ask_to_end TERM
# An interrupt reaches torchrun as well.
trap : INT
status=0
wait "$launcher" || status=$?
# A signal ends the wait before torchrun has ended.
while kill -0 "$launcher" 2>/dev/null; do status=0; wait "$launcher" || status=$?; done
# The end of a job that failed ends its other nodes too.
[ "$status" -ne 0 ] || wait
exit "$status"
