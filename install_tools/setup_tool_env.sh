#!/usr/bin/env bash
# Make one tool environment under a name of one's own; asks nothing.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: bash install_tools/setup_tool_env.sh ENV TOOL [--cpu] [--force] [--dry-run] [--python PATH]

  ENV    what to call it; tool configs name it as 'environment: ENV'
  TOOL   a folder of install_tools (bbox depth graspgen roborefer sam2 vlm) or a tool family

  example: bash install_tools/setup_tool_env.sh spacetools-tool-bbox bbox
TEXT
}

for word in "$@"; do
  case "$word" in -h | --help) usage; exit 0 ;; esac
done
if [ $# -lt 2 ]; then
  usage >&2
  exit 2
fi
name=$1 tool=$2
shift 2
bash "$root/scripts/setup.sh"
# From the repository, and without changing the caller's folder: relative paths in "$@" are theirs.
PYTHONPATH="$root" "$root/.venv/bin/python" -m toolshed.cli env create "$tool" --name "$name" "$@"
