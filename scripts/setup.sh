#!/usr/bin/env bash
# An environment in .venv with the package, installed once; extras as arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "deepbackmap needs Python 3.11 or newer, found $("$python" --version)" >&2; exit 2; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
constraints=()
# Without an NVIDIA driver the CPU build of PyTorch is enough, and much smaller.
command -v nvidia-smi >/dev/null || constraints=(-c constraints.txt)
.venv/bin/python -m pip install -q "${constraints[@]}" -e ".${1:-}"
