#!/usr/bin/env bash
# Rates on a GPU that is there for a quarter of an hour: the same structures as the compiled engine,
# steps/s and atoms/s of 1, 8 and 171 boxes and of 100 small frames, memory, and a training step.
#
#   scripts/gpu_rates.sh [FOLDER]
#
# FOLDER   where the figures go (default gpu-rates); each part has a file, written as it goes
# DEVICE   cuda (default), or cpu for a run without a card
# SMOKE    1: seconds instead of minutes
# The boxes are those of `deepbackmap data fetch` in the folder that DEEPBACKMAP_DATA names, else the
# packaged melt. PYTHON names an environment that has the package already (no network is needed then).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-rates}
device=${DEVICE:-cuda}
smoke=()
[ "${SMOKE:-0}" = 1 ] && smoke=(--smoke)
if [ -z "${PYTHON:-}" ]; then
  scripts/setup.sh
  PYTHON=.venv/bin/python
fi
export PYTHONPATH="$PWD/src:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
case $device in
  cuda)
    "$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"'
    tensors=cuda
    ;;
  *) tensors=cpu-torch ;;
esac

# A part that fails or runs out of its time does not keep the others from running.
failed=0
part() {
  local name=$1 seconds=$2
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" 2>&1 | tee "$out/$name.txt" || { echo "$name: failed"; failed=1; }
}

for what in steps frames atoms same; do
  part "$what" 120 "$PYTHON" benchmarks/card.py --device "$tensors" --parts "$what" "${smoke[@]}"
done
part training 180 "$PYTHON" benchmarks/training_step.py --device "$device" --precision auto "${smoke[@]}"
exit "$failed"
