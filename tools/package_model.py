"""Put a trained model into the package: weights, sampling defaults, measured scores, its log.

    python tools/package_model.py runs/points ps-two-bead-points --default \\
        --defaults steps=4 sweeps=0 relaxation=20 cold_start=0.85 --scores "568 K=0.1" "313 K=0.1"

The weights are those of the run's ``model.safetensors``; nothing about them is changed. The
metrics log and the configuration are copied beside the model.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import yaml

from deepbackmap.methods.base import Model
from deepbackmap.model.file import load_model, save_model

MODELS = Path(__file__).resolve().parents[1] / "src" / "deepbackmap" / "packaged" / "models"
LOGS = Path(__file__).resolve().parents[1] / "docs" / "training-logs"


def pairs(items: list[str]) -> dict[str, object]:
    """``key=value`` with YAML values."""
    return {k: yaml.safe_load(v) for k, v in (item.split("=", 1) for item in items)}


def main() -> None:
    """Copy the model with its defaults and scores, and the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--defaults", nargs="*", default=[])
    parser.add_argument("--scores", nargs="*", default=[])
    parser.add_argument("--default", action="store_true", help="used where no model is named")
    arguments = parser.parse_args()
    model = load_model(arguments.run / "model.safetensors")
    provenance = {**model.spec.provenance, "scores": pairs(arguments.scores)}
    spec = replace(model.spec, provenance=provenance, defaults=pairs(arguments.defaults))
    MODELS.mkdir(parents=True, exist_ok=True)
    save_model(Model(spec, model.generator), MODELS / f"{arguments.name}.safetensors")
    if arguments.default:
        (MODELS / "default.txt").write_text(f"{arguments.name}\n")
    LOGS.mkdir(parents=True, exist_ok=True)
    shutil.copy(arguments.run / "metrics.jsonl", LOGS / f"{arguments.name}.jsonl")


if __name__ == "__main__":
    main()
