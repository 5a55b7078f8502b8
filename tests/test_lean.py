"""Systems without their virtual sites: charges, terms, and sites made of sites."""

import numpy as np
import pytest

from deepbackmap.io.topology import read_topology
from deepbackmap.quantities import COULOMB
from deepbackmap.system.lean import site_shares, without_sites
from deepbackmap.system.sites import place_sites
from sited_systems import CHAIN, HEAD, TIP4P, TIP4P_DISTANCE, WATER, WATER_ATOMS, write_sited


def topology_of(tmp_path, text, count=1):
    path = tmp_path / "x.top"
    path.write_text(f"{HEAD}{text}[ system ]\nx\n[ molecules ]\n{text.split()[3]} {count}\n")
    return read_topology(path)


def coulomb(charges, positions, first):
    """Between the first so many charges and the others, kJ/mol."""
    apart = np.linalg.norm(positions[:first, None] - positions[None, first:], axis=-1)
    return COULOMB * float((charges[:first, None] * charges[None, first:] / apart).sum())


@pytest.mark.parametrize("function", [TIP4P, TIP4P_DISTANCE])
@pytest.mark.parametrize("apart", [1.0, 2.0, 4.0])
def test_far_waters_attract_each_other_as_before(tmp_path, function, apart):
    """What is left out is the quadrupole: the error falls faster than the energy of dipoles."""
    lean = without_sites(topology_of(tmp_path, WATER.format(function=function), 2))
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    second = WATER_ATOMS @ turn + [apart, 0.3, -0.2]
    full = place_sites(np.concatenate([WATER_ATOMS, second]), np.zeros((3, 3)), lean.full)
    exact = coulomb(lean.full.charges(), full, 4)
    found = coulomb(lean.topology.charges(), full[lean.real], 3)
    assert abs(exact) > 1e-4
    assert abs(found - exact) < 0.25 * abs(exact) / apart


def test_a_site_made_of_sites_is_made_of_atoms_in_the_end(tmp_path):
    text = """[ moleculetype ]
TWO 1
[ atoms ]
1 C 1 TWO C1 1 0 14
2 C 1 TWO C2 1 0 14
3 V 1 TWO V1 1 0.5 0
4 V 1 TWO V2 1 1.0 0
[ bonds ]
1 2 1 0.15 1000
[ virtual_sites2 ]
3 1 2 1 0.5
4 1 3 1 0.5
"""
    molecule = topology_of(tmp_path, text).molecule_types[0]
    shares = {site: dict(rows) for site, rows in site_shares(molecule).items()}
    assert shares == {2: {0: 0.5, 1: 0.5}, 3: {0: 0.75, 1: 0.25}}
    bare = without_sites(topology_of(tmp_path, text)).topology.molecule_types[0]
    assert bare.charges == pytest.approx([0.25 + 0.75, 0.25 + 0.25])


def test_a_site_at_a_distance_takes_its_length_from_the_topology(tmp_path):
    """Along a bond of 0.153 nm, and by the angle at 0.12 nm between two bonds."""
    top, _, _ = write_sited(tmp_path)
    molecule = next(m for m in read_topology(top).molecule_types if m.name == "MOL")
    shares = dict(site_shares(molecule)[4])
    places = np.concatenate([CHAIN, np.zeros((5, 3))])
    angle = np.deg2rad(112.0)
    places[0], places[1] = [0.153, 0, 0], [0, 0, 0]
    places[2] = 0.153 * np.array([np.cos(angle), np.sin(angle), 0])
    v = 0.6 * (places[1] - places[0]) + 0.4 * (places[2] - places[0])
    expected = places[0] + 0.12 * v / np.linalg.norm(v)
    assert sum(w * places[a] for a, w in shares.items()) == pytest.approx(expected, abs=1e-9)


def test_terms_between_molecules_keep_to_the_atoms(tmp_path):
    text = WATER.format(function=TIP4P)
    path = tmp_path / "between.top"
    path.write_text(
        f"{HEAD}{text}[ system ]\nx\n[ molecules ]\nSOL 2\n"
        "[ intermolecular_interactions ]\n[ bonds ]\n1 5 6 0.3 100\n4 8 6 0.3 100\n"
    )
    lean = without_sites(read_topology(path))
    assert lean.topology.intermolecular["harmonic"].atoms.tolist() == [[0, 3]]
