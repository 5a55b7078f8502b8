#!/usr/bin/env bash
# The package and its tests with other Pythons and with the lowest and newest dependencies that
# pyproject.toml allows; what follows -- goes to pytest (all tests by default):
#   scripts/matrix.sh [lowest|newest] [PYTHON ...] [-- PYTEST ARGUMENTS]
#   scripts/matrix.sh newest python3.12 python3.13 -- tests/test_layers.py tests/test_model.py
# Each combination gets an environment of its own under .matrix/, made by uv (pip install uv), which
# knows how to find the lowest versions of what pyproject.toml names. What cannot be had is named and
# skipped. The newest PyTorch is the one of constraints.txt where there is no NVIDIA driver.
# PROCESSES: of pytest, 2 by default.
set -euo pipefail
cd "$(dirname "$0")/.."
resolution=${1:-newest}; shift || true
case "$resolution" in
  lowest) bounds=(--resolution lowest-direct) ;;
  newest) bounds=(); command -v nvidia-smi >/dev/null || bounds=(-c constraints.txt) ;;
  *) echo "expected lowest or newest, found $resolution" >&2; exit 2 ;;
esac
command -v uv >/dev/null || { echo "expected uv to make environments with, found none: pip install uv" >&2; exit 2; }
pythons=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do pythons+=("$1"); shift; done
[ "${1:-}" != -- ] || shift
[ ${#pythons[@]} -gt 0 ] || pythons=(python3.11 python3.12 python3.13 python3.14)
export OMP_WAIT_POLICY=PASSIVE MPLBACKEND=Agg
failed=0
for python in "${pythons[@]}"; do
  command -v "$python" >/dev/null || { echo "$python: not installed, skipped"; continue; }
  version=$("$python" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))')
  folder=".matrix/$version-$resolution"
  [ -x "$folder/bin/python" ] || uv venv -q -p "$(command -v "$python")" "$folder"
  if ! VIRTUAL_ENV="$PWD/$folder" uv pip install -q "${bounds[@]}" -e ".[test]"; then
    echo "Python $version, $resolution: dependencies cannot be had, skipped"; continue
  fi
  echo "== Python $version, $resolution: models, demo, tests"
  work=$(mktemp -d)
  "$folder/bin/deepbackmap" models || failed=1
  "$folder/bin/deepbackmap" demo -q -o "$work/demo" || failed=1
  rm -rf "$work"
  "$folder/bin/python" -m pytest -n "${PROCESSES:-2}" "$@" || failed=1
done
exit $failed
