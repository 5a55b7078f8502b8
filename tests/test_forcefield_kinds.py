"""Every kind of term and of virtual site against GROMACS, and laws that all energies obey.

``tests/data/gromacs_kinds.json`` holds GROMACS' figures for ``tests/data/kinds``; both are made by
``tools/gromacs_kinds.py``.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepbackmap.forcefield import ForceField, energies_per_molecule, terms
from deepbackmap.io.topology import read_topology
from deepbackmap.system import BondedTerms, Structure
from deepbackmap.system.kinds import CHEMICAL, KINDS, SITES
from deepbackmap.system.sites import PLACES, place_sites

HERE = Path(__file__).parent / "data"
STORED = json.loads((HERE / "gromacs_kinds.json").read_text())
BOX = np.diag([3.2] * 3)
NAMES = {
    # GROMACS' names of the energies of each of our kinds
    "bond": "Bond",
    "bond_g96": "G96Bond",
    "morse": "Morse",
    "bond_cubic": "Cubic Bonds",
    "harmonic": "Harmonic Pot.",
    "fene": "FENE Bonds",
    "bond_table": "Tab. Bonds",
    "bond_table_nc": "Tab. Bonds NC",
    "bond_restraint": "Restraint Pot.",
    "angle_g96": "G96Angle",
    "bond_bond": "Bond-Cross",
    "bond_angle": "BA-Cross",
    "angle urey_bradley": "Angle U-B",
    "angle_quartic": "Quartic Angles",
    "angle_table": "Tab. Angles",
    "angle_linear": "Lin. Angle",
    "angle_restricted": "Restr. Angles",
    "proper": "Proper Dih. Per. Imp. Dih.",
    "ryckaert_bellemans": "Ryckaert-Bell. Fourier Dih.",
    "improper": "Improper Dih.",
    "dihedral_table": "Tab. Dih.",
    "dihedral_restricted": "Restr. Dih.",
    "bending_torsion": "CBT Dih.",
    "cmap": "CMAP Dih.",
}


COUPLED = {
    # kinds that LAMMPS has and GROMACS has not, with atoms around atom 2 and plausible numbers
    "bond_bend": ([1, 2, 3], [1.9, 0.15, 0.14, 90.0, -60.0]),
    "bond_torsion": ([1, 2, 3, 4], [0.15, 0.14, 0.15, *range(-40, 50, 10)]),
    "angle_torsion": ([1, 2, 3, 4], [1.9, 2.0, *range(-9, 12, 4), -25.0]),
    "bond_bond_13": ([1, 2, 3, 4], [0.15, 0.14, 900.0]),
    "angle_angle": ([1, 2, 3, 9], [1.9, 2.0, 1.8, 20.0, -15.0, 10.0]),
    "out_of_plane": ([1, 2, 3, 9], [0.1, 60.0]),
    "umbrella": ([2, 1, 3, 9], [0.6, 40.0]),
}


def with_couplings(system):
    """The first molecule type with one term of each of these kinds as well."""
    first, *others = system.molecule_types
    more = {k: BondedTerms(np.array([a]), np.array([p])) for k, (a, p) in COUPLED.items()}
    first = replace(first, terms={**first.terms, **more})
    return replace(system, molecule_types=(first, *others))


def topology(rule=""):
    defines = {rule: ""} if rule else {}
    tables = sorted((HERE / "kinds").glob("table_*.xvg"))
    return read_topology(HERE / "kinds" / "kinds.top", defines=defines, tables=tables)


def positions(name="kinds.gro"):
    lines = (HERE / "kinds" / name).read_text().splitlines()[2:-1]
    return np.array([[float(line[20 + 11 * k : 31 + 11 * k]) for k in range(3)] for line in lines])


def by_kind(field, x):
    found = {}
    where, box = torch.tensor(x), torch.tensor(BOX)
    runs = [(tables, atoms) for _, tables, atoms in field.molecules(where)]
    for tables, atoms in [*runs, (field.between, where)]:
        for table in tables:
            energy = float(table.energies(atoms, box).sum())
            found[table.kind] = found.get(table.kind, 0.0) + energy
    return found


def stored(rule, names):
    """The sum of some of GROMACS' energies, whose names are joined by spaces."""
    total = 0.0
    for name in sorted(STORED["energies"][rule], key=len, reverse=True):
        if name in names:
            total += STORED["energies"][rule][name]
            names = names.replace(name, "", 1)
    assert not names.strip()
    return total


def close(expected):
    return pytest.approx(expected, rel=2e-8, abs=1e-9)


@pytest.mark.parametrize("rule", STORED["energies"])
def test_every_kind_equals_gromacs(rule):
    field = ForceField.from_topology(topology(rule), cutoff=1.0, reaction_field_epsilon=2.5)
    found = by_kind(field, positions())
    for kinds, names in NAMES.items():
        ours = sum(found.pop(kind) for kind in kinds.split())
        assert ours == close(stored(rule, names)), kinds
    # GROMACS counts listed pairs of [ pairs_nb ] as Lennard-Jones and Coulomb
    structure = Structure(positions(), BOX)
    total = field.energies_by_term(structure)
    assert total["lj"] + total["lj14"] == close(stored(rule, "LJ-14 LJ (SR)"))
    assert total["coulomb"] + total["coulomb14"] == close(stored(rule, "Coulomb-14 Coulomb (SR)"))
    assert set(found) == {"lj14", "lj14_powers", "coulomb14"}
    assert sum(total.values()) == close(stored(rule, "Potential"))
    shared = energies_per_molecule(field, structure)
    assert sum(e.sum() for e in shared.values()) == close(stored(rule, "Potential"))


def test_molecules_bonded_to_their_own_images():
    x, box = positions("periodic.gro"), np.diag([2.6] * 3)
    field = ForceField.from_topology(
        read_topology(HERE / "kinds" / "periodic.top"), cutoff=1.0, reaction_field_epsilon=2.5
    )
    found = field.energies_by_term(Structure(x, box))
    for ours, theirs in (
        ("bond", "Bond"), ("angle", "Angle"), ("proper", "Proper Dih."), ("lj", "LJ (SR)")
    ):  # fmt: skip
        assert found[ours] == close(STORED["periodic"][theirs])
        assert abs(found[ours]) > 1.0
    # nothing depends on where the box begins
    moved = field.energies_by_term(Structure((x + 1.1) % 2.6, box))
    assert moved == pytest.approx(found, rel=1e-9)


def test_the_system_uses_every_kind():
    found = topology()
    used = {kind for m in found.molecule_types for kind in m.terms} | set(found.intermolecular)
    known = {name for name, kind in KINDS.items() if kind.gromacs}
    assert used == known - {"constraint", "lj14"}
    assert set(KINDS) - known == set(COUPLED)
    assert {kind for m in found.molecule_types for kind in m.sites} == set(SITES)
    assert set(terms.FUNCTIONS) == {name for name, kind in KINDS.items() if kind.counted}
    assert set(PLACES) == set(SITES) - {"site_mean"}


def test_chemical_bonds_are_those_over_which_gromacs_counts_exclusions():
    assert set(CHEMICAL) == {
        "bond", "bond_g96", "morse", "bond_cubic", "connection", "fene", "bond_table", "constraint"
    }  # fmt: skip
    chain = topology().molecule_types[0]
    assert [0, 2] not in chain.bonds.tolist()  # a spring
    assert [4, 5] in chain.bonds.tolist()  # a connection


def test_virtual_sites_are_where_gromacs_puts_them():
    system = topology()
    expected = np.array(STORED["positions"])
    moved = positions()
    virtual = np.concatenate([np.tile(m.virtual, c) for m, _, c in system.runs()])
    assert virtual.sum() == 22
    moved[virtual] = 9.0
    placed = place_sites(moved, BOX, system)
    assert (placed[~virtual] == moved[~virtual]).all()
    off = placed - expected
    off -= np.rint(off / 3.2) * 3.2
    assert np.abs(off).max() < 1.1e-5  # gmx dump prints six digits
    masses = system.masses()
    assert (masses[virtual] == 0.0).all() and (masses[~virtual] > 0.0).all()


def test_sites_of_a_molecule_without_a_box_follow_its_motion():
    system = topology()
    zero, x = np.zeros((3, 3)), np.array(STORED["positions"])
    start = place_sites(x, zero, system)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = place_sites(x @ turn + 0.3, zero, system)
    np.testing.assert_allclose(moved, start @ turn + 0.3, atol=1e-12)


def rows(kind):
    """Terms of one kind of the chain, with plausible numbers where it has none."""
    found = with_couplings(topology()).molecule_types[0].terms
    if kind in found:
        grids = found[kind].grids
        table = {} if grids is None else {"grids": torch.tensor(grids)}
        return torch.tensor(found[kind].atoms[:1]), torch.tensor(found[kind].parameters[:1]), table
    return torch.tensor([[0, 3]]), torch.tensor([[0.3, 0.4]]), {}


@pytest.mark.parametrize("kind", terms.FUNCTIONS)
def test_gradient_is_that_of_finite_differences(kind):
    index, parameters, table = rows(kind)
    x = torch.tensor(positions()[:12])
    box = torch.tensor(BOX)

    def energy(at):
        return terms.FUNCTIONS[kind](at, index, parameters, box, **table).sum()

    assert torch.autograd.gradcheck(energy, x.requires_grad_(True), eps=1e-6, atol=1e-3, rtol=1e-4)


DEGENERATE = {
    "one place": np.zeros((12, 3)),
    "a line": np.outer(np.arange(12), [0.1, 0.05, 0.02]),
    "back and forth": np.outer(np.arange(12) % 2, [0.15, 0.0, 0.0]),
    "far": np.outer(np.arange(12), [3.0, 5.0, -4.0]),
}


@pytest.mark.parametrize("place", DEGENERATE)
@pytest.mark.parametrize("kind", terms.FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_energies_and_gradients_are_finite_everywhere(kind, place, dtype):
    index, parameters, table = rows(kind)
    table = {name: grid.to(dtype) for name, grid in table.items()}
    x = torch.tensor(DEGENERATE[place], dtype=dtype, requires_grad=True)
    energy = terms.FUNCTIONS[kind](x, index, parameters.to(dtype), None, **table)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    assert torch.isfinite(energy).all() and torch.isfinite(gradient).all()


def test_hand_values():
    x = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.2, 0.3, 0.0], [0.2, 0.3, 0.4]]).double()
    two, three, four = (torch.arange(n)[None] for n in (2, 3, 4))

    def value(kind, index, *parameters):
        row = torch.tensor([parameters], dtype=torch.float64)
        return float(terms.FUNCTIONS[kind](x, index, row))

    assert value("bond_g96", two, 0.1, 400.0) == pytest.approx(100 * 0.03**2)
    assert value("morse", two, 0.1, 50.0, 10.0) == pytest.approx(50 * (1 - math.exp(-1)) ** 2)
    assert value("bond_cubic", two, 0.1, 60.0, 2.0) == pytest.approx(0.6 * 1.2)
    assert value("fene", two, 0.4, 50.0) == pytest.approx(-4.0 * math.log(0.75))
    assert value("bond_restraint", two, 0.25, 0.3, 0.4, 100.0) == pytest.approx(50 * 0.05**2)
    assert value("bond_restraint", two, 0.1, 0.25, 0.4, 100.0) == 0.0
    assert value("bond_restraint", two, 0.0, 0.1, 0.15, 100.0) == pytest.approx(50 * 0.05 * 0.15)
    assert value("bond_bond", three, 0.1, 0.1, 50.0) == pytest.approx(50 * 0.1 * 0.2)
    across = math.hypot(0.2, 0.3)
    assert value("bond_angle", three, 0.1, 0.1, 0.1, 50.0) == pytest.approx(15 * (across - 0.1))
    bend = 0.5 * 3 * (math.pi / 2 - 1.5) ** 2
    assert value("urey_bradley", three, 1.5, 3.0, 0.3, 20.0) == pytest.approx(
        bend + 10 * (across - 0.3) ** 2
    )
    assert value("angle_quartic", three, math.pi / 2 - 1, 1, 2, 3, 4, 5) == pytest.approx(15)
    assert value("angle_linear", three, 0.25, 8.0) == pytest.approx(4 * (0.05**2 + 0.225**2))
    assert value("angle_restricted", three, math.pi / 3, 8.0) == pytest.approx(1.0)
    assert value("dihedral_restricted", four, math.pi / 3, 8.0) == pytest.approx(1.0)
    assert value("bending_torsion", four, 2.0, 1.5, 1, 1, 1, 1) == pytest.approx(3.0)
    # rij 0.2, rjk 0.3, rkl 0.4, both angles and the dihedral at right angles
    right = math.pi / 2
    assert value("bond_bend", three, right - 1, 0.1, 0.2, 30, 70) == pytest.approx(3 + 7)
    waves = (0.1, 0.1, 0.1, 1.0, 20.0, 1.0, 1.0, -30.0, 1.0, 1.0, 40.0, 1.0)
    assert value("bond_torsion", four, *waves) == pytest.approx(-(2.0 - 6.0 + 12.0))
    rest = (right - 1, right - 2)
    assert value("angle_torsion", four, *rest, 1, 2, 3, 4, 5, 6, 7) == pytest.approx(-(2 + 10))
    assert value("bond_bond_13", four, 0.1, 0.1, 50.0) == pytest.approx(50 * 0.1 * 0.3)
    assert value("lj14_powers", two, 0.4**6, 0.4**12) == pytest.approx(64 * 63)


def test_hand_values_around_one_atom():
    x = torch.tensor([[0.2, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.4]]).double()

    def value(kind, index, *parameters):
        row = torch.tensor([parameters], dtype=torch.float64)
        return float(terms.FUNCTIONS[kind](x, torch.tensor([index]), row))

    right = math.pi / 2
    rest = (right - 1, right - 2, right - 3)
    assert value("angle_angle", [0, 1, 2, 3], *rest, 10, 20, 30) == pytest.approx(30 + 40 + 180)
    assert value("out_of_plane", [0, 1, 2, 3], right - 2, 5.0) == pytest.approx(2.5 * 4)
    assert value("out_of_plane", [2, 1, 0, 3], 2 - right, 5.0) == pytest.approx(2.5 * 4)
    assert value("umbrella", [1, 0, 2, 3], 0.0, 5.0) == pytest.approx(5.0)
    assert value("umbrella", [1, 0, 2, 3], math.pi / 3, 6.0) == pytest.approx(3 * 0.25 / 0.75)
    x[3] = torch.tensor([0.2, 0.3, 0.0])  # in the plane of the others, between them
    assert value("umbrella", [1, 0, 2, 3], 0.0, 5.0) == pytest.approx(10.0)
    x[3] = -x[3]  # and away from them
    assert value("umbrella", [1, 0, 2, 3], 0.0, 5.0) == pytest.approx(0.0)


def test_a_correction_map_passes_through_its_points_and_is_smooth_across_the_seam():
    grid = topology().molecule_types[0].terms["cmap"].grids

    def at(phi, psi):
        return float(terms.cmap(_five(phi, psi), torch.arange(5)[None], torch.zeros(1, 1).double(),
                                grids=torch.tensor(grid)))  # fmt: skip

    step = 2 * math.pi / 24
    for i, j in ((0, 0), (3, 20), (23, 11)):
        found = at(-math.pi + i * step + 1e-9, -math.pi + j * step + 1e-9)
        assert found == pytest.approx(grid[0, 0, i, j], abs=1e-6)
    assert at(math.pi - 1e-7, 1.0) == pytest.approx(at(-math.pi + 1e-7, 1.0), abs=1e-4)
    assert at(1.0, math.pi - 1e-7) == pytest.approx(at(1.0, -math.pi + 1e-7), abs=1e-4)


def _five(phi, psi):
    """Five atoms at right angles with two given dihedrals."""
    points = [np.array([0.0, 1.0, 0.0]), np.zeros(3), np.array([1.0, 0.0, 0.0])]
    for dihedral in (phi, psi):
        a, b, c = points[-3:]
        axis = (c - b) / np.linalg.norm(c - b)
        up = (a - b) - ((a - b) @ axis) * axis
        up /= np.linalg.norm(up)
        points.append(c + math.cos(dihedral) * up + math.sin(dihedral) * np.cross(axis, up))
    found = torch.tensor(np.array(points))
    assert float(terms.dihedrals(found, torch.tensor([[0, 1, 2, 3]]))) == pytest.approx(phi)
    return found
