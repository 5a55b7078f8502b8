"""Every term of whole boxes against the energies that GROMACS computed for the same frames.

``tests/data/gromacs_energies.json`` holds GROMACS' figures and how it was run; the frames of the
reference data are looked for where ``DEEPBACKMAP_DATA`` says, else beside the repository.
"""

import functools
import json
import os
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest

from deepbackmap.forcefield import TERMS, ForceField, energies_per_molecule
from deepbackmap.io.topology import read_topology
from deepbackmap.system import Structure, Topology

HERE = Path(__file__).parent
STORED = json.loads((HERE / "data" / "gromacs_energies.json").read_text())
RELATIVE = {"sps": 1e-4, "mixed": 2e-8}
"""The bonds of the reference data are at rest within the rounding of the files, so their energy
feels the single precision that frames went through on their way to GROMACS."""
COUNTED_AS = {
    "Bond": "bond",
    "Angle": "angle",
    "G96Angle": "angle",
    "Proper Dih.": "proper",
    "Ryckaert-Bell.": "proper",
    "Per. Imp. Dih.": "proper",
    "Improper Dih.": "improper",
    "LJ-14": "lj14",
    "Coulomb-14": "coulomb14",
    "LJ (SR)": "lj",
    "Coulomb (SR)": "coulomb",
}


def located(system: str, name: str) -> Path:
    """A file of a test system; skips where the reference data are not at hand."""
    shared = Path(os.environ.get("DEEPBACKMAP_DATA", HERE.parents[1] / "shared" / "data"))
    path = (shared if system == "sps" else HERE / "data") / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


@functools.cache
def force_field(path: Path, defines: tuple[str, ...]) -> ForceField:
    topology: Topology = read_topology(path, defines=dict.fromkeys(defines, ""))
    return ForceField.from_topology(topology, cutoff=1.0, reaction_field_epsilon=2.5)


def read_frame(path: Path, frame: int) -> Structure:
    reader = mda.coordinates.core.reader(str(path))
    step = reader[frame]
    positions = step.positions.astype(np.float64) / 10.0
    box = step.triclinic_dimensions.astype(np.float64) / 10.0
    # the files state nm to three (positions) and at least five (box) decimals, which angstroms
    # and angles in single precision blur
    return Structure(positions.round(6), box.round(6))


def identify(stored: dict) -> str:
    return f"{Path(stored['trajectory']).stem}-{stored['frame']}-{'-'.join(stored['defines'])}"


@pytest.mark.parametrize("stored", STORED["frames"], ids=identify)
def test_every_term_equals_gromacs(stored):
    field = force_field(located(stored["system"], stored["topology"]), tuple(stored["defines"]))
    structure = read_frame(located(stored["system"], stored["trajectory"]), stored["frame"])
    expected = dict.fromkeys(TERMS, 0.0)
    for name, energy in stored["energies"].items():
        if name != "Potential":
            expected[COUNTED_AS[name]] += energy
    found = field.energies_by_term(structure)
    close = functools.partial(pytest.approx, rel=RELATIVE[stored["system"]])
    assert found == close(expected)
    assert sum(found.values()) == close(stored["energies"]["Potential"])
    by_molecule = {n: e.sum() for n, e in energies_per_molecule(field, structure).items()}
    for name in ("lj", "coulomb"):
        by_molecule[name] = by_molecule.pop(f"{name} intra") + by_molecule.pop(f"{name} inter")
    assert by_molecule == close(expected)
