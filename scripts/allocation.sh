# What a run may use and where it goes, on a plain machine or inside a SLURM allocation. Sourced, from
# the root, by a script that has set 'stage', its word in names of folders, and 'check' (yes: make none).
# shellcheck shell=bash disable=SC2034,SC2154

say() { echo "run_$stage: $*"; }
die() { echo "run_$stage: $*" >&2; exit 2; }

# need_number NAME VALUE
need_number() { [[ $2 =~ ^(0|[1-9][0-9]{0,4})$ ]] || die "$1=$2: a whole number is needed"; }

# Sets num_nodes: machines of this job, this one included; and other_nodes, the names of the others.
find_nodes() {
  local listed name own found=no is_here
  num_nodes=1 other_nodes=()
  [ -n "${SLURM_JOB_NODELIST:-}" ] || return 0
  [ "${SLURM_STEP_NUM_TASKS:-1}" -le 1 ] \
    || die "srun has started this $SLURM_STEP_NUM_TASKS times; start it once, it uses all nodes by itself"
  listed=$(scontrol show hostnames "$SLURM_JOB_NODELIST") \
    || die "scontrol cannot list the nodes of job ${SLURM_JOB_ID:-?}"
  num_nodes=$(wc -l <<<"$listed")
  while IFS= read -r name; do
    is_here=no
    for own in "${SLURMD_NODENAME:-}" "$(hostname)" "$(hostname -s)"; do
      [ "$name" != "$own" ] || is_here=yes
    done
    if [ "$is_here" = yes ]; then found=yes; else other_nodes+=("$name"); fi
  done <<<"$listed"
  [ "$found" = yes ] || die "$(hostname) is no node of job ${SLURM_JOB_ID:-?} ($SLURM_JOB_NODELIST);" \
    "start this on the first of them: srun --overlap --nodes=1 --ntasks=1 --pty bash scripts/run_$stage.sh ..."
}

# Sets gpus: the GPUs of this node that are used, as CUDA_VISIBLE_DEVICES names them. All that are
# visible, of which GPUS_PER_NODE or NUM_GPUS, where given, must be the number.
find_gpus() {
  local asked name listed=''
  gpus=()
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    case "$CUDA_VISIBLE_DEVICES" in
      '' | -1 | NoDevFiles) ;;
      *) IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES" ;;
    esac
  elif command -v nvidia-smi >/dev/null; then
    listed=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null) \
      || { say "note: nvidia-smi is here and lists no GPU" >&2; listed=''; }
    [ -z "$listed" ] || mapfile -t gpus <<<"$listed"
  fi
  for name in GPUS_PER_NODE NUM_GPUS EVAL_GPUS TRAIN_GPUS ENGINE_GPUS RANKS; do
    [ -z "${!name:-}" ] || need_number "$name" "${!name}"
  done
  asked=${GPUS_PER_NODE:-${NUM_GPUS:-}}
  [ "$asked" = "${NUM_GPUS:-$asked}" ] \
    || die "GPUS_PER_NODE=$GPUS_PER_NODE and NUM_GPUS=$NUM_GPUS are two names of one number; give one of them"
  if [ -n "$asked" ]; then
    name=${GPUS_PER_NODE:+GPUS_PER_NODE}
    [ "$asked" -eq ${#gpus[@]} ] || die "${name:-NUM_GPUS}=$asked, but ${#gpus[@]} GPUs are visible here;" \
      "give that number, or make as many visible with CUDA_VISIBLE_DEVICES"
  elif [ "${SLURM_GPUS_ON_NODE:-${#gpus[@]}}" -ne ${#gpus[@]} ]; then
    die "SLURM gave this node $SLURM_GPUS_ON_NODE GPUs, but ${#gpus[@]} are visible here;" \
      "give GPUS_PER_NODE=${#gpus[@]} if that is meant"
  fi
}

# share_gpus NAME DEFAULT: the first $NAME of this node's GPUs (DEFAULT where it is not set) serve the
# policy, the rest the tools. Sets num_policy, policy_gpus and tool_gpus.
share_gpus() {
  num_policy=${!1:-$2}
  [ "$num_policy" -le ${#gpus[@]} ] || die "$1=$num_policy, but ${#gpus[@]} GPUs are used on this node"
  policy_gpus=$(IFS=,; echo "${gpus[*]:0:num_policy}")
  tool_gpus=$(IFS=,; echo "${gpus[*]:num_policy}")
}

# choose_folder VERSION WORD...: sets folder to OUTPUT_DIR, or to a new experiments/STAGE_VERSION_TIME.
# The same words in the same SLURM job find the same folder, so that a job that SLURM starts again goes on.
choose_folder() {
  local version=$1 record=''
  shift
  folder=${OUTPUT_DIR:-}
  [ -z "$folder" ] || return 0
  if [ -n "${SLURM_JOB_ID:-}" ]; then
    record=$(printf '%s\n' "$version" "$@" | cksum)
    record=experiments/.jobs/${SLURM_CLUSTER_NAME:-slurm}_${SLURM_JOB_ID}_${stage}_${record%% *}
    if [ -s "$record" ]; then
      folder=$(cat "$record")
      return 0
    fi
  fi
  folder=experiments/${stage}_${version}_$(date +%Y%m%d_%H%M%S)
  [ "$check" = no ] || return 0
  mkdir -p experiments
  # Jobs of an array start in the same second.
  until mkdir "$folder" 2>/dev/null; do
    [ -d "$folder" ] || die "$folder cannot be made; choose another place with OUTPUT_DIR"
    sleep 1
    folder=experiments/${stage}_${version}_$(date +%Y%m%d_%H%M%S)
  done
  if [ -n "$record" ]; then
    mkdir -p "${record%/*}"
    printf '%s\n' "$folder" >"$record.draft"
    mv "$record.draft" "$record"
  fi
}

# say_tools OWNER COMMAND: the plan's lines about tools, which 'local' ones share OWNER's process, and about
# the processes that COMMAND is started beside.
say_tools() {
  local theirs="${tool_gpus:-none} of this node"
  case "$host" in
    none) say "tools       none" ;;
    local) say "tools       $tools, in the process of the $1" ;;
    ray)
      [ "$num_nodes" -eq 1 ] || theirs="$theirs, and all of the other nodes"
      say "tools       $tools, $needed GPUs needed; theirs are $theirs" ;;
  esac
  if [ "$uses_cluster" = yes ]; then
    say "processes   Ray on each node (scripts/ray_cluster.sh), $2 here"
  else
    say "processes   $2 here"
    [ "$num_nodes" -eq 1 ] || say "note: the other nodes have nothing to do; one suffices (--nodes=1)"
  fi
}

# need_weights NAME: what a variable says about weights must be there, and is made absolute.
need_weights() {
  local value=${!1:-}
  [ -n "$value" ] || { say "weights     $1 is not set: the tools take their own default from the hub"; return 0; }
  [ -e "$value" ] || die "$1=$value does not exist; give the file or folder of the weights, or unset it"
  export "$1=$(realpath "$value")"
  say "weights     $1=${!1}"
}
