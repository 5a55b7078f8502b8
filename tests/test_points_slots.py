"""Blocks as points: slots, frames and mirrors, pairs by brute force, densities by brute force."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from deepbackmap.blocks.index import build_bead_frames, whole_beads
from deepbackmap.errors import InputError
from deepbackmap.methods.points.densities import densities, radial_table
from deepbackmap.methods.points.generator import local_positions
from deepbackmap.methods.points.options import PointOptions
from deepbackmap.methods.points.pairs import AtomPairs, find_pairs
from deepbackmap.methods.points.slots import build_point_tables, collect_vocabulary, mirrored_frames
from deepbackmap.system import Structure
from small_polystyrene import (
    POINTS,
    SKEWED,
    TYPES,
    atoms,
    beads,
    blocks,
    mapping,
    point_names,
    rotation,
)

LENGTHS = pytest.mark.parametrize("monomers", [2, 3, 5])
ROOM = np.diag([9.0, 8.0, 10.0])
"""A box in which nothing meets an image."""
REACH = 0.3


def tables(monomers=3, chains=3, flip=1, vocabulary=None):
    names = point_names(monomers, chains, flip)
    known = vocabulary or collect_vocabulary([names])
    return build_point_tables(
        mapping(monomers, chains), blocks(monomers, chains), names, known, POINTS
    )


class Seen:
    """A frame as the blocks of a system see it."""

    def __init__(self, structure, centres=None, flip=1):
        self.tables = tables(flip=flip)
        centres = beads(structure).positions if centres is None else centres
        self.frames = mirrored_frames(
            build_bead_frames(
                centres, structure.box, blocks(), mapping(), cutoff=0.4 + 2 * REACH, plane=True
            ),
            self.tables.hand,
        )
        self.centres = whole_beads(centres, structure.box, mapping())
        owner = self.tables.atom_owner[:-1].numpy()
        relative = torch.as_tensor(structure.positions - centres[owner], dtype=torch.float32)
        self.relative = torch.cat([relative, torch.zeros(1, 3)])
        self.pairs = find_pairs(
            self.tables, blocks(), self.frames.near(), self.frames.whole[0], self.relative,
            POINTS.cutoff, len(TYPES),
        )  # fmt: skip

    def densities(self, bead_type, pairs=None, rows=slice(None)):
        table = self.tables.types[bead_type]
        own, turn = table.own[rows], self.frames.rotation[0][table.beads[rows]]
        return densities(
            self.relative, self.relative[own], own, turn, pairs or self.pairs,
            radial_table(POINTS, torch.device("cpu")), POINTS.cutoff, len(TYPES),
        )  # fmt: skip

    def local(self, bead_type):
        return local_positions(self.relative, self.tables.types[bead_type], self.frames.rotation[0])

    def context(self, bead_type):
        """Context atoms in the blocks' frames, and the beads of the chain."""
        table, whole = self.tables.types[bead_type], torch.tensor(self.centres)
        whole = torch.cat([whole, torch.zeros(1, 3)])
        turn = self.frames.rotation[0][table.beads].transpose(1, 2).double()
        centre = whole[table.beads][:, None]
        place = whole[self.tables.atom_owner] + self.relative
        near = (place[table.context] - centre) * (table.context < self.tables.n_atoms)[..., None]
        return near @ turn, (whole[table.chain] - centre) * table.chain_hand.abs()[..., None] @ turn


def assert_seen_alike(one, other):
    """Both frames give every block the same picture."""
    for t in ("A", "B"):
        torch.testing.assert_close(one.local(t), other.local(t), atol=2e-6, rtol=0)
        for a, b in zip(one.context(t), other.context(t), strict=True):
            torch.testing.assert_close(a, b, atol=5e-6, rtol=0)
        mine, theirs = one.tables.types[t], other.tables.types[t]
        torch.testing.assert_close(mine.chain_hand, theirs.chain_hand)
        # A distance takes the nearest of the table: now and then the one beside it.
        off = (one.densities(t) - other.densities(t)).abs()
        assert float(off.max()) < 0.03
        assert float(off.mean()) < 1e-4
        assert float(one.densities(t)[..., 0].mean()) > 0.05


# --- slots --------------------------------------------------------------------------------------


@LENGTHS
def test_each_atom_has_one_slot_of_its_own_bead(monomers):
    found = tables(monomers)
    placed = torch.cat([t.own.flatten() for t in found.types.values()])
    placed = placed[placed < found.n_atoms]
    assert torch.equal(placed.sort()[0], torch.arange(found.n_atoms))
    for table in found.types.values():
        owner = found.atom_owner[table.own]
        here = table.own < found.n_atoms
        assert bool((owner == table.beads[:, None])[here].all())
        # what is around a block is not in it, and of the same molecule
        around = table.context < found.n_atoms
        assert bool((found.atom_owner[table.context] != table.beads[:, None])[around].all())
        first = found.atom_molecule[table.own.amin(1)][:, None].expand_as(around)
        assert torch.equal(found.atom_molecule[table.context[around]], first[around])
    assert int(torch.cat([t.beads for t in found.types.values()]).sort()[0].diff().min()) == 1


def test_slots_hold_atoms_of_their_type():
    names, vocabulary = point_names(), collect_vocabulary([point_names()])
    types = mapping().topology.molecule_types[0].atom_types
    for part in (names.own, names.context):
        for found in part:
            assert all(types[a] == slot.rpartition(":")[2] for slot, a in found.items())
    for kind, bead_type in enumerate(names.bead_type):
        assert set(names.own[kind]) <= set(vocabulary.own[bead_type])


def test_slots_are_the_same_along_the_chain():
    def inner(monomers, margin):
        names = point_names(monomers)
        found = {}
        for k in range(2 * margin, 2 * (monomers - margin)):
            named = (frozenset(names.own[k]), frozenset(names.context[k]), names.variant[k])
            found.setdefault(names.bead_type[k], []).append(named)
        return found

    short, long = inner(3, 1), inner(5, 1)
    for t in ("A", "B"):
        assert {(own, variant) for own, _, variant in short[t]} == {
            (own, variant) for own, _, variant in long[t]
        }
    # farther from the ends than the context reaches, that is the same too
    five, nine = inner(5, 2), inner(9, 2)
    for t in ("A", "B"):
        assert len(set(nine[t])) == 1
        assert set(five[t]) == set(nine[t])


def test_context_is_what_is_within_the_depth():
    names, molecule = point_names(), mapping().topology.molecule_types[0]
    n = molecule.n_atoms
    hops = np.full((n, n), 99)
    hops[np.arange(n), np.arange(n)] = 0
    for i, j in molecule.bonds.tolist():
        hops[i, j] = hops[j, i] = 1
    for k in range(n):
        hops = np.minimum(hops, hops[:, [k]] + hops[[k], :])
    for own, context in zip(names.own, names.context, strict=True):
        near = hops[list(own.values())].min(0)
        assert sorted(context.values()) == np.flatnonzero((near > 0) & (near <= 3)).tolist()


def test_a_short_chain_teaches_a_long_one():
    vocabulary = collect_vocabulary([point_names(4)])
    found = tables(7, 2, vocabulary=vocabulary)
    placed = torch.cat([t.own.flatten() for t in found.types.values()])
    assert int((placed < found.n_atoms).sum()) == found.n_atoms == 2 * (16 * 7 + 2)
    # a middle bead of both sees all its atoms, and the same number of them
    counts = [
        int((t.types["A"].context < t.n_atoms).sum(1).max()) for t in (found, tables(4))
    ]  # fmt: skip
    assert counts[0] == counts[1]


@pytest.mark.parametrize("bead_type", ["A", "B"])
def test_an_unknown_kind_of_block_is_refused(bead_type):
    known = collect_vocabulary([point_names()])
    fewer = {**known.variants, bead_type: known.variants[bead_type][:-1]}
    with pytest.raises(
        InputError,
        match=rf"bead of type {bead_type}: expected atoms and neighbours as in one of",
    ):
        tables(vocabulary=dataclasses.replace(known, variants=fewer))


def test_a_dimer_does_not_teach_the_middle():
    with pytest.raises(InputError, match="expected atoms and neighbours as in one of the"):
        tables(4, 2, vocabulary=collect_vocabulary([point_names(2)]))


def test_beads_of_the_chain_are_its_neighbours_in_order():
    found, rank = tables(), blocks().rank[blocks().bead_kind]
    for table in found.types.values():
        for column, step in enumerate((-2, -1, 1, 2)):
            bead = table.chain[:, column]
            there = bead < found.n_beads
            assert torch.equal(there, table.chain_hand[:, column] != 0)
            mine = table.beads[there]
            assert bool((rank[bead[there]] - rank[mine] == step).all())
            assert torch.equal(
                table.chain_hand[there, column], found.hand[bead[there]] * found.hand[mine]
            )


@pytest.mark.parametrize(
    "options", [{"radial": 0}, {"chain": 0}, {"depth": 0}, {"cutoff": 0.2}], ids=str
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PointOptions(**options)


# --- symmetries -----------------------------------------------------------------------------------


def partners():
    """What each atom's slot holds in the mirror: the other hydrogen of a pair, else itself."""
    left, right = point_names(flip=1), point_names(flip=-1)
    local = np.arange(50)
    for one, other in zip(left.own, right.own, strict=True):
        for slot, atom in one.items():
            local[atom] = other[slot]
    return np.concatenate([local + 50 * k for k in range(3)])


def test_paired_hydrogens_are_partners():
    partner, topology = partners(), mapping().topology
    assert np.array_equal(partner[partner], np.arange(topology.n_atoms))
    moved = np.flatnonzero(partner != np.arange(topology.n_atoms))
    assert len(moved) == 3 * 2 * 4  # of each CH2 and CH3 of a chain
    assert (topology.masses()[moved] < 3).all()


def test_the_mirror_image_looks_the_same_in_the_mirror():
    structure = dataclasses.replace(atoms(), box=np.diag([2.6, 2.4, 2.5]))
    mirror = np.array([1.0, -1.0, 1.0])
    reflected = dataclasses.replace(structure, positions=structure.positions[partners()] * mirror)
    one = Seen(structure)
    other = Seen(reflected, centres=beads(structure).positions * mirror, flip=-1)
    assert torch.equal(one.tables.hand, -other.tables.hand)
    assert set(one.tables.hand.tolist()) == {-1.0, 1.0}
    assert_seen_alike(one, other)


def test_a_mirror_image_with_the_same_hands_looks_different():
    """Or the law above would say nothing."""
    structure = dataclasses.replace(atoms(), box=ROOM)
    mirror = np.array([1.0, -1.0, 1.0])
    reflected = dataclasses.replace(structure, positions=structure.positions * mirror)
    other = Seen(reflected, centres=beads(structure).positions * mirror)
    assert float((Seen(structure).local("A") - other.local("A")).abs().max()) > 0.02


def test_turning_everything_changes_nothing():
    structure = dataclasses.replace(atoms(), box=ROOM)
    turned = dataclasses.replace(structure, positions=structure.positions @ rotation(3).T)
    assert_seen_alike(Seen(structure), Seen(turned))


def test_frames_of_one_hand_are_rotations_and_of_the_other_reflections():
    seen = Seen(atoms())
    torch.testing.assert_close(torch.linalg.det(seen.frames.rotation[0]), seen.tables.hand)


# --- pairs ----------------------------------------------------------------------------------------


def brute_pairs(seen, box, cutoff):
    """(atom, other, distance) of different blocks in all images, from absolute positions."""
    owner = seen.tables.atom_owner[:-1].numpy()
    x = seen.centres[owner] + seen.relative[:-1].numpy()
    found = []
    for image in itertools.product((-2, -1, 0, 1, 2), repeat=3):
        vector = x[None] - x[:, None] + np.array(image) @ box
        distance = np.linalg.norm(vector, axis=-1)
        different = (owner[None] != owner[:, None]) | any(image)
        i, j = np.nonzero((distance < cutoff) & different)
        found += zip(i.tolist(), j.tolist(), distance[i, j].tolist(), [image] * len(i), strict=True)
    return sorted(found)


@pytest.mark.parametrize(("chunk", "box"), [(128, SKEWED), (4, SKEWED), (4, 1.3 * np.eye(3))])
def test_pairs_are_those_of_all_images(chunk, box):
    seen = Seen(atoms(box=box))
    n = seen.tables.n_atoms
    pairs = find_pairs(
        seen.tables, blocks(), seen.frames.near(), seen.frames.whole[0], seen.relative,
        POINTS.cutoff, len(TYPES), chunk,
    )  # fmt: skip
    others, between, kinds = pairs.of(torch.arange(n + 1), int(pairs.count.max()) + 1)
    atom, column = torch.nonzero(others < n, as_tuple=True)
    other = others[atom, column].long()
    vector = between[atom, column] + seen.relative[other] - seen.relative[atom]
    got = sorted(
        zip(atom.tolist(), other.tolist(), vector.norm(dim=-1).tolist(), strict=True)
    )  # fmt: skip
    expected = brute_pairs(seen, box, POINTS.cutoff)
    assert [g[:2] for g in got] == [e[:2] for e in expected]
    np.testing.assert_allclose([g[2] for g in got], [e[2] for e in expected], atol=1e-5)
    # some of them are across the box and with other molecules, or nothing was tried
    foreign = [e for e in expected if e[0] // 50 != e[1] // 50]
    assert len(foreign) > 10
    assert any(any(e[3]) for e in foreign)
    # classes: the type, shifted in another molecule
    kind, molecule = kinds[atom, column].long(), seen.tables.atom_molecule
    assert torch.equal(kind % len(TYPES), seen.tables.atom_class[other])
    assert bool((kind >= len(TYPES))[molecule[atom] != molecule[other]].all())
    own = [e for e in expected if e[0] // 50 == e[1] // 50 and any(e[3])]
    assert bool(own) == (box is not SKEWED)  # chains that meet their own images
    shifted = {
        (a, b, k >= len(TYPES))
        for a, b, k in zip(atom.tolist(), other.tolist(), kind.tolist(), strict=True)
    }
    assert shifted == {(i, j, i // 50 != j // 50 or any(image)) for i, j, _, image in expected}
    # the row behind the last atom, and what is behind the last pair, are nobody's
    assert bool((others[n] == n).all())
    assert float(between[others == n].min()) > 1.0


# --- densities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bead_type", ["A", "B"])
def test_densities_are_sums_over_neighbours(bead_type):
    seen = Seen(atoms())
    table, got = seen.tables.types[bead_type], seen.densities(bead_type)
    owner = seen.tables.atom_owner[:-1].numpy()
    x = seen.centres[owner] + seen.relative[:-1].numpy()
    kinds, molecule = seen.tables.atom_class.numpy(), seen.tables.atom_molecule.numpy()
    centres = np.linspace(0.15, POINTS.cutoff, POINTS.radial)
    width = 0.8 * (centres[1] - centres[0])
    every = brute_pairs(seen, SKEWED, POINTS.cutoff)
    tried = 0
    for row, slot in itertools.product(range(len(table.beads)), range(table.own.shape[1])):
        atom = int(table.own[row, slot])
        mine = [e for e in every if e[0] == atom]
        if any(any(e[3]) and molecule[e[1]] == molecule[atom] for e in mine):
            continue  # of which molecule an image of one's own is, is another question
        expected = np.zeros((POINTS.radial, 2 * len(TYPES), 4))
        turn = seen.frames.rotation[0, table.beads[row]].numpy()
        for _, other, distance, image in mine:
            step = turn @ (x[other] + np.array(image) @ SKEWED - x[atom]) / distance
            bump = np.exp(-0.5 * ((distance - centres) / width) ** 2)
            bump *= np.sqrt(1 - (distance / POINTS.cutoff) ** 2)
            column = kinds[other] + len(TYPES) * (molecule[other] != molecule[atom])
            expected[:, column] += bump[:, None] * np.array([1.0, *step])
        found = got[row, slot].numpy().reshape(POINTS.radial, 2 * len(TYPES), 4)
        np.testing.assert_allclose(found, expected, atol=0.04)
        assert np.abs(found - expected).mean() < 1e-3
        tried += bool(mine)
    assert tried > 20


def test_an_empty_slot_has_no_densities():
    seen = Seen(atoms())
    for t, table in seen.tables.types.items():
        empty = table.own == seen.tables.n_atoms
        assert bool((seen.densities(t)[empty] == 0).all())
    assert bool((seen.tables.types["A"].own == seen.tables.n_atoms).any())


class Wider(AtomPairs):
    """Tables of neighbours with more padding."""

    def of(self, atoms, width):
        return super().of(atoms, width + 5)


def test_padding_changes_nothing():
    seen = Seen(atoms())
    wider = Wider(*vars(seen.pairs).values())
    for t in seen.tables.types:
        torch.testing.assert_close(seen.densities(t, wider), seen.densities(t), atol=1e-6, rtol=0)
        # nor do the other blocks of a batch
        part = seen.densities(t, rows=slice(2, 5))
        torch.testing.assert_close(part, seen.densities(t)[2:5], atol=1e-6, rtol=0)


def test_radial_functions_vanish_at_the_cutoff():
    table = radial_table(POINTS, torch.device("cpu"))
    assert bool((table[-1] == 0).all())
    assert float(table.min()) >= 0
    assert float(table.diff(dim=0).abs().max()) < 0.03


def test_an_atom_beyond_the_cutoff_is_not_seen():
    lone = Structure(atoms().positions + np.repeat(np.eye(3) * 3.0, 50, axis=0), ROOM)
    seen = Seen(lone)
    for t in seen.tables.types:
        shaped = seen.densities(t).unflatten(2, (POINTS.radial, 2 * len(TYPES)))
        assert bool((shaped[:, :, :, len(TYPES) :] == 0).all())
        assert float(shaped[:, :, :, : len(TYPES)].abs().max()) > 0.1
