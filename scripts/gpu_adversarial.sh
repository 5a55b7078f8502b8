#!/usr/bin/env bash
# The paper's method on a GPU that is there for a quarter of an hour: set up, train until the time is
# nearly over with a checkpoint every minute, then figures. The same command goes on from where the
# last one stopped, on another machine too if the folder of the run came along.
#
#   scripts/gpu_adversarial.sh [PRESET] [MINUTES] [RUN] [KEY=VALUE ...]
#
# PRESET   adversarial-small (default), or paper
# MINUTES  for everything; the last 3 are kept for the figures (default 14)
# RUN      folder of the run (default runs/PRESET)
# The data are those of `deepbackmap data fetch`, in the folder that DEEPBACKMAP_DATA names. PYTHON names
# an environment that has the package already (no network is needed then).
set -euo pipefail
begun=$(date +%s)
cd "$(dirname "$0")/.."
preset=${1:-adversarial-small}
minutes=${2:-14}
run=${3:-runs/$preset}
shift $(($# < 3 ? $# : 3))
data=${DEEPBACKMAP_DATA:?expected the folder of the data, as deepbackmap data fetch makes it}/sps
reserve=${RESERVE:-180}
device=${DEVICE:-auto}

if [ -z "${PYTHON:-}" ]; then
  scripts/setup.sh
  PYTHON=.venv/bin/python
fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
deepbackmap=("$PYTHON" -c 'from deepbackmap.cli.main import run; run()')
"$PYTHON" -c 'import torch; print("device:", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")'

left=$((begun + minutes * 60 - $(date +%s) - reserve))
[ "$left" -gt 0 ] || { echo "no time is left to train in" >&2; exit 2; }
# An interrupt ends a run after the iteration it is in, with a checkpoint.
set +e
timeout --signal=INT --kill-after=60 "$left" "${deepbackmap[@]}" train "$preset" --run "$run" \
  --device "$device" -q \
  data.topology="$data/topol.top" data.structure="$data/aa.gro" \
  data.trajectory="$data/train_568K_aa.xtc" data.mapping=ps-two-bead \
  data.train=0:12 data.validate=12:13 data.temperature=568 \
  training.checkpoint_minutes=1 training.log_every=10 training.validate_every=250 "$@"
code=$?
set -e
# 124: the time was over; 130: interrupted otherwise
case $code in 0 | 124 | 130) ;; *) exit "$code" ;; esac

"$PYTHON" tools/training_log.py "$run" --parts 6 | tee "$run/critic.txt"
tail -n 2 "$run/metrics.jsonl"
left=$((begun + minutes * 60 - $(date +%s)))
[ "$left" -gt 20 ] || { echo "no time is left for figures"; exit 0; }
timeout "$left" "$PYTHON" benchmarks/scan.py --model "$run/model.safetensors" --frames "${FRAMES:-2}" \
  --temperatures 568,313 --sweeps 2 --candidates 8 --choices lowest --relaxation 0 \
  | tee "$run/figures.txt" || echo "the time was over before all figures were there"
