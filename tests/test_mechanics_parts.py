"""A box whose steps several take together: the bits of one, and who has to know what."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from crews import ThreadCrew
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mechanics import parts
from deepbackmap.mechanics.engine import Langevin, LostError, Mechanics
from deepbackmap.mechanics.parts import PartedMechanics, parts_of, steps_taken_by
from deepbackmap.mechanics.settle import SettleOptions, Settler, open_mechanics
from deepbackmap.system import BondedTerms
from deepbackmap.system.whole import make_whole

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
TEMPERATURE = 568.0
COPIES = 5


@pytest.fixture(scope="module")
def system():
    """A long box: the packaged melt five times along an edge; positions, beads, box."""
    topology = read_topology(MELT / "topol.top")
    frame = read_frames(MELT / "aa.gro")[0]
    whole, box = make_whole(frame.positions, frame.box, topology), frame.box
    mapping = load_mapping("ps-two-bead").resolve(topology)
    topology = dataclasses.replace(mapping.topology, blocks=mapping.topology.blocks * COPIES)
    x = np.concatenate([whole + k * box[1] for k in range(COPIES)])
    long = box * np.array([[1], [COPIES], [1]])
    found = SystemMapping(topology, mapping.molecules)
    return found, x, map_positions(found, x, long), long


def both(system, count, steps, widths=0.0, every=0, threads=1, start=None):
    """What one engine and what a crew make of the same; trajectory, observations, crew."""
    mapping, x, beads, box = system
    found = []
    for crew in (None, ThreadCrew(count)):
        engine = (
            Mechanics(mapping, threads=threads)
            if crew is None
            else PartedMechanics(mapping, crew, threads=threads)
        )
        seen = []

        def watch(there, seen=seen, placed=np.any(widths)):
            seen.append((there.step, there.energies, there.positions if placed else None))
            return False

        first = engine.run(
            x if start is None else start, beads, box, Langevin(steps, TEMPERATURE),
            np.arange(len(x)), widths, every=every, observe=watch,
        )  # fmt: skip
        after = engine.run(
            first.positions, beads, box, Langevin(3, TEMPERATURE, first_step=steps),
            np.arange(len(x)), widths, velocities=first.velocities,
        )  # fmt: skip
        energies = engine.energies(
            after.positions, beads, box, widths, temperature=TEMPERATURE, shifted=True
        )
        found.append((first, after, seen, energies, crew))
    return found


def same(one, other):
    for a, b in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.velocities, b.velocities)
        np.testing.assert_array_equal(a.strained, b.strained)
        np.testing.assert_array_equal(a.broken, b.broken)
        assert a.lists == b.lists
    for (step, energies, x), (other_step, others, y) in zip(one[2], other[2], strict=True):
        assert step == other_step
        assert energies.keys() == others.keys()
        for k in energies:
            np.testing.assert_array_equal(energies[k], others[k])
        np.testing.assert_array_equal(x, y)
    for k in one[3]:
        np.testing.assert_array_equal(one[3][k], other[3][k])


@pytest.mark.parametrize(("count", "widths"), [(2, 0.0), (3, 0.02), (5, 0.0)])
def test_the_bits_are_those_of_one_engine(system, count, widths):
    one, other = both(system, count, 50, widths, every=7)
    same(one, other)
    assert len(one[2]) == 8  # the last of fifty steps is looked at too


def test_so_they_are_when_the_box_is_cut_anew_every_few_steps(system, monkeypatch):
    """With hardly a margin, at steps that are observed and at others."""
    monkeypatch.setattr(parts, "MARGIN", 2 * 0.08 + 0.09)
    one, other = both(system, 3, 40, every=1)
    same(one, other)
    assert other[-1].calls > 6


def test_molecules_far_outside_the_cell_count_where_they_are(system):
    mapping, x, beads, box = system
    molecule = np.repeat(
        np.arange(mapping.topology.n_molecules), np.diff(mapping.topology.molecule_offsets())
    )
    shift = np.random.default_rng(5).integers(-2, 3, size=(molecule[-1] + 1, 3))
    moved = x + shift[molecule] @ box
    owners = np.repeat(np.arange(len(shift)), np.diff(mapping.bead_offsets()))
    same(*both((mapping, moved, beads + shift[owners] @ box, box), 3, 12))


def test_a_part_has_its_molecules_and_what_they_see_and_no_more(system):
    mapping, x, _, box = system
    cut = parts_of(mapping, x, box, 3, 0.78)
    owned = np.concatenate([p.molecules[p.own] for p in cut])
    np.testing.assert_array_equal(np.sort(owned), np.arange(mapping.topology.n_molecules))
    sizes = [len(p.own_atoms) for p in cut]
    assert max(sizes) - min(sizes) <= 2 * 162  # as many atoms each, to whole molecules
    molecule = np.repeat(np.arange(len(owned)), np.diff(mapping.topology.molecule_offsets()))
    inverse = np.linalg.inv(box)
    for part in cut:
        np.testing.assert_array_equal(molecule[part.atoms[part.own_atoms]],
                                      np.repeat(part.molecules[part.own], 162))  # fmt: skip
        assert part.mapping.topology.n_atoms == len(part.atoms)
        assert part.mapping.n_beads == len(part.beads)
        inside = np.zeros(len(x), dtype=bool)
        inside[part.atoms] = True
        own = x[part.atoms[part.own_atoms]]
        for other in np.flatnonzero(~inside)[::50]:
            apart = (own - x[other]) @ inverse
            apart = (apart - np.round(apart)) @ box
            assert np.linalg.norm(apart, axis=1).min() > 0.78 + parts.MARGIN


def test_who_sends_is_heard(system):
    mapping, x, _, box = system
    cut = parts_of(mapping, x, box, 4, 0.78)
    for p, part in enumerate(cut):
        heard = np.concatenate([part.own_atoms, *part.received.values()])
        np.testing.assert_array_equal(np.sort(heard), np.arange(len(part.atoms)))
        for q, atoms in part.sent.items():
            there = cut[q].atoms[cut[q].received[p]]
            np.testing.assert_array_equal(part.atoms[atoms], there)


def test_a_settled_box_is_the_same(system):
    """Whatever the settler asks for: looks at fits, widths, windows, the last projection."""
    mapping, x, beads, box = system
    noisy = beads + np.random.default_rng(3).normal(scale=0.01, size=beads.shape)
    names, options = np.arange(len(x)), SettleOptions(TEMPERATURE, steps=8)
    alone = Settler(mapping, threads=1).settle(x, noisy, box, names, options)
    crew = ThreadCrew(2)
    with steps_taken_by(crew):
        settler = Settler(mapping, threads=1)
    together = settler.settle(x, noisy, box, names, options)
    assert crew.engines == 1
    assert crew.calls > 2
    assert any(alone.widths.values())
    assert alone.widths == together.widths
    assert alone.evaluations == together.evaluations
    np.testing.assert_array_equal(alone.positions, together.positions)


def test_engines_that_are_opened_otherwise_are_not_cut(system):
    assert type(open_mechanics(system[0])) is Mechanics
    with steps_taken_by(ThreadCrew(2)):
        assert type(open_mechanics(system[0])) is PartedMechanics
        with steps_taken_by(None):
            assert type(open_mechanics(system[0])) is Mechanics


def test_terms_between_molecules_and_too_many_parts_are_refused(system):
    mapping = system[0]
    between = {"harmonic": BondedTerms(np.array([[0, 200]]), np.array([[0.3, 10.0]]))}
    joined = dataclasses.replace(
        mapping, topology=dataclasses.replace(mapping.topology, intermolecular=between)
    )
    with pytest.raises(InputError, match="intermolecular_interactions"):
        PartedMechanics(joined, ThreadCrew(2))
    with pytest.raises(InputError, match="parts: expected at least as many molecules"):
        PartedMechanics(mapping, ThreadCrew(mapping.topology.n_molecules + 1))


def test_what_is_lost_in_a_part_is_said(system):
    mapping, x, beads, box = system
    bad = x.copy()
    bad[200] = np.nan
    with pytest.raises((LostError, ValueError)):
        PartedMechanics(mapping, ThreadCrew(2)).run(
            bad, beads, box, Langevin(3, TEMPERATURE), np.arange(len(x))
        )
