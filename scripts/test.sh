#!/usr/bin/env bash
# Set up and run the tests, two at a time; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh "[test]"
exec .venv/bin/python -m pytest -n 2 "$@"
