"""Put a trained model into the package: weights, sampling defaults, measured scores.

    python tools/package_model.py runs/points ps-two-bead-points --default \\
        --defaults steps=4 sweeps=0 relaxation=20 cold_start=0.85 --scores "568 K=0.1" "313 K=0.1"

The weights are those of the run's ``model.safetensors``, in half precision. A file in place of the
run's folder is packaged with the defaults and scores that it has, unless others are given.

A model that learned from chains of several tacticities has no pattern of its own; ``--hands-of``
keeps that of a model of one tacticity, which is what users are told is assumed.

Models of before there were distances of beads get them from the frames that they were trained on;
their weights stay as they are, bit by bit:

    python tools/package_model.py src/deepbackmap/packaged/models/NAME.safetensors NAME \\
        --distances topol.top aa.gro train_568K_aa.xtc :12
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from deepbackmap.api.train import READING
from deepbackmap.evaluation.plausible import known_distances
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile, map_positions
from deepbackmap.methods.base import Model
from deepbackmap.model.file import load_model, save_model
from deepbackmap.model.header import read_spec
from deepbackmap.system.whole import make_whole

MODELS = Path(__file__).resolve().parents[1] / "src" / "deepbackmap" / "packaged" / "models"


def pairs(items: list[str]) -> dict[str, object]:
    """``key=value`` with YAML values."""
    return {k: yaml.safe_load(v) for k, v in (item.split("=", 1) for item in items)}


def distances(
    mapping: MappingFile, topology: str, structure: str, trajectory: str, frames: str
) -> dict[str, tuple[float, float]]:
    """Distances of bonded beads in frames of atoms, as a training finds them (nm)."""
    system = mapping.resolve(read_topology(topology))
    with read_frames(structure, trajectory, frames=frames) as source:
        beads = [
            replace(
                frame,
                positions=map_positions(
                    system, make_whole(frame.positions, frame.box, system.topology)
                ),
            )
            for frame in source
        ]
    return known_distances((system, frame) for frame in beads)


def main() -> None:
    """Copy the model with its defaults and scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run, or a model file")
    parser.add_argument("name")
    parser.add_argument("--defaults", nargs="*")
    parser.add_argument("--scores", nargs="*")
    parser.add_argument(
        "--distances",
        nargs=4,
        metavar=("TOPOLOGY", "STRUCTURE", "TRAJECTORY", "FRAMES"),
        help="atoms of the training, for the distances of their beads",
    )
    parser.add_argument("--default", action="store_true", help="used where no model is named")
    parser.add_argument(
        "--hands-of",
        type=Path,
        metavar="MODEL",
        help="model whose pattern of hands and way to read them from beads are kept",
    )
    arguments = parser.parse_args()
    folder = arguments.run.is_dir()
    model = load_model(arguments.run / "model.safetensors" if folder else arguments.run)
    spec = model.spec
    if arguments.defaults is not None:
        spec = replace(spec, defaults=pairs(arguments.defaults))
    if arguments.scores is not None:
        provenance = {**spec.provenance, "scores": pairs(arguments.scores)}
        spec = replace(spec, provenance=provenance)
    if arguments.distances is not None:
        found = distances(MappingFile.from_text(spec.mapping), *arguments.distances)
        spec = replace(spec, bead_distances=found)
    if arguments.hands_of is not None:
        other = read_spec(arguments.hands_of)
        said = {k: v for k, v in spec.provenance.items() if k != READING}
        if READING in other.provenance:
            said[READING] = other.provenance[READING]
        spec = replace(
            spec, handedness=other.handedness, bead_hands=other.bead_hands, provenance=said
        )
    MODELS.mkdir(parents=True, exist_ok=True)
    save_model(Model(spec, model.generator), MODELS / f"{arguments.name}.safetensors", half=True)
    if arguments.default:
        (MODELS / "default.txt").write_text(f"{arguments.name}\n")


if __name__ == "__main__":
    main()
