"""Energies of single terms and pairs: values by hand, derivatives, symmetries, other programs."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from deepbackmap.errors import InputError
from deepbackmap.forcefield import TERMS, ForceField, energies_per_molecule, nonbonded, terms
from deepbackmap.forcefield.nonbonded import Exclusions, LennardJonesTable, ReactionField
from deepbackmap.quantities import COULOMB
from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology

DEGREE = math.pi / 180.0
SKEWED = np.array([[2.6, 0.0, 0.0], [1.2, 2.3, 0.0], [-0.7, 0.9, 2.1]])

PARAMETERS = {
    "bond": [0.15, 1000.0],
    "angle": [109.5 * DEGREE, 400.0],
    "angle_g96": [109.5 * DEGREE, 450.0],
    "proper": [20.0 * DEGREE, 6.0, 3.0],
    "ryckaert_bellemans": [9.3, 12.1, -13.1, -3.1, 26.2, -31.4],
    "improper": [35.0 * DEGREE, 167.0],
    "lj14": [0.12, 0.4],
    "coulomb14": [-0.2],
}
ATOMS = {"bond": 2, "angle": 3, "angle_g96": 3, "lj14": 2, "coulomb14": 2}
EVERY = pytest.mark.parametrize("kind", PARAMETERS)


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def arguments(kind, rng, n_terms=7, n_atoms=9):
    """Random index and parameters of terms of one kind."""
    k = ATOMS.get(kind, 4)
    index = np.array([rng.permutation(n_atoms)[:k] for _ in range(n_terms)])
    parameters = np.array(PARAMETERS[kind]) * rng.uniform(0.9, 1.1, (n_terms, 1))
    if kind == "proper":
        parameters[:, 2] = rng.integers(1, 5, n_terms)
    return torch.tensor(index), torch.tensor(parameters)


def value(kind, positions, parameters=None):
    """Energy of the one term over all given atoms."""
    index = torch.arange(len(positions))[None]
    parameters = tensor([PARAMETERS[kind] if parameters is None else parameters])
    return float(terms.FUNCTIONS[kind](tensor(positions), index, parameters)[0])


def four_atoms(phi):
    """Four atoms with right angles and the given dihedral (rad)."""
    return [
        [1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
        [math.cos(phi), math.sin(phi), 1.0],
    ]


# --- values worked out by hand ---------------------------------------------------------------


def test_hand_worked_bond_and_angles():
    assert value("bond", [[0, 0, 0], [0.16, 0, 0]], [0.15, 1000.0]) == pytest.approx(0.05)
    right = [[0.1, 0, 0], [0, 0, 0], [0, 0.2, 0]]
    assert value("angle", right, [math.pi / 2 - 0.1, 400.0]) == pytest.approx(2.0)
    assert value("angle_g96", right, [60.0 * DEGREE, 400.0]) == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("phi", "expected"), [(180.0, 0.0), (60.0, 0.0), (0.0, 12.0), (120.0, 12.0), (-90.0, 6.0)]
)
def test_proper_is_zero_in_trans_for_threefold(phi, expected):
    found = value("proper", four_atoms(phi * DEGREE), [0.0, 6.0, 3.0])
    assert found == pytest.approx(expected, abs=1e-12)


def test_dihedral_sign_follows_iupac():
    # looking from the second atom to the third, the front arm turns clockwise: positive
    angle = terms.dihedrals(tensor(four_atoms(0.7)), torch.arange(4)[None])
    assert float(angle) == pytest.approx(0.7)
    proper = value("proper", four_atoms(0.7), [0.3, 2.0, 1.0])
    assert proper == pytest.approx(2.0 * (1.0 + math.cos(0.7 - 0.3)))


def test_ryckaert_bellemans_is_the_sum_of_coefficients_in_trans():
    c = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert value("ryckaert_bellemans", four_atoms(math.pi), c) == pytest.approx(21.0)
    assert value("ryckaert_bellemans", four_atoms(0.0), c) == pytest.approx(-3.0)
    assert value("ryckaert_bellemans", four_atoms(math.pi / 2), c) == pytest.approx(1.0)


def test_improper_takes_the_short_way_round():
    found = value("improper", four_atoms(-175.0 * DEGREE), [175.0 * DEGREE, 100.0])
    assert found == pytest.approx(50.0 * (10.0 * DEGREE) ** 2)


def test_listed_pairs():
    assert value("lj14", [[0, 0, 0], [0.3, 0, 0]], [0.3, 0.5]) == pytest.approx(0.0, abs=1e-12)
    bottom = [[0, 0, 0], [0.3 * 2 ** (1 / 6), 0, 0]]
    assert value("lj14", bottom, [0.3, 0.5]) == pytest.approx(-0.5)
    assert value("coulomb14", [[0, 0, 0], [0, 2.0, 0]], [-1.0]) == pytest.approx(-COULOMB / 2)


# --- derivatives ------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("periodic", [False, True])
def test_gradients_agree_with_finite_differences(kind, periodic):
    rng = np.random.default_rng(5)
    index, parameters = arguments(kind, rng)
    box = tensor(SKEWED) if periodic else None
    spread = 2.0 if periodic else 0.25
    positions = tensor(rng.uniform(0, spread, (2, 9, 3))).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: terms.FUNCTIONS[kind](x, index, parameters, box), positions, atol=1e-4, rtol=1e-4
    )


DEGENERATE = {
    "coincident": np.zeros((4, 3)),
    "line": np.array([[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0]]),
    "folded line": np.array([[0, 0, 0], [0.1, 0, 0], [0, 0, 0], [0.1, 0, 0]]),
    "ends together": np.array([[0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [0, 0, 0]]),
    "middle together": np.array([[0, 0, 0], [0.1, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0]]),
    "cis": np.array([[0.1, 0.1, 0], [0.1, 0, 0], [0, 0, 0], [0, 0.1, 0]]),
}
DISTURBANCES = (0.0, 1e-30, 1e-20, 1e-12, 1e-7, 1e-5, 1e-4)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_geometry_is_finite(kind, dtype):
    rng = np.random.default_rng(9)
    exact = np.stack(list(DEGENERATE.values()))
    disturbed = [exact + d * rng.normal(size=exact.shape) for d in DISTURBANCES]
    positions = tensor(np.concatenate(disturbed), dtype).requires_grad_()
    index = torch.tensor(list(itertools.permutations(range(4), ATOMS.get(kind, 4))))
    energy = terms.FUNCTIONS[kind](positions, index, tensor([PARAMETERS[kind]], dtype))
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    assert energy.isfinite().all()
    assert gradient.isfinite().all()


# --- symmetries -------------------------------------------------------------------------------


@EVERY
def test_energy_is_unchanged_by_motions_images_and_order(kind):
    rng = np.random.default_rng(11)
    index, parameters = arguments(kind, rng)
    energy = terms.FUNCTIONS[kind]
    positions = rng.uniform(0.0, 0.3, (9, 3))
    expected = energy(tensor(positions), index, parameters).numpy()

    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    moved = positions @ rotation.T + [3.0, -5.0, 0.2]
    images = positions + rng.integers(-3, 4, (9, 3)) @ SKEWED
    order = rng.permutation(9)
    found = {
        "rotation and translation": energy(tensor(moved), index, parameters),
        "images": energy(tensor(images), index, parameters, tensor(SKEWED)),
        "reversal": energy(tensor(positions), index.flip(-1), parameters),
        "permutation": energy(
            tensor(positions[order]), torch.tensor(np.argsort(order))[index], parameters
        ),
    }
    for name, values in found.items():
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("kind", ["proper", "improper"])
def test_mirror_image_changes_the_sign_of_dihedrals(kind):
    mirrored = tensor(four_atoms(0.7)) * tensor([1.0, -1.0, 1.0])
    assert float(terms.dihedrals(mirrored, torch.arange(4)[None])) == pytest.approx(-0.7)
    assert value(kind, mirrored.tolist()) != pytest.approx(value(kind, four_atoms(0.7)), rel=0.01)


@EVERY
def test_batches_equal_loops(kind):
    rng = np.random.default_rng(13)
    energy = terms.FUNCTIONS[kind]
    positions = tensor(rng.uniform(0.0, 0.3, (3, 9, 3)))
    blocks = [arguments(kind, rng) for _ in range(3)]
    index, parameters = (torch.stack(a) for a in zip(*blocks, strict=True))
    shared = energy(positions, index[0], parameters[0])
    own = energy(positions, index, parameters)
    assert shared.shape == own.shape == (3, 7)
    for b in range(3):
        one = energy(positions[b], index[0], parameters[0])
        torch.testing.assert_close(shared[b], one)
        torch.testing.assert_close(own[b], energy(positions[b], index[b], parameters[b]))


# --- pairs ------------------------------------------------------------------------------------


def test_reaction_field_constants():
    field = ReactionField.from_epsilon(1.0, 2.5)
    assert (field.k, field.c) == pytest.approx((0.25, 1.25))
    conductor = ReactionField.from_epsilon(1.2, math.inf)
    assert (conductor.k, conductor.c) == pytest.approx((0.5 / 1.2**3, 1.5 / 1.2))
    assert ReactionField.from_epsilon(1.0, None) == ReactionField(0.0, 0.0)


def test_reaction_field_vanishes_at_the_cutoff_and_a_conductor_pulls_no_more():
    for epsilon in (1.0, 2.5, math.inf):
        field = ReactionField.from_epsilon(0.9, epsilon)
        r = tensor([0.9]).requires_grad_()
        energy = nonbonded.reaction_field(r, tensor([0.3]), field)
        assert float(energy.detach()) == pytest.approx(0.0, abs=1e-12)
    energy.backward()
    assert float(r.grad) == pytest.approx(0.0, abs=1e-12)


def test_soft_floor_is_smooth_bounded_and_only_below_the_floor():
    floor = tensor(0.3)
    r = torch.linspace(0.0, 0.6, 601, dtype=torch.float64, requires_grad=True)
    soft = nonbonded.soft_floor(r, floor)
    (slope,) = torch.autograd.grad(soft.sum(), r)
    assert torch.equal(soft[r >= 0.3], r[r >= 0.3])
    assert float(soft.detach().min()) == pytest.approx(0.15)
    assert (soft.diff() > 0).all()
    assert slope.diff().abs().max() < 0.0034  # 1/300 a step below, none above: no jump
    assert torch.equal(nonbonded.soft_floor(r, tensor(0.0)), r)


def small_table():
    c6 = np.array([[1.5e-3, 6e-4, 0.0], [6e-4, 2e-4, 0.0], [0.0, 0.0, 0.0]])
    c12 = np.array([[1.7e-6, 2.6e-7, 0.0], [2.6e-7, 3.1e-8, 0.0], [0.0, 0.0, 0.0]])
    return c6, c12


def test_soft_fraction_bounds_lennard_jones_also_in_single_precision():
    c6, c12 = small_table()
    topology = Topology("", (), (), ("A", "B", "O"), c6, c12)
    table = LennardJonesTable.from_topology(topology, torch.float32)
    rows = torch.tensor([0, 1, 0, 2])
    others = torch.tensor([0, 1, 1, 0])
    for fraction in (None, 0.8):
        r = torch.tensor([0.0, 1e-10, 1e-4, 0.0], requires_grad=True)
        energy = table.energies(r, rows, others, fraction)
        (gradient,) = torch.autograd.grad(energy.sum(), r)
        assert energy.isfinite().all()
        assert gradient.isfinite().all()
    epsilon = c6**2 / (4 * np.where(c12 > 0, c12, 1))
    assert float(energy.detach()[0]) == pytest.approx(
        4 * epsilon[0, 0] * (0.4**-12 - 0.4**-6), rel=1e-4
    )
    assert float(energy.detach()[3]) == 0.0
    far = torch.tensor([0.5])
    torch.testing.assert_close(
        table.energies(far, rows[:1], others[:1], 0.8), table.energies(far, rows[:1], others[:1])
    )


@pytest.mark.parametrize("atoms_at_once", [1000, 10], ids=["whole", "slabs"])
def test_neighbour_pairs_are_those_of_a_brute_force_search(atoms_at_once):
    rng = np.random.default_rng(17)
    box = np.array([[2.6, 0.0, 0.0], [1.2, 2.3, 0.0], [-0.7, 0.9, 4.1]])
    positions = rng.uniform(-1.0, 5.0, (100, 3))  # not wrapped
    positions[:2, 2] = -1e-18, 4.1  # on the edge
    found = list(nonbonded.neighbour_pairs(positions, box, 1.0, atoms_at_once))
    assert len(found) == (1 if atoms_at_once > 100 else 4)
    pairs = np.sort(np.concatenate(found), axis=1)
    turns = itertools.product(range(-7, 8), range(-5, 6), range(-3, 4))
    shifts = np.array(list(turns)) @ box
    i, j = np.triu_indices(100, 1)
    nearest = np.full(len(i), np.inf)
    for shift in shifts:
        nearest = np.minimum(nearest, ((positions[j] - positions[i] + shift) ** 2).sum(axis=1))
    expected = np.stack([i, j], axis=1)[nearest < 1.0]
    np.testing.assert_array_equal(pairs[np.lexsort(pairs.T[::-1])], expected)


# --- whole systems ----------------------------------------------------------------------------


def molecule(name, rng, n, *, types, nrexcl=2):
    """A chain of n atoms with every kind of term and random parameters."""
    chain = np.arange(n)

    def listed(kind, k):
        atoms = np.stack([chain[i : n - k + 1 + i] for i in range(k)], axis=1)
        parameters = np.array(PARAMETERS[kind]) * rng.uniform(0.9, 1.1, (len(atoms), 1))
        if kind == "proper":
            parameters[:, 2] = 3.0
        return BondedTerms(atoms, parameters)

    kinds = {k: ATOMS.get(k, 4) for k in PARAMETERS if not k.endswith("14")}
    found = {kind: listed(kind, k) for kind, k in kinds.items() if k <= n}
    close = [(i, j) for i in range(n) for j in range(i + 1, n) if j - i <= nrexcl]
    fourth = np.stack([chain[: n - 3], chain[3:]], axis=1) if n > 3 else np.zeros((0, 2), np.int64)
    columns = np.tile([0.25, 0.3, 0.5], (len(fourth), 1)) * rng.uniform(0.9, 1.1, (len(fourth), 1))
    return MoleculeType(
        name=name,
        atom_names=tuple(f"X{i}" for i in chain),
        atom_types=tuple(types[i % len(types)] for i in chain),
        residue_names=(name,) * n,
        residue_numbers=np.ones(n, dtype=np.int64),
        charges=rng.uniform(-0.4, 0.4, n),
        masses=np.full(n, 12.0),
        terms=found,
        nrexcl=nrexcl,
        exclusions=np.array(close, dtype=np.int64).reshape(-1, 2),
        pairs=BondedTerms(fourth, columns),
    )


def mixed_system(seed=3, wrapped=True):
    """Chains and single atoms in recurring runs, in a skewed box, wrapped atom by atom."""
    rng = np.random.default_rng(seed)
    kinds = (
        molecule("CHAIN", rng, 7, types=("A", "B")),
        molecule("ION", rng, 1, types=("B",)),
        molecule("SHORT", rng, 3, types=("B", "A", "O"), nrexcl=1),
    )
    c6, c12 = small_table()
    topology = Topology(
        "mixed", kinds, ((1, 2), (0, 4), (2, 3), (0, 2), (1, 3)), ("A", "B", "O"), c6, c12
    )
    steps = rng.normal(size=(topology.n_atoms, 3))
    steps *= 0.16 / np.linalg.norm(steps, axis=1)[:, None]
    positions = np.zeros_like(steps)
    offsets = topology.molecule_offsets()
    for first, last in itertools.pairwise(offsets):
        start = rng.uniform(0, 1, 3) @ SKEWED
        positions[first:last] = start + np.cumsum(steps[first:last], axis=0)
    turns = np.floor(positions @ np.linalg.inv(SKEWED)) * wrapped
    return topology, Structure(positions - turns @ SKEWED, SKEWED)


def excluded_pairs(topology):
    """All excluded pairs of the system, one by one."""
    found = set()
    index = topology.molecule_type_index()
    for offset, t in zip(topology.molecule_offsets(), index, strict=False):
        found |= {(offset + i, offset + j) for i, j in topology.molecule_types[t].exclusions}
    return found


def test_exclusions_of_several_molecule_types():
    topology, _ = mixed_system()
    pairs = np.array(list(itertools.permutations(range(topology.n_atoms), 2)))
    found = Exclusions(topology).contains(pairs)
    expected = excluded_pairs(topology)
    assert {tuple(p) for p in np.sort(pairs[found], axis=1).tolist()} == expected
    assert found.sum() == 2 * len(expected)


def test_energies_of_molecules_are_intra_and_half_of_inter():
    topology, structure = mixed_system()
    field = ForceField.from_topology(topology)
    found = energies_per_molecule(field, structure)
    rows, q = topology.atom_type_index(), topology.charges()
    owner = np.repeat(np.arange(topology.n_molecules), np.diff(topology.molecule_offsets()))
    excluded = excluded_pairs(topology)
    shifts = np.array(list(itertools.product(range(-3, 4), repeat=3))) @ SKEWED
    expected = {n: np.zeros(topology.n_molecules) for n in found if n.endswith(("intra", "inter"))}
    k, c = field.reaction_field.k, field.reaction_field.c
    np.add.at(expected["coulomb intra"], owner, -0.5 * COULOMB * c * q**2)
    for i, j in itertools.combinations(range(topology.n_atoms), 2):
        vector = structure.positions[j] - structure.positions[i]
        r = np.linalg.norm(vector + shifts, axis=1).min()
        if r >= 1.0:
            continue
        types, kept = (rows[i], rows[j]), (i, j) not in excluded
        lj = kept * (topology.c12[types] / r**12 - topology.c6[types] / r**6)
        coulomb = COULOMB * q[i] * q[j] * (kept / r + k * r**2 - c)
        where = "intra" if owner[i] == owner[j] else "inter"
        for atom in (i, j):
            expected[f"lj {where}"][owner[atom]] += 0.5 * lj
            expected[f"coulomb {where}"][owner[atom]] += 0.5 * coulomb
    assert all(energies.any() for energies in expected.values())
    for name, energies in expected.items():
        np.testing.assert_allclose(found[name], energies, rtol=1e-9, atol=1e-12, err_msg=name)
    by_term = field.energies_by_term(structure)
    for name in ("lj", "coulomb"):
        both = found.pop(f"{name} intra") + found.pop(f"{name} inter")
        assert both.sum() == pytest.approx(by_term.pop(name))
    assert {name: energies.sum() for name, energies in found.items()} == pytest.approx(by_term)


def test_pieces_do_not_change_energies(monkeypatch):
    topology, structure = mixed_system()
    field = ForceField.from_topology(topology)
    expected = field.energies_by_term(structure)
    by_molecule = energies_per_molecule(field, structure)
    monkeypatch.setattr("deepbackmap.forcefield.system.PAIRS_AT_ONCE", 17)
    monkeypatch.setattr("deepbackmap.forcefield.molecules.PAIRS_AT_ONCE", 17)
    monkeypatch.setattr("deepbackmap.forcefield.system.ATOMS_AT_ONCE", 8)
    assert field.energies_by_term(structure) == pytest.approx(expected)
    for name, found in energies_per_molecule(field, structure).items():
        np.testing.assert_allclose(found, by_molecule[name], rtol=1e-9, err_msg=name)


def test_copies_of_a_box_have_as_much_energy_each():
    topology, one = mixed_system(wrapped=False)
    expected = ForceField.from_topology(topology).energies_by_term(one)
    copies = 3
    many = Structure(
        np.concatenate([one.positions + k * one.box[2] for k in range(copies)]),
        one.box * np.array([[1.0], [1.0], [copies]]),
    )
    field = ForceField.from_topology(dataclasses.replace(topology, blocks=topology.blocks * copies))
    assert field.energies_by_term(many) == pytest.approx(
        {name: copies * energy for name, energy in expected.items()}
    )
    for name, found in energies_per_molecule(field, many).items():
        each = found.reshape(copies, -1)
        np.testing.assert_allclose(each, each[:1].repeat(copies, axis=0), rtol=1e-8, err_msg=name)


def test_a_box_of_zeros_is_open():
    topology, structure = mixed_system()
    field = ForceField.from_topology(topology)
    spread = Structure(structure.positions, np.diag([50.0, 50.0, 50.0]))
    vacuum = Structure(structure.positions, np.zeros((3, 3)))
    assert field.energies_by_term(vacuum) == pytest.approx(field.energies_by_term(spread))


def test_excluded_correction_is_the_self_and_excluded_reaction_field():
    topology, structure = mixed_system()
    field = ForceField.from_topology(topology)
    q = topology.charges()
    expected = -0.5 * COULOMB * 1.25 * (q**2).sum()
    shifts = np.array(list(itertools.product(range(-3, 4), repeat=3))) @ SKEWED
    for i, j in excluded_pairs(topology):
        vector = structure.positions[j] - structure.positions[i]
        r = np.linalg.norm(vector + shifts, axis=1).min()
        expected += COULOMB * q[i] * q[j] * (0.25 * r**2 - 1.25)
    with_it = field.energies_by_term(structure)["coulomb"]
    without = field.energies_by_term(structure, excluded_correction=False)["coulomb"]
    assert with_it - without == pytest.approx(expected)


def test_wrong_frames_are_refused():
    topology, structure = mixed_system()
    field = ForceField.from_topology(topology)
    x = structure.positions
    with pytest.raises(InputError, match="expected 56 atoms in the frame, found 55"):
        field.energies_by_term(Structure(x[:-1], SKEWED))
    with pytest.raises(InputError, match=r"at least 2 nm .*1\.9"):
        field.energies_by_term(Structure(x, np.diag([3.0, 3.0, 1.9])))
    with pytest.raises(InputError, match="lower triangular"):
        energies_per_molecule(field, Structure(x, SKEWED.T.copy()))
    broken = x.copy()
    broken[4, 1] = np.nan
    with pytest.raises(InputError, match=r"finite coordinates.*atom 5"):
        field.energies_by_term(Structure(broken, SKEWED))


def test_wrong_settings_are_refused():
    topology, _ = mixed_system()
    with pytest.raises(ValueError, match="cutoff: expected a length above 0 nm, got 0"):
        ForceField.from_topology(topology, cutoff=0.0)
    with pytest.raises(ValueError, match=r"reaction_field_epsilon: expected .* got 0"):
        ForceField.from_topology(topology, reaction_field_epsilon=0.0)


# --- against OpenMM ---------------------------------------------------------------------------


def openmm_forces(openmm, topology):
    """One OpenMM force for each term that is to be compared, in doubles."""
    expand = topology.expand_terms
    offsets, index = topology.molecule_offsets(), topology.molecule_type_index()
    q, rows = topology.charges(), topology.atom_type_index()
    excluded = [tuple(map(int, p)) for p in sorted(excluded_pairs(topology))]
    bond, angle = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    g96 = openmm.CustomAngleForce("k/2*(cos(theta)-cos(t0))^2")
    proper, rb = openmm.PeriodicTorsionForce(), openmm.RBTorsionForce()
    improper = openmm.CustomTorsionForce(
        "k/2*min(d,2*pi-d)^2; d=abs(theta-t0); pi=3.141592653589793"
    )
    lj14 = openmm.CustomBondForce("4*e*((s/r)^12-(s/r)^6)")
    coulomb14 = openmm.CustomBondForce(f"{COULOMB}*qq/r")
    extra = openmm.CustomBondForce(f"{COULOMB}*qq*(0.25*r^2-1.25)")
    for force, names in (
        (g96, ["t0", "k"]),
        (improper, ["t0", "k"]),
        (lj14, ["s", "e"]),
        (coulomb14, ["qq"]),
        (extra, ["qq"]),
    ):
        for name in names:
            add = getattr(force, f"addPer{type(force).__name__[6:-5]}Parameter")
            add(name)
    for kind, add in (
        ("bond", lambda a, p: bond.addBond(*a, *p)),
        ("angle", lambda a, p: angle.addAngle(*a, *p)),
        ("angle_g96", lambda a, p: g96.addAngle(*a, p)),
        ("proper", lambda a, p: proper.addTorsion(*a, int(p[2]), p[0], p[1])),
        ("ryckaert_bellemans", lambda a, p: rb.addTorsion(*a, *p)),
        ("improper", lambda a, p: improper.addTorsion(*a, p)),
    ):
        listed = expand(kind)
        for atoms, parameters in zip(
            listed.atoms.tolist(), listed.parameters.tolist(), strict=True
        ):
            add(atoms, parameters)
    for offset, t in zip(offsets, index, strict=False):
        pairs = topology.molecule_types[t].pairs
        for (i, j), (s, e, fudge) in zip(
            (pairs.atoms + offset).tolist(), pairs.parameters.tolist(), strict=True
        ):
            lj14.addBond(i, j, [s, e])
            coulomb14.addBond(i, j, [fudge * q[i] * q[j]])
    for i, j in excluded:
        extra.addBond(i, j, [q[i] * q[j]])

    n = len(topology.type_names)
    lj = openmm.CustomNonbondedForce("c12(t1,t2)/r^12-c6(t1,t2)/r^6")
    for name in ("c6", "c12"):
        flat = getattr(topology, name).flatten(order="F").tolist()
        lj.addTabulatedFunction(name, openmm.Discrete2DFunction(n, n, flat))
    lj.addPerParticleParameter("t")
    coulomb = openmm.CustomNonbondedForce(f"{COULOMB}*q1*q2*(1/r+0.25*r^2-1.25)")
    coulomb.addPerParticleParameter("q")
    for force, values in ((lj, rows), (coulomb, q)):
        for v in values:
            force.addParticle([float(v)])
        for i, j in excluded:
            force.addExclusion(i, j)
        force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(1.0)
    groups = {
        "bond": [bond],
        "angle": [angle, g96],
        "proper": [proper, rb],
        "improper": [improper],
        "lj": [lj],
        "coulomb": [coulomb, extra],
        "lj14": [lj14],
        "coulomb14": [coulomb14],
    }
    for force in itertools.chain(*groups.values()):
        if hasattr(force, "setUsesPeriodicBoundaryConditions"):
            force.setUsesPeriodicBoundaryConditions(True)
    return groups


@pytest.mark.parametrize("seed", [3, 4])
def test_energies_and_gradients_equal_openmm(seed):
    openmm = pytest.importorskip("openmm")
    topology, structure = mixed_system(seed)
    groups = openmm_forces(openmm, topology)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*[openmm.Vec3(*row) for row in SKEWED.tolist()])
    for _ in range(topology.n_atoms):
        system.addParticle(12.0)
    for number, forces in enumerate(groups.values()):
        for force in forces:
            force.setForceGroup(number)
            system.addForce(force)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(structure.positions.tolist())

    positions = tensor(structure.positions).requires_grad_()
    found = ForceField.from_topology(topology).energies(positions, tensor(structure.box))
    # the charges' own reaction field is a constant that no pair force has
    own = -0.5 * COULOMB * 1.25 * float((topology.charges() ** 2).sum())
    assert tuple(groups) == TERMS
    for number, name in enumerate(groups):
        state = context.getState(getEnergy=True, getForces=True, groups={number})
        energy = state.getPotentialEnergy()._value + (own if name == "coulomb" else 0.0)
        force = np.array(state.getForces(asNumpy=True)._value)
        (gradient,) = torch.autograd.grad(found[name], positions, retain_graph=True)
        assert float(found[name].detach()) == pytest.approx(energy, rel=1e-9, abs=1e-9), name
        scale = np.abs(force).max()
        np.testing.assert_allclose(
            -gradient.numpy() / scale, force / scale, atol=1e-7, err_msg=name
        )
