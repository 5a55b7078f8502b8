"""A tripeptide in water with GROMACS' own force fields, read as ``pdb2gmx`` wrote it.

``tools/gromacs_peptides.py`` makes the files and GROMACS' energies in ``tests/data/peptides``.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.topology.gromacs_lines import gromacs_include_dirs
from deepbackmap.system import Structure
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.sites import place_sites
from test_forcefield_kinds import NAMES

HERE = Path(__file__).parent / "data" / "peptides"
STORED = json.loads((HERE / "energies.json").read_text())
OURS = {
    theirs.strip(): KINDS[kinds.split()[0]].counted
    for kinds, names in NAMES.items()
    for theirs in names.replace("Dih. Per.", "Dih.|Per.").replace(". Fourier", ".|Fourier")
    .replace("Angle U-B", "Angle|U-B").split("|")
} | {"Bond": "bond", "LJ-14": "lj14", "Coulomb-14": "coulomb14", "LJ (SR)": "lj",
     "Coulomb (SR)": "coulomb"}  # fmt: skip


def read(name):
    force_field = name.rsplit("-", 1)[0]
    if not any((folder / f"{force_field}.ff").is_dir() for folder in gromacs_include_dirs()):
        pytest.skip(f"GROMACS' {force_field}.ff is absent")
    lines = (HERE / f"{name}.gro").read_text().splitlines()
    x = np.array([[float(line[20 + 8 * k : 28 + 8 * k]) for k in range(3)] for line in lines[2:-1]])
    box = np.diag(np.array(lines[-1].split()[:3], dtype=float))
    return read_topology(HERE / f"{name}.top"), Structure(x, box)


@pytest.mark.parametrize("name", STORED["energies"])
def test_every_term_of_a_peptide_in_water(name):
    topology, structure = read(name)
    field = ForceField.from_topology(topology, cutoff=1.0, reaction_field_epsilon=2.5)
    found = field.energies_by_term(structure)
    expected = dict.fromkeys(found, 0.0)
    for theirs, energy in STORED["energies"][name].items():
        if theirs != "Potential":
            expected[OURS[theirs]] += energy
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-6)
    assert sum(found.values()) == pytest.approx(STORED["energies"][name]["Potential"], rel=1e-8)


def test_what_each_force_field_is_there_for():
    found = {name: read(name)[0].molecule_types for name in STORED["energies"]}
    charmm = found["charmm27-tip3p"][0].terms
    assert {"urey_bradley", "cmap", "improper"} <= set(charmm) and len(charmm["cmap"].atoms) == 1
    assert {"bond_g96", "angle_g96"} <= set(found["gromos54a7-spc"][0].terms)
    assert "ryckaert_bellemans" in found["oplsaa-tip4p"][0].terms
    for name in ("oplsaa-tip4p", "amber99sb-ildn-tip4p"):
        water = found[name][1]
        assert water.virtual.tolist() == [False, False, False, True]
        assert water.masses[3] == 0.0 and water.bonds.tolist() == [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("name", [name for name in STORED["energies"] if name.endswith("tip4p")])
def test_the_fourth_site_of_water_lies_where_the_file_has_it(name):
    topology, structure = read(name)
    placed = place_sites(structure.positions, structure.box, topology)
    off = np.abs(placed - structure.positions)
    assert off.max() < 3e-3 and (off > 0).any()  # that geometry is a little another one
