#!/usr/bin/env bash
# Set up and turn the packaged coarse-grained melt into atoms: scripts/demo.sh [FOLDER]
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
"$here/scripts/setup.sh"
exec "$here/.venv/bin/deepbackmap" demo -o "${1:-demo}"
