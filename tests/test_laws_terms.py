"""Terms that are one another by other names: written in torch, compiled, and in tensors."""

import math

import numpy as np
import pytest
import torch

from deepbackmap.forcefield import terms
from deepbackmap.io.topology.gromacs_types import surface
from deepbackmap.mechanics.lanes import LANES
from test_mechanics_card import by_tensors
from test_mechanics_engine import by_kernel

DEGREE = math.pi / 180.0


def in_torch(kind, x, atoms, parameters, **grids):
    at = torch.tensor(x, requires_grad=True)
    energy = terms.FUNCTIONS[kind](at, torch.tensor(atoms), torch.tensor(parameters), **grids).sum()
    energy.backward()
    return float(energy.detach()), -at.grad.numpy()


def compiled(kind, x, atoms, parameters):
    energies, forces = by_kernel(kind, np.repeat(x[None], LANES, axis=0), atoms, parameters)
    assert np.ptp(energies) == 0.0
    return energies[0], forces[0]


WAYS = {"torch": in_torch, "compiled": compiled, "tensors": by_tensors}
ways = pytest.mark.parametrize("way", WAYS)


def points(n=6, seed=0, size=0.11):
    """Atoms of which no three are in a line."""
    return np.cumsum(size * np.random.default_rng(seed).normal(size=(n, 3)), axis=0)


def rows(width, n=6):
    return np.array([range(k, k + width) for k in range(n - width + 1)])


def same(way, one, other, seeds=range(3), rel=1e-9):
    """Two kinds with their parameters have the same energy and the same forces."""
    width = {2: 2, 3: 3, 4: 4}[terms_of(one[0])]
    for seed in seeds:
        x, atoms = points(seed=seed), rows(width)
        found = [
            WAYS[way](kind, x, atoms, np.tile(np.array(row, dtype=float), (len(atoms), 1)))
            for kind, row in (one, other)
        ]
        size = max(1.0, np.abs(found[0][1]).max())
        assert found[0][0] == pytest.approx(found[1][0], rel=rel, abs=rel * size)
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=0, atol=rel * size)


def terms_of(kind):
    known = {
        2: ("bond", "harmonic", "bond_g96", "morse", "bond_cubic", "fene", "lj14", "lj14_powers"),
        3: ("angle", "angle_g96", "angle_quartic", "angle_restricted", "urey_bradley"),
    }
    return next((n for n, kinds in known.items() if kind in kinds), 4)


PAIRS = [
    (("bond", [0.15, 900.0]), ("harmonic", [0.15, 900.0])),
    (("bond", [0.15, 900.0]), ("bond_cubic", [0.15, 450.0, 0.0])),
    (("lj14", [0.3, 0.5]), ("lj14_powers", [2.0 * 0.3**6, 2.0 * 0.3**12])),
    (("angle", [1.9, 300.0]), ("angle_quartic", [1.9, 0.0, 0.0, 150.0, 0.0, 0.0])),
    # (theta - 2)^2 about another angle: 150 (d - 0.1)^2 with d = theta - 1.9
    (("angle", [2.0, 300.0]), ("angle_quartic", [1.9, 1.5, -30.0, 150.0, 0.0, 0.0])),
    # with psi = phi - 180 degrees, cos phi = -cos psi
    (("proper", [0.0, 7.0, 1.0]), ("ryckaert_bellemans", [7.0, -7.0, 0, 0, 0, 0])),
    (("proper", [0.0, 7.0, 2.0]), ("ryckaert_bellemans", [0, 0, 14.0, 0, 0, 0])),
    (("proper", [0.0, 7.0, 3.0]), ("ryckaert_bellemans", [7.0, 21.0, 0, -28.0, 0, 0])),
    (("proper", [math.pi, 7.0, 2.0]), ("ryckaert_bellemans", [14.0, 0, -14.0, 0, 0, 0])),
    # cos 4 phi = 8 cos^4 - 8 cos^2 + 1
    (("proper", [0.0, 7.0, 4.0]), ("ryckaert_bellemans", [14.0, 0, -56.0, 0, 56.0, 0])),
    (("proper", [0.7, 7.0, 3.0]), ("proper", [-0.7, 7.0, -3.0])),
    (("proper", [0.7, 7.0, 3.0]), ("proper", [0.7 + 2 * math.pi, 7.0, 3.0])),
    (("improper", [0.4, 50.0]), ("improper", [0.4 - 2 * math.pi, 50.0])),
]


@ways
@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p[0][0]}-{p[1][0]}")
def test_one_function_by_two_names(way, pair):
    same(way, *pair)


@ways
def test_a_sum_of_terms_is_the_term_of_the_sum(way):
    """Of what is linear in its parameters: two dihedrals on the same atoms."""
    x, atoms = points(), rows(4)
    first, second = np.array([1.0, 2.0, -3.0, 0.5, 0.7, -0.2]), np.array([0.5, 0, 1.0, 0, 2.0, 1.0])
    tiled = [np.tile(p, (len(atoms), 1)) for p in (first, second, first + second)]
    one, two, both = (WAYS[way]("ryckaert_bellemans", x, atoms, p) for p in tiled)
    assert both[0] == pytest.approx(one[0] + two[0])
    np.testing.assert_allclose(both[1], one[1] + two[1], atol=1e-9)


NEAR = [
    # kind, its parameters, and the stiffness of the spring that it is near its rest
    ("morse", [0.15, 200.0, 12.0], 2 * 200.0 * 12.0**2),
    ("bond_g96", [0.15, 4e5], 2 * 4e5 * 0.15**2),
    ("bond_cubic", [0.15, 900.0, 3.0], 1800.0),
]


@ways
@pytest.mark.parametrize(("kind", "row", "stiffness"), NEAR, ids=[n for n, *_ in NEAR])
def test_bonds_are_springs_near_their_rest(way, kind, row, stiffness):
    atoms = np.array([[0, 1]])
    for off in (1e-5, -1e-5):
        x = np.array([[0.0, 0.0, 0.0], [0.15 + off, 0.0, 0.0]])
        energy, forces = WAYS[way](kind, x, atoms, np.array([row]))
        assert energy == pytest.approx(0.5 * stiffness * off**2, rel=1e-3)
        assert forces[1, 0] == pytest.approx(-stiffness * off, rel=1e-3)
    x = np.array([[0.0, 0.0, 0.0], [0.15, 0.0, 0.0]])
    energy, forces = WAYS[way](kind, x, atoms, np.array([row]))
    assert energy == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(forces, 0.0, atol=1e-8)


@ways
def test_angles_in_the_cosine_are_springs_near_their_rest(way):
    """k/2 (cos - cos0)^2 is k sin0^2 / 2 (theta - theta0)^2, and the restricted one k/2 of it."""
    rest = 110.0 * DEGREE
    for off in (1e-4, -1e-4):
        angle = rest + off
        x = np.array([[0.1, 0, 0], [0, 0, 0], [0.1 * math.cos(angle), 0.1 * math.sin(angle), 0]])
        for kind, stiffness in (
            ("angle_g96", 400.0 * math.sin(rest) ** 2), ("angle_restricted", 400.0),
        ):  # fmt: skip
            energy, _ = WAYS[way](kind, x, rows(3, 3), np.array([[rest, 400.0]]))
            assert energy == pytest.approx(0.5 * stiffness * off**2, rel=1e-3)


@ways
@pytest.mark.parametrize("kind", ["angle", "angle_g96", "angle_restricted", "angle_quartic"])
def test_angles_know_no_lengths_and_dihedrals_neither(way, kind):
    """Arms of any length: the same energy, and no force along an arm."""
    row = {"angle_quartic": [1.9, 1.0, 2.0, 300.0, -4.0, 2.0]}.get(kind, [1.9, 300.0])
    x = points(3, seed=4)
    longer = x.copy()
    longer[0] = x[1] + 1.7 * (x[0] - x[1])
    atoms = rows(3, 3)
    one, other = (WAYS[way](kind, p, atoms, np.array([row])) for p in (x, longer))
    assert one[0] == pytest.approx(other[0], rel=1e-9)
    for forces, p in ((one[1], x), (other[1], longer)):
        assert abs(forces[0] @ (p[0] - p[1])) < 1e-9 * np.abs(forces).max()
        assert abs(forces[2] @ (p[2] - p[1])) < 1e-9 * np.abs(forces).max()
        np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9 * np.abs(forces).max())


@ways
def test_a_bond_of_finite_extension_gets_stiff_and_stays_finite(way):
    """Near zero a spring; its energy grows without end towards its longest, and goes on beyond."""
    atoms, row = np.array([[0, 1]]), np.array([[0.4, 500.0]])

    def at(r):
        x = np.array([[0.0, 0.0, 0.0], [r, 0.0, 0.0]])
        energy, forces = WAYS[way]("fene", x, atoms, row)
        return energy, -forces[1, 0]

    assert at(0.004)[0] == pytest.approx(250.0 * 0.004**2, rel=1e-3)
    r = 0.3
    assert at(r)[0] == pytest.approx(-250.0 * 0.4**2 * math.log(1 - (r / 0.4) ** 2))
    assert at(r)[1] == pytest.approx(500.0 * r / (1 - (r / 0.4) ** 2))
    grid = [at(r) for r in np.linspace(0.05, 0.8, 40)]
    assert all(np.isfinite(v).all() for v in grid)
    assert (np.diff([e for e, _ in grid]) > 0).all()


# --- tables, which torch alone has ----------------------------------------------------------------


def table(values, slopes, start, stop):
    n = len(values)
    grid = torch.tensor(np.stack([values, slopes])[None])
    return grid, [1.0, 0.0, start, (stop - start) / (n - 1), float(n)]


@pytest.mark.parametrize("kind", ["bond", "angle", "dihedral"])
def test_a_table_of_a_function_is_the_function(kind):
    """Cubic between points with its slopes: of a sine an error of the fourth order."""
    width, low, high = {"bond": (2, 0.0, 1.0), "angle": (3, 0.0, math.pi),
                        "dihedral": (4, -math.pi, math.pi)}[kind]  # fmt: skip
    x, atoms = points(seed=2), rows(width)
    measure = {"bond": terms.distances, "angle": terms.angles, "dihedral": terms.dihedrals}[kind]
    at = measure(torch.tensor(x), torch.tensor(atoms)).numpy()
    errors = []
    for n in (41, 81):
        grid = np.linspace(low, high, n)
        made, row = table(np.sin(3 * grid), 3 * np.cos(3 * grid), low, high)
        row = np.tile(row, (len(atoms), 1))
        energy, forces = in_torch(f"{kind}_table", x, atoms, row, grids=made)
        errors.append(abs(energy - np.sin(3 * at).sum()))
        np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 6


def test_beyond_its_ends_a_table_is_a_straight_line():
    grid = np.linspace(0.1, 0.3, 21)
    made, row = table(grid**2, 2 * grid, 0.1, 0.3)
    for r, expected in ((0.05, 0.01 - 0.05 * 0.2), (0.5, 0.09 + 0.2 * 0.6), (0.2, 0.04)):
        x = np.array([[0.0, 0.0, 0.0], [r, 0.0, 0.0]])
        energy, _ = in_torch("bond_table", x, np.array([[0, 1]]), np.array([row]), grids=made)
        assert energy == pytest.approx(expected, abs=1e-9)


def test_a_map_of_two_angles_that_do_not_know_of_each_other_is_their_sum():
    """And its own slopes are those of the function it was made from."""
    step = 2 * math.pi / 24
    phi = -math.pi + step * np.arange(24)
    values = 3.0 * np.cos(phi)[:, None] - 2.0 * np.sin(phi)[None]
    grids = surface(values)
    np.testing.assert_allclose(grids[1], np.repeat(-3 * np.sin(phi)[:, None], 24, 1), atol=2e-3)
    np.testing.assert_allclose(grids[2], np.repeat(-2 * np.cos(phi)[None], 24, 0), atol=2e-3)
    np.testing.assert_allclose(grids[3], 0.0, atol=1e-9)
    for seed in range(5):
        x = points(5, seed=seed)
        angles = terms.dihedrals(torch.tensor(x), torch.tensor(rows(4, 5))).numpy()
        energy, _ = in_torch(
            "cmap", x, np.arange(5)[None], np.zeros((1, 1)), grids=torch.tensor(grids[None])
        )
        expected = 3.0 * math.cos(angles[0]) - 2.0 * math.sin(angles[1])
        assert energy == pytest.approx(expected, abs=2e-4)
