#!/usr/bin/env bash
# What state the environments are in; fails where one that was made does not work.
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-}" in
  -h | --help)
    echo "usage: bash test_envs.sh [NAME ...]"
    echo
    echo "  one row per environment (of these names alone): state, versions, what is missing, what to type"
    exit 0
    ;;
esac
bash scripts/setup.sh
exec .venv/bin/python -m toolshed.cli env doctor "$@"
