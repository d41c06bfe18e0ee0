# The words and variables of a training script: a config, --check and key=value. Sourced, after
# allocation.sh, by a script that has set 'stage' and has a function usage.
# shellcheck shell=bash disable=SC2034,SC2154

# read_words WORD...: sets config (empty where none was given), words, own (key -> value of those words),
# check, and OUTPUT_DIR where out= says it.
read_words() {
  local given_out='' own_out=no
  config='' words=()
  declare -gA own=()
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage; exit 0 ;;
      --check) check=yes ;;
      -*) die "unknown option $1; see --help" ;;
      [A-Z_]*[A-Z]=*) die "$1 is a variable: write it before the command, $1 bash scripts/run_$stage.sh ..." ;;
      out=*) given_out=${1#out=} own_out=yes ;;
      *=*)
        own[${1%%=*}]=${1#*=}
        words+=("$1") ;;
      *)
        [ -z "$config" ] || die "two configs are given, $config and $1; give one"
        config=$1 ;;
    esac
    shift
  done
  if [ "$own_out" = yes ]; then
    [ "${OUTPUT_DIR:-$given_out}" = "$given_out" ] \
      || die "OUTPUT_DIR=$OUTPUT_DIR and out=$given_out are two folders; give one of them"
    OUTPUT_DIR=$given_out
  fi
}

# Sets config to VERSION, or to v1, where no word did.
choose_config() {
  case "${VERSION:-v1}" in
    v1 | v2) ;;
    *) die "VERSION=$VERSION is neither v1 nor v2; for other tools give TOOL_CONFIG" ;;
  esac
  if [ -z "$config" ]; then
    config=${VERSION:-v1}
  elif [ -n "${VERSION:-}" ] && [[ $(basename "$config") != "$VERSION"* ]]; then
    die "VERSION=$VERSION and the config $config are two tool sets; give one of them"
  fi
}

# take NAME KEY: a variable that says what a key says.
take() {
  local value=${!1:-} key=$2
  [ -n "$value" ] || return 0
  [ "${own[$key]-$value}" = "$value" ] || die "$1=$value and $key=${own[$key]} contradict each other; give one of them"
  [ -n "${own[$key]+set}" ] || words+=("$key=$value")
  own[$key]=$value
}
