"""Bonds, angles and dihedrals between molecules: in energies, forces and every engine's steps."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from deepbackmap.api import finish
from deepbackmap.dynamics.containers import Dynamics, Hold, Interactions, Minimisation
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.forcefield import ForceField
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.tables import atom_table
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.mapping import MappingFile, map_positions
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.system import Structure

BOX = np.array([[3.0, 0.0, 0.0], [0.4, 3.0, 0.0], [-0.3, 0.2, 3.0]])
BETWEEN = """[ intermolecular_interactions ]
[ bonds ]
3 4 6 0.16 80000
6 10 6 0.30 500
9 7 10 0.2 0.22 0.3 30
[ angles ]
2 3 4 1 110 300
[ dihedrals ]
2 3 4 5 3 8.4 16.8 1.1 -26.3 0 0
"""
"""The first crosses the box; the second skips a molecule. Pairs of atoms that they bond are not
excluded, so that atoms are small here."""
MAPPING = """
weights: mass
residues:
  PR:
    beads:
      - {name: A, type: A, atoms: [C1, C2, C3]}
  W:
    beads:
      - {name: W, type: W, atoms: [C1]}
"""
TOPOLOGY = f"""[ defaults ]
1 2 no 1 1
[ atomtypes ]
CH2 6 14.027 0.0 A 0.12 0.1
[ moleculetype ]
PR 2
[ atoms ]
1 CH2 1 PR C1 1 0.2 14.027
2 CH2 1 PR C2 2 -0.4 14.027
3 CH2 1 PR C3 3 0.2 14.027
[ bonds ]
1 2 1 0.154 260000
2 3 1 0.154 260000
[ angles ]
1 2 3 1 112 500
[ moleculetype ]
W 1
[ atoms ]
1 CH2 1 W C1 1 0.0 14.027
[ system ]
joined
[ molecules ]
PR 3
W 1
{BETWEEN}"""
NAMES = ("bond", "angle", "proper")


@pytest.fixture
def joined(tmp_path):
    """Topology file, mapping, and a frame whose molecules lie on both sides of the box."""
    path = tmp_path / "joined.top"
    path.write_text(TOPOLOGY)
    mapping = MappingFile.from_text(MAPPING).resolve(read_topology(path))
    one = np.array([[0.0, 0.0, 0.0], [0.128, 0.086, 0.0], [0.256, 0.0, 0.0]])
    starts = np.array([[2.7, 1.0, 1.0], [3.1, 1.0, 1.1], [0.9, 1.5, 1.2], [1.0, 1.2, 1.0]])
    x = np.concatenate([one + starts[0], one + starts[1] - BOX[0], one + starts[2], starts[3:]])
    return path, mapping, Structure(x, BOX)


def expected_forces(topology, structure):
    """By automatic differentiation of the reference energies."""
    field = ForceField.from_topology(topology, cutoff=0.9, reaction_field_epsilon=None)
    at = torch.tensor(structure.positions, requires_grad=True)
    energies = field.energies(at, torch.tensor(structure.box))
    sum(energies.values()).backward()
    return -at.grad.numpy(), {k: float(v.detach()) for k, v in energies.items()}


@pytest.mark.parametrize("kind", [Mechanics, CardMechanics])
def test_forces_and_energies_are_those_of_the_force_field(joined, kind):
    _, mapping, structure = joined
    options = {"device": "cpu"} if kind is CardMechanics else {}
    engine = kind(mapping, rigid=False, cutoff=0.9, epsilon=None, **options)
    beads = map_positions(mapping, structure.positions)
    forces, energies = expected_forces(mapping.topology, structure)
    found = engine.forces(structure.positions, beads, BOX)
    np.testing.assert_allclose(found, forces, rtol=0, atol=1e-5 * np.abs(forces).max())
    terms = engine.energies(structure.positions, beads, BOX)
    without = Mechanics(
        dataclasses.replace(
            mapping, topology=dataclasses.replace(mapping.topology, intermolecular={})
        ), rigid=False, cutoff=0.9, epsilon=None,
    ).energies(structure.positions, beads, BOX)  # fmt: skip
    for name in NAMES:
        assert terms[name].sum() == pytest.approx(energies[name], rel=1e-9)
        assert terms[name].sum() != pytest.approx(without[name].sum(), rel=1e-3)


@pytest.mark.parametrize("kind", [Mechanics, CardMechanics])
def test_energy_is_conserved_and_the_joined_stay_beside_each_other(joined, kind):
    """Without a bath, bonds rigid: what the terms give is what the atoms lose."""
    _, mapping, structure = joined
    options = {"device": "cpu"} if kind is CardMechanics else {}
    engine = kind(mapping, lightest=0.0, cutoff=0.9, **options)
    beads = map_positions(mapping, structure.positions)
    quiet = engine.run(structure.positions, beads, BOX, Langevin(400, 50.0, 0.001, 50.0),
                       np.arange(10), np.inf)  # fmt: skip
    run = engine.run(quiet.positions, beads, BOX, Langevin(200, 50.0, 0.0005, 0.0), np.arange(10),
                     np.inf, velocities=quiet.velocities, every=20)  # fmt: skip
    total = [
        run.kinetic[o.step] + sum(float(v.sum()) for v in o.energies.values()) for o in run.observed
    ]
    assert np.ptp(total) < 0.05 * np.ptp([run.kinetic[o.step] for o in run.observed])
    arm = minimum_image(run.positions[3] - run.positions[2], BOX)
    assert np.linalg.norm(arm) == pytest.approx(0.16, abs=0.02)


ENGINES = [
    "internal",
    "openmm",
    pytest.param(
        "gromacs",
        marks=pytest.mark.skipif(shutil.which("gmx") is None, reason="gmx is not installed"),
    ),
]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("held", [False, True])
def test_every_engine_counts_them_with_bonds_at_their_lengths(joined, name, held):
    """A bond between molecules is a spring, also where all others are held, as in GROMACS."""
    _, mapping, structure = joined
    engine = open_engine(
        mapping.topology, name=name, mapping=mapping, threads=1,
        interactions=Interactions(cutoff=0.9),
    )  # fmt: skip
    hold = Hold(map_positions(mapping, structure.positions, BOX), 1000.0) if held else None
    segment = engine.run(structure, Dynamics(steps=0, temperature=300.0), hold=hold)
    energies = ForceField.from_topology(mapping.topology, cutoff=0.9).energies_by_term(
        segment.structure
    )
    for term in NAMES:
        assert segment.energies[term][0] == pytest.approx(energies[term], rel=1e-4, abs=1e-3)
    assert energies["bond"] > 1.0  # those between


@pytest.mark.parametrize("name", ["internal", "openmm"])
def test_a_chemical_bond_between_molecules_is_a_spring_too(joined, name, tmp_path):
    """GROMACS refuses those; where they are read, no engine takes them for a bond to be held."""
    path, _, structure = joined
    path.write_text(TOPOLOGY.replace("3 4 6", "3 4 1"))
    topology = read_topology(path)
    assert "bond" in topology.intermolecular
    engine = open_engine(topology, name=name, threads=1, interactions=Interactions(cutoff=0.9))
    segment = engine.run(structure, Dynamics(steps=0, temperature=300.0))
    arm = minimum_image(segment.structure.positions[3] - segment.structure.positions[2], BOX)
    energies = ForceField.from_topology(topology, cutoff=0.9).energies_by_term(segment.structure)
    assert abs(np.linalg.norm(arm) - 0.16) > 0.01
    assert segment.energies["bond"][0] == pytest.approx(energies["bond"], rel=1e-4)


@pytest.mark.parametrize("name", ENGINES)
def test_minimising_brings_them_together(joined, name):
    _, mapping, structure = joined
    engine = open_engine(
        mapping.topology, name=name, threads=1, interactions=Interactions(cutoff=0.9),
    )  # fmt: skip
    found = engine.minimise(structure, Minimisation(200)).structure.positions
    before, after = (
        np.linalg.norm(minimum_image(x[3] - x[2], BOX)) for x in (structure.positions, found)
    )
    assert abs(before - 0.16) > 0.01 > abs(after - 0.16)


def test_finish_takes_them(joined, tmp_path):
    path, mapping, structure = joined
    with open_writer(tmp_path / "aa.gro", atom_table(mapping.topology)) as writer:
        writer.write(structure)
    finish(tmp_path / "aa.gro", topology=path, output=tmp_path / "done.gro", temperature=200.0,
           steps=50, engine="internal", progress=False)  # fmt: skip
    with read_frames(tmp_path / "done.gro") as source:
        x = source[0].positions
    assert np.linalg.norm(minimum_image(x[3] - x[2], BOX)) == pytest.approx(0.16, abs=0.02)
