"""Dynamics of one molecule alone, against the force field's own energies and Boltzmann's law."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.forcefield import terms
from deepbackmap.forcefield.system import molecule_tables
from deepbackmap.io.topology import read_topology
from deepbackmap.methods.physics import kernels
from deepbackmap.methods.physics.tables import VacuumTables, bond_distances, vacuum_tables
from deepbackmap.methods.physics.vacuum import VacuumOptions, conformations
from deepbackmap.quantities import BOLTZMANN
from physics_systems import CHIRAL, HEAD, chain, topology

T = 400.0


def tables_of(folder: Path, text: str, name: str, **keys: object) -> VacuumTables:
    """Of the one molecule of a system."""
    found = topology(folder, text, {name: 1})
    return vacuum_tables(found.molecule_types[0], found, T, **keys)  # type: ignore[arg-type]


def bonded(t: VacuumTables, x: np.ndarray, f: np.ndarray) -> float:
    """Energy of all terms but bonds; lowered torsions as they push."""
    e = kernels.add_angles(x, t.angles, t.angle_which, t.angle_curves, f)
    e += kernels.add_torsions(
        x, t.torsions, t.torsion_which, t.torsion_left, t.torsion_curves, f
    )[0]  # fmt: skip
    return float(e + kernels.add_pairs(x, t.pairs, t.pair_parameters, f))


EVERY_KIND = {
    "angles": ["1 112.0 500", "2 108 400", "5 111 380 0.25 9000", "6 110 1 2 300 -40 20",
               "10 112 60", "spring", "3 0.15 0.16 3000", "4 0.15 0.15 0.25 2000", "9 0.4 900"],
    "dihedrals": ["1 10 5.0 3", "3 1 2 -3 0.5 0.7 -0.2", "2 17 90", "10 60 3", "11 2 1 -1 3 -2 0.5",
                  "4 180 4 2"],
}  # fmt: skip
"""Sections of a topology with a line for each function type."""


def every_kind(kinds: dict[str, list[str]]) -> str:
    """Five united atoms in a row; every angle and dihedral has every term."""
    text = chain(5).split("[ angles ]")[0]
    for section, width in (("angles", 3), ("dihedrals", 4)):
        for rest in kinds[section]:
            rows = [" ".join(str(i + k) for k in range(width)) for i in range(1, 7 - width)]
            text += f"[ {section} ]\n" + "".join(f"{row} {rest}\n" for row in rows)
    return text


def test_forces_are_minus_the_gradient(tmp_path: Path) -> None:
    t = tables_of(tmp_path, chain(7), "CHN")
    t.pair_parameters[:, 2] = 3.0
    t = replace(t, torsion_left=np.linspace(0.4, 1.0, len(t.torsions)))
    x = 0.15 * np.arange(7)[:, None] * [1.0, 0.0, 0.0] + 0.07 * np.random.default_rng(
        3
    ).standard_normal((7, 3))
    f = np.zeros_like(x)
    bonded(t, x, f)
    numeric = np.zeros_like(x)
    for a, d in np.ndindex(*x.shape):
        for sign in (1.0, -1.0):
            y = x.copy()
            y[a, d] += sign * 1e-6
            numeric[a, d] -= sign * bonded(t, y, np.zeros_like(x)) / 2e-6
    np.testing.assert_allclose(f, numeric, atol=2e-4 * np.abs(f).max())


def test_energies_are_those_of_the_force_field(tmp_path: Path) -> None:
    """With nothing lowered; another implementation of the same terms."""
    molecule = topology(tmp_path, chain(5), {"CHN": 1}).molecule_types[0]
    t = tables_of(tmp_path, chain(5), "CHN")
    x = conformations(t, VacuumOptions(T, copies=1, settle=10, steps=60)).positions[0]
    f = np.zeros_like(x)
    got = kernels.add_angles(x, t.angles, t.angle_which, t.angle_curves, f)
    pushed, lacking = kernels.add_torsions(
        x, t.torsions, t.torsion_which, t.torsion_left, t.torsion_curves, f
    )
    wanted = sum(
        float(terms.FUNCTIONS[k.kind](torch.from_numpy(x), k.index, k.parameters).sum())
        for k in molecule_tables(molecule)
        if k.kind != "bond"
    )
    assert got + pushed + lacking == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("section", "line"), [(s, line) for s, lines in EVERY_KIND.items() for line in lines]
)
def test_every_kind_has_its_energy_in_vacuo(tmp_path: Path, section: str, line: str) -> None:
    """Of a molecule with its bonds at their lengths, and angles at rest where a term of four atoms
    depends on them; forces are those of the force field but along bonds."""
    kinds = {"angles": ["1 112.0 500"], "dihedrals": ["1 0 5.0 3"]} | {section: [line]}
    if line == "spring":  # across angles, and one that is left to the whole box
        kinds["angles"] = ["1 112.0 500"]
        springs = "[ bonds ]\n1 3 6 0.25 9000\n4 2 6 0.24 8000\n1 5 6 0.4 0.0\n"
        found = topology(tmp_path, every_kind(kinds) + springs, {"CHN": 1})
    else:
        found = topology(tmp_path, every_kind(kinds), {"CHN": 1})
    molecule = found.molecule_types[0]
    t = vacuum_tables(molecule, found, T)
    easy = replace(t, pairs=t.pairs[:0], pair_parameters=t.pair_parameters[:0])
    x = conformations(easy, VacuumOptions(T, copies=1, settle=40, steps=60)).positions[0]
    if section == "dihedrals":  # 112 degrees everywhere
        x = _straight(5, np.random.default_rng(4))
    f = np.zeros_like(x)
    got = kernels.add_angles(x, t.angles, t.angle_which, t.angle_curves, f)
    got += sum(kernels.add_torsions(x, t.torsions, t.torsion_which, t.torsion_left,
                                    t.torsion_curves, f))  # fmt: skip
    wanted = sum(
        float(k.energies(torch.from_numpy(x), None).sum())
        for k in molecule_tables(molecule)
        if k.kind not in ("bond", "lj14", "coulomb14")
    )
    assert got == pytest.approx(wanted, rel=3e-4, abs=5e-3)


def _straight(n: int, rng: np.random.Generator) -> np.ndarray:
    """Bonds of 0.153 nm, angles of 112 degrees and any dihedrals."""
    x = np.zeros((n, 3))
    x[1] = [0.153, 0.0, 0.0]
    bend = np.radians(112.0)
    x[2] = x[1] + 0.153 * np.array([-np.cos(bend), np.sin(bend), 0.0])
    for k in range(3, n):
        phi = rng.uniform(-np.pi, np.pi)
        u = (x[k - 1] - x[k - 2]) / 0.153
        side = np.cross(x[k - 2] - x[k - 3], u)
        side /= np.linalg.norm(side)
        up = np.cross(side, u)
        out = np.cos(phi) * up + np.sin(phi) * side
        x[k] = x[k - 1] + 0.153 * (-np.cos(bend) * u + np.sin(bend) * out)
    return x


@pytest.mark.parametrize("kind", ["7 0.5 30000", "8 0 1"])
def test_bonds_without_a_length_are_held_where_their_energy_is_lowest(
    tmp_path: Path, kind: str
) -> None:
    """FENE pulls against Lennard-Jones; a table has a minimum of its own."""
    text = chain(3).replace("1 0.153 250000", kind)
    text = text.replace("CHN 3\n", "CHN 0\n") if kind.startswith("7") else text
    if kind.startswith("8"):
        r = np.arange(0.0, 1.0, 0.002)
        rows = np.stack([r, 900.0 * (r - 0.21) ** 2, -1800.0 * (r - 0.21)], axis=1)
        np.savetxt(tmp_path / "table_b0.xvg", rows)
    (tmp_path / "system.top").write_text(HEAD + text + "[ system ]\nx\n[ molecules ]\nCHN 1\n")
    tables = {"tables": [tmp_path / "table_b0.xvg"]} if kind.startswith("8") else {}
    found = read_topology(tmp_path / "system.top", **tables)
    t = vacuum_tables(found.molecule_types[0], found, T)
    if kind.startswith("8"):
        wanted = 0.21
    else:
        c6, c12 = found.c6[0, 0], found.c12[0, 0]
        grid = np.linspace(0.1, 0.499, 40000)
        energy = -0.5 * 30000 * 0.25 * np.log(1 - (grid / 0.5) ** 2) + c12 / grid**12 - c6 / grid**6
        wanted = grid[energy.argmin()]
    np.testing.assert_allclose(t.lengths, wanted, atol=1e-3)


@pytest.mark.parametrize("cis", [True, False])
def test_sides_of_double_bonds_are_those_asked_for(tmp_path: Path, cis: bool) -> None:
    """Two double bonds, of which one is asked for: the other one falls as it likes."""
    text = chain(8).replace("3 4 5 6 1 0 5.0 3", "3 4 5 6 1 180 41.8 2")
    text = text.replace("3 4 5 6 1 0 2.0 1\n", "").replace(
        "1 2 3 4 1 0 5.0 3", "1 2 3 4 1 180 41 2"
    )
    text = text.replace("1 2 3 4 1 0 2.0 1\n", "")
    asked = WantedSides(np.array([[2, 3, 4, 5]]), np.array([1 if cis else -1]))
    t = tables_of(tmp_path, text, "CHN", sides=asked)
    assert t.behind.tolist() == [[False] * 4 + [True] * 4]
    x = conformations(t, VacuumOptions(T, copies=32, settle=200, steps=400)).positions
    index = torch.tensor([[2, 3, 4, 5], [0, 1, 2, 3]])
    phi = np.abs(terms.dihedrals(torch.from_numpy(x), index).numpy())
    assert ((phi[:, 0] < np.pi / 2) == cis).all()
    other = (phi[:, 1] < np.pi / 2).mean()
    assert 0.1 < other < 0.9


def test_a_double_bond_of_a_ring_is_left_alone(tmp_path: Path) -> None:
    asked = WantedSides(np.array([[0, 1, 2, 3]]), np.array([-1]))
    assert not len(tables_of(tmp_path, chain(6, ring=True), "CHN", sides=asked).doubles)


def test_bonds_keep_their_lengths(tmp_path: Path) -> None:
    t = tables_of(tmp_path, chain(6), "CHN")
    found = conformations(t, VacuumOptions(T, copies=4, settle=100, steps=600))
    vectors = found.positions[:, t.bonds[:, 1]] - found.positions[:, t.bonds[:, 0]]
    assert np.abs(np.linalg.norm(vectors, axis=-1) - t.lengths).max() < 2e-5


def test_a_torsion_has_boltzmann_s_distribution(tmp_path: Path) -> None:
    """Four atoms in a row: the weights put right what lowering the barrier changed."""
    t = tables_of(tmp_path, chain(4), "CHN")
    t = replace(t, pairs=t.pairs[:0], pair_parameters=t.pair_parameters[:0])
    t = replace(t, torsion_left=np.full(len(t.torsions), 0.4))
    found = conformations(t, VacuumOptions(T, copies=64, settle=2000, steps=12000))
    index = torch.tensor([[0, 1, 2, 3]])
    phi = terms.dihedrals(torch.from_numpy(found.positions), index).numpy()[:, 0]
    weight = np.exp(found.log_weights)
    trans = float((weight * (np.abs(phi) > 2 * np.pi / 3)).sum() / weight.sum())
    grid = np.linspace(-np.pi, np.pi, 2001)
    law = np.exp(-(5.0 * (1 + np.cos(3 * grid)) + 2.0 * (1 + np.cos(grid))) / (BOLTZMANN * T))
    wanted = law[np.abs(grid) > 2 * np.pi / 3].sum() / law.sum()
    assert trans == pytest.approx(wanted, abs=0.04)
    unweighted = float((np.abs(phi) > 2 * np.pi / 3).mean())
    assert abs(unweighted - wanted) > abs(trans - wanted)


def test_angles_have_the_energy_that_equipartition_gives(tmp_path: Path) -> None:
    t = tables_of(tmp_path, chain(3), "CHN")
    found = conformations(t, VacuumOptions(T, copies=64, settle=1000, steps=6000))
    energy = [
        kernels.add_angles(x, t.angles, t.angle_which, t.angle_curves, np.zeros_like(x))
        for x in found.positions
    ]
    assert np.mean(energy) == pytest.approx(0.5 * BOLTZMANN * T, rel=0.06)


@pytest.mark.parametrize("sign", [1, -1])
def test_hands_are_those_asked_for(tmp_path: Path, sign: int) -> None:
    t = tables_of(
        tmp_path, CHIRAL, "CHI", centres=np.array([[0, 1, 2, 3, 4]]), signs=np.array([1.0 * sign])
    )
    x = conformations(t, VacuumOptions(T, copies=16, settle=100, steps=300)).positions
    a, b, c, d = (x[:, k] for k in (1, 2, 3, 4))
    volume = np.einsum("fi,fi->f", np.cross(b - a, c - a), d - a)
    assert (np.sign(volume) == sign).all()


def test_same_bits_for_any_number_of_threads(tmp_path: Path) -> None:
    t = tables_of(tmp_path, chain(5), "CHN")
    options = VacuumOptions(T, copies=6, settle=50, steps=120, seed=5)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = conformations(t, options).positions
        numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
        two = conformations(t, options).positions
    finally:
        numba.set_num_threads(before)
    assert one.tobytes() == two.tobytes()
    other = conformations(t, replace(options, seed=6)).positions
    assert np.abs(one - other).max() > 0.01


def test_only_barriers_that_nature_crosses_are_lowered(tmp_path: Path) -> None:
    """Double bonds keep cis and trans, and what is crossed anyway stays as it is."""
    stiff = chain(4).replace("1 0 5.0 3", "1 180 41.8 2").replace("1 0 2.0 1\n", "1 0 0.0 1\n")
    assert (tables_of(tmp_path, stiff, "CHN").torsion_left == 1.0).all()
    soft = chain(4).replace("1 0 5.0 3", "1 0 0.5 3").replace("1 0 2.0 1", "1 0 0.2 1")
    assert (tables_of(tmp_path, soft, "CHN").torsion_left == 1.0).all()
    middle = tables_of(tmp_path, chain(4), "CHN").torsion_left
    assert ((middle > 0.0) & (middle < 1.0)).all()


def test_far_atoms_of_a_molecule_only_repel(tmp_path: Path) -> None:
    t = tables_of(tmp_path, chain(8), "CHN")
    far = np.isfinite(t.pair_parameters[:, 3])
    apart = np.abs(t.pairs[:, 0] - t.pairs[:, 1])
    assert (far == (apart > 4)).all() and far.any()
    reach = np.sqrt(t.pair_parameters[far, 3])
    np.testing.assert_allclose(reach, 0.37 * 2 ** (1 / 6))


def test_distances_along_bonds(tmp_path: Path) -> None:
    ring = topology(tmp_path, chain(6, ring=True), {"CHN": 1}).molecule_types[0]
    found = bond_distances(ring, 2)
    assert found[0] == {0: 0, 1: 1, 5: 1, 2: 2, 4: 2}
