"""Dynamics of one molecule alone, against the force field's own energies and Boltzmann's law."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from deepbackmap.forcefield import terms
from deepbackmap.forcefield.system import molecule_tables
from deepbackmap.methods.physics import kernels
from deepbackmap.methods.physics.tables import VacuumTables, bond_distances, vacuum_tables
from deepbackmap.methods.physics.vacuum import VacuumOptions, conformations
from deepbackmap.quantities import BOLTZMANN
from physics_systems import CHIRAL, chain, topology

T = 400.0


def tables_of(folder: Path, text: str, name: str, **keys: object) -> VacuumTables:
    """Of the one molecule of a system."""
    found = topology(folder, text, {name: 1})
    return vacuum_tables(found.molecule_types[0], found, T, **keys)  # type: ignore[arg-type]


def bonded(t: VacuumTables, x: np.ndarray, f: np.ndarray) -> float:
    """Energy of all terms but bonds; lowered torsions as they push."""
    e = kernels.add_angles(x, t.angles, t.angle_parameters, f)
    e += kernels.add_torsions(
        x, t.propers, t.proper_parameters, t.polynomials, t.polynomial_parameters, t.impropers,
        t.improper_parameters, f,
    )[0]  # fmt: skip
    return float(e + kernels.add_pairs(x, t.pairs, t.pair_parameters, f))


def test_forces_are_minus_the_gradient(tmp_path: Path) -> None:
    t = tables_of(tmp_path, chain(7), "CHN")
    impropers = np.array([[0, 1, 2, 3], [2, 4, 1, 5]])
    t = replace(t, impropers=impropers, improper_parameters=np.array([[0.3, 90.0], [2.9, 70.0]]))
    t = replace(t, polynomials=t.propers[:2], polynomial_parameters=np.tile(
        [1.0, 2.0, -3.0, 0.5, 0.7, -0.2, 0.4], (2, 1)))  # fmt: skip
    t.pair_parameters[:, 2] = 3.0
    cosine = t.angle_parameters.copy()
    cosine[::2, 2] = 1.0
    t = replace(t, angle_parameters=cosine)
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
    got = kernels.add_angles(x, t.angles, t.angle_parameters, f)
    pushed, lacking = kernels.add_torsions(
        x, t.propers, t.proper_parameters, t.polynomials, t.polynomial_parameters, t.impropers,
        t.improper_parameters, f,
    )  # fmt: skip
    wanted = sum(
        float(terms.FUNCTIONS[k.kind](torch.from_numpy(x), k.index, k.parameters).sum())
        for k in molecule_tables(molecule)
        if k.kind != "bond"
    )
    assert got + pushed + lacking == pytest.approx(wanted, rel=1e-9)


def test_bonds_keep_their_lengths(tmp_path: Path) -> None:
    t = tables_of(tmp_path, chain(6), "CHN")
    found = conformations(t, VacuumOptions(T, copies=4, settle=100, steps=600))
    vectors = found.positions[:, t.bonds[:, 1]] - found.positions[:, t.bonds[:, 0]]
    assert np.abs(np.linalg.norm(vectors, axis=-1) - t.lengths).max() < 2e-5


def test_a_torsion_has_boltzmann_s_distribution(tmp_path: Path) -> None:
    """Four atoms in a row: the weights put right what lowering the barrier changed."""
    t = tables_of(tmp_path, chain(4), "CHN")
    t = replace(t, pairs=t.pairs[:0], pair_parameters=t.pair_parameters[:0])
    left = t.proper_parameters.copy()
    left[:, 3] = 0.4
    t = replace(t, proper_parameters=left)
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
        kernels.add_angles(x, t.angles, t.angle_parameters, np.zeros_like(x))
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
    assert (tables_of(tmp_path, stiff, "CHN").proper_parameters[:, 3] == 1.0).all()
    soft = chain(4).replace("1 0 5.0 3", "1 0 0.5 3").replace("1 0 2.0 1", "1 0 0.2 1")
    assert (tables_of(tmp_path, soft, "CHN").proper_parameters[:, 3] == 1.0).all()
    middle = tables_of(tmp_path, chain(4), "CHN").proper_parameters[:, 3]
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
