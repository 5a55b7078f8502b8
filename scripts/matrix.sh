#!/usr/bin/env bash
# The package and its tests with other Pythons and with the lowest and newest dependencies that
# pyproject.toml allows; what follows -- goes to pytest (all tests by default):
#   scripts/matrix.sh [lowest|newest] [PYTHON ...] [-- PYTEST ARGUMENTS]
#   scripts/matrix.sh newest python3.12 python3.13 -- tests/test_layers.py tests/test_model.py
# Each combination gets an environment of its own under .matrix/; what cannot be had is named and
# skipped. Without an NVIDIA driver the build of PyTorch is the one of constraints.txt, when newest.
set -euo pipefail
cd "$(dirname "$0")/.."
resolution=${1:-newest}; shift || true
[ "$resolution" = lowest ] || [ "$resolution" = newest ] || { echo "expected lowest or newest, found $resolution" >&2; exit 2; }
pythons=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do pythons+=("$1"); shift; done
[ "${1:-}" != -- ] || shift
[ ${#pythons[@]} -gt 0 ] || pythons=(python3.11 python3.12 python3.13 python3.14)
export OMP_WAIT_POLICY=PASSIVE MPLBACKEND=Agg
mkdir -p .matrix
bounds=()
if [ "$resolution" = lowest ]; then
  # every direct dependency at the bound that pyproject.toml names
  python3 - > .matrix/lowest.txt <<'PYTHON'
import re
from pathlib import Path

text = Path("pyproject.toml").read_text().partition("[project.scripts]")[0]
for name, bound in sorted(set(re.findall(r'"([\w-]+)>=([\d.]+)"', text))):
    if name != "hatchling":
        print(f"{name}=={bound}")
PYTHON
  bounds=(-c .matrix/lowest.txt)
elif ! command -v nvidia-smi >/dev/null; then
  bounds=(-c constraints.txt)
fi
failed=0
for python in "${pythons[@]}"; do
  command -v "$python" >/dev/null || { echo "$python: not installed, skipped"; continue; }
  version=$("$python" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))')
  folder=".matrix/$version-$resolution"
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
  if ! "$folder/bin/python" -m pip install -q "${bounds[@]}" -e ".[test]"; then
    echo "Python $version, $resolution: dependencies cannot be had, skipped"; continue
  fi
  echo "== Python $version, $resolution: models, demo, tests"
  work=$(mktemp -d)
  "$folder/bin/deepbackmap" models || failed=1
  "$folder/bin/deepbackmap" demo -q -o "$work/demo" || failed=1
  rm -rf "$work"
  "$folder/bin/python" -m pytest -n 2 "$@" || failed=1
done
exit $failed
