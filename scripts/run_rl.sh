#!/usr/bin/env bash
# Reinforcement learning with live tools, on a plain machine or in a SLURM job; docs/TRAINING.md and
# --help say how.
#SBATCH --job-name=spacetools-rl
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

# sbatch runs a copy of this file, from a folder of its own.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
[ -f "$root/scripts/allocation.sh" ] || root=${SLURM_SUBMIT_DIR:-$root}
if [ ! -f "$root/scripts/allocation.sh" ]; then
  echo "run_rl: $root is not the repository's root; submit from there" >&2
  exit 2
fi
cd "$root"
# Read by allocation.sh.
# shellcheck disable=SC2034
stage=rl check=no
# shellcheck source=scripts/allocation.sh
. scripts/allocation.sh
# shellcheck source=scripts/words.sh
. scripts/words.sh

usage() {
  cat <<TEXT
usage: bash scripts/run_rl.sh [CONFIG] [--check] [key=value ...]
       sbatch [options] scripts/run_rl.sh [CONFIG] ...      (from the repository's root)

Trains a checkpoint that calls tools while it answers; without CONFIG step 4 of the recipe with the
tools of VERSION. CONFIG is a name in configs/rl (v1, v1_paper, v1_code, point, demo ...) or a YAML file.
Keys are those of rl.train: .venv/bin/python -m rl.train --help. Paths are relative to the repository's root.

  --check          print the plan and start nothing

  VERSION          v1 (11 tools, without it) or v2 (17)
  SFT_CHECKPOINT   checkpoint to start from; model=... does the same
  ROBOREFER_MODEL  folder of RoboRefer's weights; without it the tools take them from the hub
  DEPTH_CHECKPOINT depth_pro.pt; likewise
  TOOL_CONFIG      other tools: a word such as v1_4gpus, or a tool YAML; tools.config=... does the same
  OUTPUT_DIR       folder of the run; without it a new experiments/rl_CONFIG_TIME. A run goes on, in another
                   job too, with its folder in OUTPUT_DIR and the same words
  SAVE_FREQ        steps between checkpoints; save.every=... does the same
  GPUS_PER_NODE    GPUs used on each node (NUM_GPUS is the same); must be as many as are visible, and
                   all of them are used without it. 0 is a machine without
  TRAIN_GPUS       how many of this node's GPUs the learner gets, and
  ENGINE_GPUS      how many serve the policy, an engine on each (engine.tensor_parallel=: on so many); the
                   rest serve tools. Without them half of this node's each, or on a single node half each of
                   what the tools do not need. With engine.colocated=true the learner's one GPU serves both
TEXT
}

# ---- words ---------------------------------------------------------------------------------------

arguments=("$@") own_zero=no
read_words "$@"
choose_config
take SFT_CHECKPOINT model
take TOOL_CONFIG tools.config
take SAVE_FREQ save.every
[ -z "${own[learner.shard.zero]+set}" ] || own_zero=yes
for key in engine.gpus engine.servers; do
  [ -z "${own[$key]+set}" ] || die "$key=${own[$key]}: ENGINE_GPUS says which GPUs serve the policy; leave $key out"
done

# ---- what there is -------------------------------------------------------------------------------

bash scripts/setup.sh
export PYTHONPATH="$root"
python=$root/.venv/bin/python

find_nodes
find_gpus
chosen=$("$python" -m rl.division "$config" "${words[@]}") || exit
policy='' device='' tools='' out='' tensor_parallel='' colocated=''
while IFS= read -r line; do
  case "${line%%=*}" in
    policy | device | tools | out | tensor_parallel | colocated) printf -v "${line%%=*}" %s "${line#*=}" ;;
  esac
done <<<"$chosen"
room=$("$python" -m toolshed.serving.room "$tools") || exit
read -r host needed <<<"$room"

# Of this node's GPUs the tools leave so many.
left=${#gpus[@]}
if [ "$num_nodes" -eq 1 ] || [ "$host" != ray ]; then left=$((left - needed)); fi
if [ "$device" = cpu ]; then
  num_train=${TRAIN_GPUS:-0} num_engine=${ENGINE_GPUS:-0}
elif [ "$colocated" = true ]; then
  num_train=${TRAIN_GPUS:-1} num_engine=${ENGINE_GPUS:-0}
  [ "$num_train" -eq 1 ] && [ "$num_engine" -eq 0 ] \
    || die "TRAIN_GPUS=$num_train and ENGINE_GPUS=$num_engine, and engine.colocated=true puts learner and engine" \
      "on one GPU; leave both out"
elif [ "$policy" = sglang ]; then
  num_train=${TRAIN_GPUS:-$((left - ${ENGINE_GPUS:-$((left / 2 / tensor_parallel * tensor_parallel))}))}
  num_engine=${ENGINE_GPUS:-$(((left - num_train) / tensor_parallel * tensor_parallel))}
  if [ "$num_train" -lt 1 ] || [ "$num_engine" -lt 1 ]; then
    [ ${#gpus[@]} -gt 0 ] || die "no GPU is seen here, and $config needs some; on a login node," \
      ".venv/bin/python -m rl.train $config --check says the plan"
    die "learner and engine need a GPU each, and the tools of $tools need $needed of the ${#gpus[@]} GPUs on" \
      "$num_nodes node(s); give two nodes, a TOOL_CONFIG with fewer replicas (v1_4gpus), or TRAIN_GPUS and ENGINE_GPUS"
  fi
else
  num_train=${TRAIN_GPUS:-1} num_engine=${ENGINE_GPUS:-0}
fi
[ "$policy" = sglang ] || [ "$num_engine" -eq 0 ] || die "ENGINE_GPUS=$num_engine, and policy=$policy has no engine"
[ $((num_engine % tensor_parallel)) -eq 0 ] \
  || die "ENGINE_GPUS=$num_engine cannot be shared out to engines on engine.tensor_parallel=$tensor_parallel GPUs" \
    "each; give a multiple of it"
rl_gpus=$((num_train + num_engine))
[ "$rl_gpus" -le ${#gpus[@]} ] \
  || die "the learner is to get TRAIN_GPUS=$num_train and engines ENGINE_GPUS=$num_engine, but ${#gpus[@]} GPUs are" \
    "used on this node; give fewer, or device=cpu"
share_gpus rl_gpus 0
train_gpus=$(IFS=,; echo "${gpus[*]:0:num_train}")
engine_gpus=$(IFS=,; echo "${gpus[*]:num_train:num_engine}")
places=(--gpus $((${#gpus[@]} - rl_gpus)))
for ((node = 1; node < num_nodes; node++)); do places+=(--gpus ${#gpus[@]}); done
[ "$needed" -eq 0 ] || "$python" -m toolshed.serving.room "$tools" "${places[@]}" >/dev/null || exit

# Numbers within what the learner's process sees: its ranks take the first, engines the next. So a run
# goes on with other GPUs of a node.
if [ "$num_engine" -gt 0 ]; then
  numbers=$(seq -s, "$num_train" $((rl_gpus - 1)))
  words+=("engine.servers=$((num_engine / tensor_parallel))" "engine.gpus=[$numbers]")
elif [ "$colocated" = true ]; then
  words+=(engine.servers=1 'engine.gpus=[0]')
fi
learner=("$python" -m)
if [ "$num_train" -gt 0 ]; then
  # On one GPU too: ZeRO keeps weights in float32 beside those in bfloat16.
  [ "$own_zero" = yes ] || words+=(learner.shard.zero=2)
  learner=("$python" -m torch.distributed.run --standalone "--nproc-per-node=$num_train" -m)
fi
uses_cluster=no
if [ "$host" = ray ] && { [ -n "${SLURM_JOB_NODELIST:-}" ] || [ ${#gpus[@]} -gt 0 ]; }; then uses_cluster=yes; fi

# ---- the plan ------------------------------------------------------------------------------------

OUTPUT_DIR=${OUTPUT_DIR:-$out}
choose_folder "$(basename "${config%.y*ml}")" "${arguments[@]}"
say "nodes       $num_nodes${SLURM_JOB_ID:+ of SLURM job $SLURM_JOB_ID}, ${#gpus[@]} GPUs on each"
say "learner     $num_train GPUs of this node${train_gpus:+ ($train_gpus)}"
if [ "$colocated" = true ]; then
  say "engines     one, on the GPU of the learner"
elif [ "$policy" = sglang ]; then
  say "engines     $num_engine GPUs of this node${engine_gpus:+ ($engine_gpus)}"
else
  say "engines     none: the learner's process plays"
fi
say_tools learner rl.train
if [ "$needed" -gt 0 ]; then
  need_weights ROBOREFER_MODEL
  need_weights DEPTH_CHECKPOINT
fi
say "folder      $folder; to go on later: OUTPUT_DIR=$(printf %q "$folder") and the same words"

# ---- the run -------------------------------------------------------------------------------------

words+=("out=$folder")
export CUDA_VISIBLE_DEVICES=$policy_gpus
ranks=$((num_train > 1 ? num_train : 1))
checking=("$python" -m rl.train "$config" "${words[@]}" --check --ranks "$ranks")
# The GPUs of tools in a cluster were counted above; they need not be seen from here.
[ "$uses_cluster" = no ] || checking=(env TOOLSHED_CLUSTER=to-be-started "${checking[@]}")
[ "$check" = no ] || exec "${checking[@]}"
command=("${learner[@]}" rl.train "$config" "${words[@]}")
[ "$uses_cluster" = yes ] || exec "${command[@]}"
# What is wrong is said, and data is fetched, before Ray starts anywhere.
found=$("${checking[@]}" --fetch) || { code=$?; grep '^missing: ' <<<"$found" >&2 || true; exit $code; }
hosts=(--hosts localhost)
[ -z "${SLURM_JOB_NODELIST:-}" ] || hosts=()
exec bash scripts/ray_cluster.sh "${hosts[@]}" --gpus-here "$tool_gpus" -- "${command[@]}"
