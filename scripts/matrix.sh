#!/usr/bin/env bash
# The tests with other Pythons and with the lowest and newest dependencies that pyproject.toml allows:
#   scripts/matrix.sh [lowest|newest] [PYTHON ...]      e.g. scripts/matrix.sh lowest python3.12 python3.13
# Each combination gets an environment of its own under .matrix/; what cannot be had is named and skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
resolution=${1:-newest}; shift || true
[ "$resolution" = lowest ] || [ "$resolution" = newest ] || { echo "expected lowest or newest, found $resolution" >&2; exit 2; }
[ $# -gt 0 ] || set -- python3.11 python3.12 python3.13 python3.14
failed=0
for python in "$@"; do
  command -v "$python" >/dev/null || { echo "$python: not installed, skipped"; continue; }
  folder=".matrix/$(basename "$python")-$resolution"
  "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install -q uv
  flag=$([ "$resolution" = lowest ] && echo lowest-direct || echo highest)
  if ! "$folder/bin/uv" pip install -q --python "$folder/bin/python" --resolution "$flag" -e ".[test]"; then
    echo "$python, $resolution: dependencies cannot be had, skipped"; continue
  fi
  echo "$python, $resolution:"
  "$folder/bin/python" -m pytest -n 2 || failed=1
done
exit $failed
