#!/usr/bin/env bash
# Make .venv at the root: idempotent, says what it does. Prints nothing where nothing is to be done.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
usage: bash scripts/setup.sh [--force]

Makes .venv with everything that demo.sh and test.sh need: torch (about 200 MB where the machine offers
a CPU wheel, about 3 GB of CUDA wheels otherwise), transformers, ray, mujoco and smaller ones, together
about 2.2 GB on disk. Does nothing if .venv is up to date.

  --force   make it again
TEXT
}

force=no
for word in "$@"; do
  case "$word" in
    --force) force=yes ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup.sh: unknown word '$word'" >&2; usage >&2; exit 2 ;;
  esac
done

constraints=install_tools/main/constraints.txt
stamp=.venv/.spacetools-stamp
want=$(cat pyproject.toml "$constraints" scripts/setup.sh | sha256sum | cut -d' ' -f1)
# Looks for the packages without loading them, which would take seconds.
look='from importlib.util import find_spec as find
names = "numpy PIL yaml pydantic pyarrow psutil hydra tqdm aiohttp torch transformers safetensors ray mujoco scipy".split()
exit(" ".join(name for name in names if not (find(name) and find(name).origin)) or 0)'
if [ "$force" = no ] && [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
  missing=$(.venv/bin/python -c "$look" 2>&1) && exit 0
  echo "setup.sh: .venv is damaged (${missing##*$'\n'}); make it again: bash scripts/setup.sh --force" >&2
  exit 1
fi
trap 'echo "setup.sh: interrupted; the same command goes on" >&2; exit 130' INT

find_python() {
  for name in python3.11 python3.12 python3.13 python3; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "setup.sh: no Python >= 3.11 found; install python3.11 and its venv module" >&2
  exit 1
}

python=$(find_python)
echo "setup: making .venv with $("$python" --version) (about 2.2 GB on disk; torch is the largest download)"
if [ ! -x .venv/bin/pip ] || [ "$force" = yes ]; then
  rm -rf .venv
  if ! "$python" -m venv .venv; then
    rm -rf .venv
    echo "setup.sh: '$python -m venv' failed; on Debian: apt-get install python3-venv" >&2
    exit 1
  fi
fi
# uv does not read pip's settings; without them it would fetch 3 GB of CUDA.
settings=$("$python" -I toolshed/environments/pip_settings.py .venv/bin/python)
eval "$settings"

if uv=$(command -v uv) || { .venv/bin/pip install --quiet uv 2>/dev/null && uv=.venv/bin/uv; }; then
  install() { "$uv" pip install --quiet --compile-bytecode --python .venv/bin/python "$@"; }
else
  echo "setup: uv cannot be had, pip does it (slower)"
  install() { .venv/bin/python -m pip install --quiet "$@"; }
fi

echo "setup: torch, asked for first and alone, so that the machine's own wheel is taken"
install 'torch>=2.13,<2.14' || { echo "setup.sh: torch 2.13 could not be installed; is the network up?" >&2; exit 1; }
echo "setup: the rest"
install -c "$constraints" -e '.[all,train,dev]' || { echo "setup.sh: packages could not be installed; is the network up?" >&2; exit 1; }
echo "$want" >"$stamp"
echo "setup: done; source .venv/bin/activate puts toolshed and python on your path"
