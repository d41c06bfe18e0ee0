#!/usr/bin/env bash
# Make the environments of SpaceTools. Today all rooms and the light tools share one; the
# environments of the real tool models and of sglang are separate and not part of this version.
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-all}" in
  all | sft | rl) exec bash scripts/setup.sh "${@:2}" ;;
  tools | sglang)
    echo "setup_envs.sh: the '$1' environment is not available yet; 'all' makes what there is" >&2
    exit 2
    ;;
  -h | --help) echo "usage: bash setup_envs.sh [all|sft|rl] [--force]" ;;
  *)
    echo "setup_envs.sh: unknown environment '$1'; choose all, sft or rl" >&2
    exit 2
    ;;
esac
