"""SOAP features: whatever image, cell or orientation the coordinates are given in."""

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from dscribe.descriptors import SOAP

from deepbackmap.errors import InputError
from deepbackmap.similarity.options import MapOptions
from deepbackmap.similarity.soap import environments
from evaluation_systems import SKEWED, molecule, rotation, scattered, structure, topology

OPTIONS = MapOptions(cutoff=0.45, n_max=4, l_max=3, width=0.04)
N = 30


def gas(types="CFCH"):
    """Atoms all over a skewed cell; every fourth is a hydrogen."""
    types = [types[k % len(types)] for k in range(N)]
    top = topology(molecule(types, []))
    places = np.random.default_rng(0).random((N, 3)) @ SKEWED
    return top, structure(places)


def features(top, frame, centres, options=OPTIONS):
    return environments(top, options).features([frame], [np.array(centres)])


def test_features_are_those_of_the_explicit_surroundings():
    top, frame = gas()
    symbols = np.array(["C", "F", "C", "H"])[np.arange(N) % 4]
    heavy = symbols != "H"
    images = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3) @ SKEWED
    around = (frame.positions[heavy][None] + images[:, None]).reshape(-1, 3)
    cluster = Atoms(list(np.tile(symbols[heavy], len(images))), positions=10 * around)
    soap = SOAP(species=["C", "F"], r_cut=4.5, n_max=4, l_max=3, sigma=0.4)
    centres = [0, 5, 26]
    expected = soap.create(cluster, centers=list(10 * frame.positions[centres]))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = features(top, frame, centres)
    assert (expected > 0.05).any()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_features_do_not_depend_on_image_or_orientation():
    top, frame = gas()
    centres = [0, 1, 2, 8]
    expected = features(top, frame, centres)
    moved = scattered(frame.positions + np.array([0.3, -5.0, 0.7]))
    np.testing.assert_allclose(features(top, moved, centres), expected, atol=1e-8)
    turn = rotation(3)
    turned = structure(frame.positions @ turn, SKEWED @ turn)
    np.testing.assert_allclose(features(top, turned, centres), expected, atol=1e-8)


def test_features_change_with_a_neighbour_but_not_with_a_hydrogen():
    top, frame = gas()
    expected = features(top, frame, [0])
    for atom, changes in ((3, False), (1, True)):
        places = frame.positions.copy()
        places[atom] = places[0] + 0.15
        found = features(top, structure(places), [0])
        assert np.allclose(found, expected, atol=1e-8) != changes


def test_types_are_told_apart_only_if_asked():
    top, frame = gas("CCCH")
    renamed = dataclasses.replace(
        top.molecule_types[0],
        atom_types=tuple("CA" if k % 2 and t == "C" else t
                         for k, t in enumerate(top.molecule_types[0].atom_types)),
    )  # fmt: skip
    other = dataclasses.replace(top, molecule_types=(renamed,), type_names=("C", "CA", "H"))
    np.testing.assert_array_equal(features(top, frame, [0]), features(other, frame, [0]))
    by_type = dataclasses.replace(OPTIONS, species="types")
    assert environments(other, by_type).species == ("C", "CA")
    assert features(other, frame, [0], by_type).shape[1] > features(top, frame, [0]).shape[1]


def test_rows_have_unit_length_and_come_frame_after_frame():
    top, frame = gas()
    seen = environments(top, OPTIONS)
    other = structure(frame.positions[::-1].copy())
    both = seen.features([frame, other, frame], [np.array([0, 4]), np.array([1]), np.zeros(0, int)])
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1.0)
    np.testing.assert_array_equal(both[:2], features(top, frame, [0, 4]))
    np.testing.assert_array_equal(both[2:], features(top, other, [1]))


@pytest.mark.slow  # each worker imports everything anew
def test_workers_do_not_change_the_answer():
    top, frame = gas()
    two = dataclasses.replace(OPTIONS, workers=2)
    frames, centres = [frame, frame], [np.array([0, 4]), np.array([1, 2])]
    np.testing.assert_array_equal(
        environments(top, two).features(frames, centres),
        environments(top, OPTIONS).features(frames, centres),
    )


def test_more_types_than_numbers_are_refused():
    many = molecule(["C"] * 120, [])
    many = dataclasses.replace(many, atom_types=tuple(f"T{k}" for k in range(120)))
    top = dataclasses.replace(topology(molecule(["C"], [])), molecule_types=(many,))
    with pytest.raises(InputError, match=r"at most 118 heavy atom types .* found 120"):
        environments(top, MapOptions(species="types"))


def test_features_beyond_memory_are_refused():
    top, frame = gas()
    huge = environments(top, MapOptions(n_max=12, l_max=12))
    with pytest.raises(InputError, match=r"at most 4 GB, found .* GB for 2 species"):
        huge.features([frame] * 400, [np.zeros(400, dtype=np.int64)] * 400)


def test_more_radial_functions_than_dscribe_can_make_are_refused():
    top, _ = gas()
    with pytest.raises(InputError, match=r"n_max 40 and cutoff 0\.5 nm"):
        environments(top, MapOptions(n_max=40))
