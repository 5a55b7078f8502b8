"""Figures of frames: they add up, they name what is wrong, and they obey symmetry."""

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import chdtri

import small_polystyrene
from deepbackmap.chemistry import tacticity
from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.chemistry.tacticity import KnownHands
from deepbackmap.evaluation.defects import NAMED, Figures
from deepbackmap.evaluation.judge import Judge, bead_name, chi_square_edge
from deepbackmap.evaluation.plan import Outline, Plan
from deepbackmap.evaluation.usable import verdict, worst
from deepbackmap.forcefield import ForceField
from deepbackmap.mapping import map_positions
from deepbackmap.system import BondedTerms, Structure
from evaluation_systems import molecule, rotation, scattered, structure, topology

BOX = 4.0 * np.eye(3)


def melt():
    mapping = small_polystyrene.mapping()
    ideal = small_polystyrene._positions(small_polystyrene.MONOMERS, small_polystyrene.CHAINS, 0)
    atoms = Structure(ideal.copy(), BOX)
    return mapping, atoms, Structure(map_positions(mapping, atoms.positions), BOX)


def by_pattern(mapping, atoms):
    centres = tacticity.find_centres(mapping)
    pattern = tacticity.learn_pattern(centres, tacticity.signs(atoms, centres)[None])
    return KnownHands.by_pattern(mapping, pattern)


def figures(mapping, atoms, beads, hands=None):
    return Judge(mapping.topology, mapping, hands=hands).frame(atoms, beads, 4)


def noisy(atoms, seed, width=0.02):
    shift = np.random.default_rng(seed).normal(0.0, width, atoms.positions.shape)
    return replace(atoms, positions=atoms.positions + shift)


def same(a, b):
    """Equal but for the rounding of sums."""
    x, y = json.loads(json.dumps(a.to_dict())), json.loads(json.dumps(b.to_dict()))

    def compare(left, right):
        if isinstance(left, dict):
            assert left.keys() == right.keys()
            for key in left:
                compare(left[key], right[key])
        elif isinstance(left, float):
            assert left == pytest.approx(right, rel=1e-12)
        else:
            assert left == right

    compare(x, y)


@pytest.fixture(scope="module")
def several():
    mapping, atoms, beads = melt()
    judge = Judge(mapping.topology, mapping, hands=by_pattern(mapping, atoms))
    return [judge.frame(noisy(atoms, k, 0.01 + 0.02 * k), beads, k) for k in range(4)]


def test_sums_are_associative_and_the_sum_of_nothing_is_nothing(several):
    a, b, c, d = several
    same((a + b) + (c + d), a + (b + (c + d)))
    same(Figures() + a, a)
    same(a + Figures(), a)
    assert sum([], Figures()) == Figures.total([]) == Figures()
    same(sum(several), Figures.total(several))


def test_counts_add_up_and_the_worst_stays(several):
    total = sum(several)
    assert total.frames == 4
    assert total.atoms == sum(f.atoms for f in several)
    for get in (
        lambda f: f.contacts.clashes,
        lambda f: f.hands.by_side,
        lambda f: f.hands.by_order,
        lambda f: f.bonds.count,
        lambda f: f.blocks.count,
        lambda f: f.blocks.hotter_than(500.0),
    ):
        assert get(total) == sum(get(f) for f in several)
    assert total.contacts.closest == min(f.contacts.closest for f in several)
    assert total.bonds.largest == max(f.bonds.largest for f in several)
    assert total.blocks.hottest[0] == max(
        (f.blocks.hottest[0] for f in several), key=lambda b: b.temperature
    )
    assert len(total.contacts.named) == NAMED < total.contacts.clashes
    for name, energy in total.energies.items():
        assert energy == pytest.approx(sum(f.energies[name] for f in several))


def test_what_is_written_is_read(several):
    for found in (*several, sum(several), Figures()):
        text = json.dumps(found.to_dict(), allow_nan=False)
        assert Figures.from_dict(json.loads(text)) == found


def test_nothing_is_wrong_with_built_chains():
    mapping, atoms, beads = melt()
    hands = by_pattern(mapping, atoms)
    found = figures(mapping, atoms, beads, hands)
    assert (found.hands.known, found.hands.wrong, found.hands.unknown) == (6, 0, 0)
    assert found.hands.assumed == 0
    assert found.rings.pierced == 0
    assert found.beads.largest < 1e-12
    assert 0.3 < found.contacts.closest < 1.0
    nothing = replace(hands, signs=0 * hands.signs)
    unknown = figures(mapping, atoms, beads, nothing)
    assert (unknown.hands.known, unknown.hands.unknown) == (0, 6)


def test_a_mirrored_frame_has_all_hands_wrong_by_both_tests_and_nothing_else():
    mapping, atoms, beads = melt()
    hands = by_pattern(mapping, atoms)
    mirror = np.array([1.0, 1.0, -1.0])
    found = figures(
        mapping,
        replace(atoms, positions=atoms.positions * mirror),
        replace(beads, positions=beads.positions * mirror),
        hands,
    )
    assert (found.hands.wrong, found.hands.by_side, found.hands.by_order) == (6, 6, 6)
    assert found.hands.named[0] == "C5 (atom 5) of molecule 1 (PS1), frame 4"
    right = figures(mapping, atoms, beads, hands)
    same(
        replace(found, hands=right.hands, bonds=right.bonds, blocks=right.blocks, energies={}),
        replace(right, energies={}),
    )
    assert found.blocks.energy == pytest.approx(right.blocks.energy)


@pytest.mark.parametrize("seed", range(3))
def test_moving_and_wrapping_changes_no_figure(seed):
    mapping, atoms, beads = melt()
    atoms = noisy(atoms, 1)
    judge = Judge(mapping.topology, mapping, hands=by_pattern(mapping, atoms))
    found = judge.frame(atoms, beads)
    shift = np.random.default_rng(seed).normal(size=3)
    moved = judge.frame(
        scattered(atoms.positions + shift, BOX, seed),
        replace(beads, positions=beads.positions + shift),
    )
    assert moved.contacts.closest == pytest.approx(found.contacts.closest)
    assert moved.contacts.clashes == found.contacts.clashes
    assert moved.hands == found.hands
    assert moved.rings == found.rings
    assert moved.bonds.rms == pytest.approx(found.bonds.rms)
    assert moved.beads.rms == pytest.approx(found.beads.rms)
    assert moved.blocks.energy == pytest.approx(found.blocks.energy)
    for name, energy in found.energies.items():
        assert moved.energies[name] == pytest.approx(energy)


def test_energies_are_the_force_fields_and_the_blocks_add_up_to_the_angles():
    mapping, atoms, beads = melt()
    atoms = noisy(atoms, 2, 0.005)
    found = figures(mapping, atoms, beads)
    expected = ForceField.from_topology(mapping.topology).energies_by_term(atoms)
    for name, energy in found.energies.items():
        assert energy == pytest.approx(expected[name]), name
    assert found.blocks.energy == pytest.approx(found.energies["angle"])
    alone = Judge(mapping.topology).frame(atoms)
    assert alone.blocks.energy == pytest.approx(found.energies["angle"])
    assert alone.blocks.degrees == pytest.approx(found.blocks.degrees)
    assert alone.beads.count == 0


def test_a_ring_that_is_pierced_is_named():
    mapping, atoms, beads = melt()
    (rings,) = Judge(mapping.topology)._plan.rings
    # The bond C2 - C5 of the second chain goes through the first ring of the first.
    moved = atoms.positions.copy()
    middle = moved[rings[0]].mean(axis=0)
    normal = np.cross(moved[rings[0, 0]] - middle, moved[rings[0, 1]] - middle)
    normal /= np.linalg.norm(normal)
    moved[50 + 1], moved[50 + 4] = middle - 0.08 * normal, middle + 0.08 * normal
    found = figures(mapping, replace(atoms, positions=moved), beads)
    start = "bond C2 (atom 52) of molecule 2 (PS1) - C5 (atom 55) of molecule 2 (PS1) through the"
    assert any(name.startswith(start) for name in found.rings.named)
    assert found.rings.pierced >= 1


def test_atoms_on_top_of_each_other_are_named():
    mapping, atoms, beads = melt()
    moved = atoms.positions.copy()
    moved[100] = moved[10] + [0.0, 0.0, 0.01]
    found = figures(mapping, replace(atoms, positions=moved), beads)
    assert {name.split(" ")[2].rstrip(")") for name in found.contacts.pair} == {"11", "101"}
    assert found.contacts.closest < 0.1
    assert found.contacts.distance == pytest.approx(0.01)
    assert "atom 101" in found.contacts.named[0]
    clean = figures(mapping, atoms, beads)
    assert found.contacts.clashes > clean.contacts.clashes


def test_a_bead_moves_by_what_its_weights_say():
    mapping, atoms, beads = melt()
    moved = atoms.positions.copy()
    moved[8] += [0.0, 0.3, 0.0]
    entries = mapping.molecules[0].weight_atoms == 8
    weights = mapping.molecules[0].weights[entries]
    found = figures(mapping, replace(atoms, positions=moved), beads)
    assert found.beads.largest == pytest.approx(0.3 * weights.max())
    assert found.beads.rms == pytest.approx(0.3 * np.sqrt((weights**2).sum() / 18))
    most = int(mapping.molecules[0].weight_beads[entries][weights.argmax()])
    assert found.beads.where == f"{bead_name(mapping, most)}, frame 4"
    assert found.bonds.largest > 0.1
    assert "C9 (atom 9) of molecule 1" in found.bonds.where


def test_the_hottest_block_is_the_one_that_was_bent():
    mapping, atoms, beads = melt()
    moved = atoms.positions.copy()
    moved[50 + 1] += [0.04, 0.0, 0.02]  # a CH2 carbon of the second chain
    found = figures(mapping, replace(atoms, positions=moved), beads)
    bead = 6 + int(mapping.molecules[0].owner[1])
    assert bead_name(mapping, bead) in found.blocks.hottest[0].name
    assert "of molecule 2" in found.blocks.hottest[0].name


def test_a_double_bond_that_turned_is_named():
    types = ("F", "C", "C", "F", "H", "H")
    bonds = [(0, 1), (1, 2), (2, 3), (1, 4), (2, 5)]
    torsion = BondedTerms(np.array([[0, 1, 2, 3]]), np.array([[np.pi, 60.0, 2.0]]))
    found = topology(molecule(types, bonds, terms={"proper": torsion}), counts=[4])
    cis = np.array([[-0.07, 0.12, 0], [0, 0, 0], [0.13, 0, 0], [0.2, 0.12, 0],
                    [-0.06, -0.1, 0], [0.2, -0.1, 0]])  # fmt: skip
    trans = cis.copy()
    trans[[3, 5], 1] *= -1.0
    apart = np.array([[0, 0, 0], [0, 0, 1.0], [0, 0, 2.0], [1.0, 0, 0]])

    def frame(*shapes):
        turned = [s @ rotation(k) + apart[k] for k, s in enumerate(shapes)]
        return structure(np.concatenate(turned), BOX)

    right = frame(cis, trans, cis, cis)
    judge = Judge(found, reference=right)
    assert judge.frame(right).double_bonds == dataclasses.replace(Figures().double_bonds, known=4)
    wrong = judge.frame(frame(cis, trans, trans, cis)).double_bonds
    assert (wrong.known, wrong.wrong) == (4, 1)
    assert "of molecule 3" in wrong.named[0]
    assert judge.new_defects(judge.look(frame(cis, trans, trans, cis)), judge.look(right)) == [
        f"double bond {judge.name_double_bond(2)}"
    ]
    # told by any of the branches: 1 cis, 2 trans, 3 cis, the fourth not known
    want = np.array([1, -1, 1, 0])
    for atoms, flips in (([0, 1, 2, 3], 1), ([4, 1, 2, 3], -1), ([5, 2, 1, 4], 1)):
        told = WantedSides(np.array([np.array(atoms) + 6 * k for k in range(4)]), flips * want)
        sure = Judge(found, sides=told)
        fine = sure.frame(right).double_bonds
        assert (fine.known, fine.unknown, fine.assumed, fine.wrong) == (3, 1, 0, 0)
        turned = sure.frame(frame(cis, cis, cis, trans))
        assert turned.double_bonds.wrong == 1
        assert "of molecule 2" in turned.double_bonds.named[0]
        assert worst(verdict(turned)) == "unusable"
    # without a reference three of four are not enough to say
    assert Judge(found).frame(right).double_bonds.unknown == 4
    assert Judge(found).frame(frame(cis, cis, cis, cis)).double_bonds.assumed == 4


def test_figures_of_a_system_without_anything_to_see():
    found = topology(molecule(("C",), []), counts=[2])
    seen = Judge(found).frame(structure([[0.0, 0, 0], [1.5, 0, 0]], BOX))
    assert (seen.frames, seen.atoms, seen.blocks.count, seen.hands.known) == (1, 2, 0, 0)
    assert seen.contacts.closest == math.inf
    assert seen.bonds.rms == 0.0


def test_the_edge_of_chi_square_is_the_one_of_scipy():
    degrees = np.array([0.5, 1.0, 2.0, 11 / 3, 10.0, 300.0, 5000.0])
    for share in (0.5, 1e-4, 1e-9):
        np.testing.assert_allclose(
            chi_square_edge(degrees, share), chdtri(degrees, share), rtol=1e-9
        )


def test_an_outline_is_enough_to_judge():
    mapping, atoms, beads = melt()
    plan = Plan.from_topology(mapping.topology)
    frame = noisy(atoms, 5, 0.05)
    by_plan = Judge(mapping.topology, mapping, plan=plan).frame(frame, beads)
    outline = Outline.from_topology(mapping.topology)
    assert Judge(mapping.topology, mapping, plan=outline).frame(frame, beads) == by_plan


def of_arrays(thing, seen):
    """Bytes of the arrays that an object holds, each once."""
    if id(thing) in seen:
        return 0
    seen[id(thing)] = thing  # held, so that no other is given its number
    if isinstance(thing, torch.Tensor):
        return thing.untyped_storage().nbytes()
    if isinstance(thing, np.ndarray):
        return of_arrays(thing.base, seen) if isinstance(thing.base, np.ndarray) else thing.nbytes
    if isinstance(thing, (tuple, list)):
        return sum(of_arrays(part, seen) for part in thing)
    if isinstance(thing, dict):
        return of_arrays(list(thing.values()), seen)
    return of_arrays(vars(thing), seen) if hasattr(thing, "__dict__") else 0


def test_what_a_judge_keeps_of_an_atom_is_bounded():
    """Bytes of arrays that grow with the number of molecules, by two systems of different size."""
    systems = [small_polystyrene.mapping(chains=n) for n in (10, 110)]
    kept = [of_arrays(Judge(s.topology, s), {}) for s in systems]
    atoms = [s.topology.n_atoms for s in systems]
    assert 30.0 < (kept[1] - kept[0]) / (atoms[1] - atoms[0]) < 110.0
