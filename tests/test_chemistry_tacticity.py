"""The pattern of handedness: what the builder made, whatever the length of the chain."""

import numpy as np
import pytest

import small_polystyrene
from deepbackmap.chemistry import tacticity
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.system import Structure
from evaluation_systems import reference_folder
from melt import build

BOX = 20.0 * np.eye(3)


def built(monomers, chains, seed=0):
    rng = np.random.default_rng(seed)
    positions = build.build_chains(monomers, chains, rng)
    mapping = small_polystyrene.mapping(monomers, chains)
    return mapping, Structure(positions.reshape(-1, 3), BOX)


@pytest.mark.parametrize("monomers", [2, 3, 6, 11])
def test_every_length_has_the_pattern_of_the_builder(monomers):
    mapping, structure = built(monomers, 2)
    centres = tacticity.find_centres(mapping)
    assert len(centres.atoms) == 2 * (monomers - 1)
    found = tacticity.signs(structure, centres).reshape(2, -1)
    # The builder's own sign, of (previous x next) . ring seen from the CH carbon, up to the one
    # sign between its triple product and ours.
    expected = build.expected_signs(monomers)
    assert len(set((found * expected[: monomers - 1]).ravel().tolist())) == 1
    assert np.array_equal(found[0], found[1])


def test_a_pattern_of_short_chains_judges_long_ones():
    mapping, structure = built(3, 4)
    centres = tacticity.find_centres(mapping)
    pattern = tacticity.learn_pattern(centres, tacticity.signs(structure, centres)[None])
    assert pattern == {"A:0": [1, -1]}
    longer, right = built(8, 1, seed=3)
    centres = tacticity.find_centres(longer)
    expected = tacticity.expected_signs(centres, pattern)
    assert np.array_equal(tacticity.signs(right, centres), expected)
    mirrored = Structure(right.positions * [1.0, 1.0, -1.0], BOX)
    assert np.array_equal(tacticity.signs(mirrored, centres), -expected)


def test_disagreement_is_not_a_pattern():
    mapping, structure = built(5, 2)
    centres = tacticity.find_centres(mapping)
    right = tacticity.signs(structure, centres)
    one_wrong = right.copy()
    one_wrong[0] *= -1  # an even centre
    pattern = tacticity.learn_pattern(centres, np.stack([right, one_wrong]))
    assert pattern == {"A:0": [0, int(right[1])]}
    expected = tacticity.expected_signs(centres, pattern)
    assert np.array_equal(expected != 0, centres.parity == 1)
    assert not tacticity.expected_signs(centres, {}).any()


def test_isotactic_and_lonely_centres():
    mapping, _ = built(5, 1)
    centres = tacticity.find_centres(mapping)
    same = np.ones((1, len(centres.atoms)), dtype=np.int64)
    assert tacticity.learn_pattern(centres, same) == {"A:0": [1, 1]}
    mapping, _ = built(2, 1)
    centres = tacticity.find_centres(mapping)
    # One centre tells nothing about the next one.
    assert tacticity.learn_pattern(centres, -same[:, :1]) == {"A:0": [-1, 0]}


def test_published_melt_has_one_pattern():
    folder = reference_folder()
    mapping = load_mapping("ps-two-bead").resolve(read_topology(folder / "topol.top"))
    centres = tacticity.find_centres(mapping)
    with read_frames(folder / "aa.gro", folder / "train_568K_aa.xtc", frames=":3") as source:
        found = np.stack([tacticity.signs(frame, centres) for frame in source])
    pattern = tacticity.learn_pattern(centres, found)
    assert pattern == {"A:0": [1, -1]}
    assert (found == tacticity.expected_signs(centres, pattern)).all()
