"""The engine in this process: starts that nothing else parts, hands, held beads, refusals."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from cli_systems import command, contents, refused
from deepbackmap.baselines.modifiers import (
    apply_modifiers,
    packaged_modifiers,
    read_modifiers,
    resolve_modifiers,
)
from deepbackmap.baselines.projection import kick, project
from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.dynamics.containers import Dynamics, EngineError, Hold, Minimisation
from deepbackmap.dynamics.engines import choose, open_engine
from deepbackmap.dynamics.finishing import PARTED, FinishOptions, finish_structure
from deepbackmap.errors import InputError
from deepbackmap.evaluation.judge import Judge
from deepbackmap.forcefield.contacts import Contacts
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
TEMPERATURE = 568.0


@functools.cache
def melt():
    """The packaged melt: mapping file, mapping, the structure whole."""
    topology = read_topology(MELT / "topol.top")
    frame = read_frames(MELT / "aa.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    file = load_mapping("ps-two-bead")
    return file, file.resolve(topology), Structure(whole, frame.box)


@functools.cache
def engine(threads=1):
    return open_engine(melt()[1].topology, name="internal", threads=threads, mapping=melt()[1])


def judge():
    _, mapping, frame = melt()
    return Judge(mapping.topology, mapping, reference=frame)


def crude(*, modified, seed=0):
    """What ``baseline --method backward --kick 0.05 --no-minimise`` writes, with modifiers or
    without: atoms in heaps about their beads."""
    file, mapping, frame = melt()
    beads = map_positions(mapping, frame.positions)
    made = kick(Structure(project(mapping, beads), frame.box), 0.05, seed=seed, frame=0)
    if not modified:
        return made
    path = packaged_modifiers()["polystyrene"]
    return apply_modifiers(
        resolve_modifiers(read_modifiers(path), str(path), mapping, file), mapping, made
    )


def hold(constant=100_000.0):
    _, mapping, frame = melt()
    return Hold(map_positions(mapping, frame.positions), constant)


# --- starts that are crude ------------------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("modified", [False, True])
def test_heaps_of_atoms_are_parted_and_no_right_hand_is_lost(modified, seed, held):
    start = crude(modified=modified, seed=seed)
    contacts = Contacts(melt()[1].topology)
    assert contacts.closest(start).relative < 0.2
    done = finish_structure(
        engine(), contacts, start, FinishOptions(TEMPERATURE, steps=20), seed=1,
        hold=hold() if held else None,
    )  # fmt: skip
    assert contacts.closest(done.structure).relative > PARTED
    assert done.minimisation < 500
    by = judge()
    before = by.look(start)
    after = by.look(done.structure, before)
    assert after.newly_wrong(before) == []
    fixed = Constraints.of(melt()[1].topology, bonds=True)
    assert np.abs(fixed.deviations(done.structure.positions)).max() < 1e-5
    if held:
        mapped = map_positions(melt()[1], done.structure.positions)
        off = minimum_image(mapped - hold().beads, start.box)
        assert np.sqrt((off**2).mean()) < 0.03


def write(folder, frame, name):
    with open_writer(folder / name, atom_table(melt()[1].topology)) as writer:
        writer.write(frame)
    return folder / name


@pytest.mark.parametrize(
    "held", [(), ("--hold-beads", "--mapping", "ps-two-bead", "--beads", MELT / "cg.gro")]
)
def test_finish_makes_a_melt_of_heaps(tmp_path, held):
    """All the way through the command, nothing kept that could not be used."""
    start = write(tmp_path, crude(modified=True), "crude.gro")
    outcome = command(
        "finish", start, "-p", MELT / "topol.top", "-o", tmp_path / "out.gro", "--temperature",
        568, "--steps", 300, "--engine", "internal", "--threads", 1, "--reference",
        MELT / "aa.gro", *held,
    )  # fmt: skip
    assert outcome.code == 0, outcome
    record = json.loads((tmp_path / "out.gro.json").read_text())
    summary = record["summary"]
    assert summary["engine"] == "internal"
    assert summary["after"]["hands"]["wrong"] == 0
    assert summary["after"]["contacts"]["closest"] > PARTED
    assert summary["after"]["blocks"]["temperature"] == pytest.approx(568, rel=0.2)
    assert (summary["held"]["count"] > 0) == bool(held)


def test_finish_says_what_it_could_not_repair(tmp_path):
    """Rings whose atoms begin in a heap stay crumpled: refused by name, nothing written."""
    start = write(tmp_path, crude(modified=False), "crude.gro")
    before = contents(tmp_path)
    said = refused(
        "finish", start, "-p", MELT / "topol.top", "-o", tmp_path / "out.gro", "--temperature",
        568, "--steps", 20, "--engine", "internal", "--threads", 1,
    )  # fmt: skip
    assert "part all atoms" not in said
    assert "angles as at 568 K" in said
    assert contents(tmp_path) == before


# --- runs -----------------------------------------------------------------------------------------


def test_threads_change_no_bit():
    start = crude(modified=True)
    made = []
    for threads in (1, 2):
        by = engine(threads)
        parted = by.minimise(start, Minimisation(20, 1e6)).structure
        made.append(by.run(parted, Dynamics(20, 300.0, seed=4)).structure.positions)
    assert np.array_equal(*made)


def test_minimisation_counts_what_it_repairs():
    """A centre of the wrong side of its plane at the end of the steps costs more steps."""
    start = crude(modified=True)
    found = engine().minimise(start, Minimisation(10, 1e6))
    assert found.force_evaluations > 11
    assert (found.force_evaluations - 11) % 20 == 0
    assert found.step.tolist() == [0, found.force_evaluations - 1]
    assert found.energies["potential"][1] < 0.01 * found.energies["potential"][0]
    again = engine().minimise(melt()[2], Minimisation(10, 1e6))
    assert again.force_evaluations == 11


def test_without_forces_between_molecules_there_is_no_such_energy():
    found = engine().minimise(melt()[2], Minimisation(10, 1e6, nonbonded=False))
    assert found.energies["lj"].tolist() == found.energies["coulomb"].tolist() == [0.0, 0.0]
    assert found.energies["potential"][1] < found.energies["potential"][0]


def test_bonds_are_springs_where_no_stiffness_is_given():
    found = engine().minimise(melt()[2], Minimisation(5))
    assert found.energies["bond"][1] > 0.0


# --- refusals -------------------------------------------------------------------------------------


def test_what_it_cannot_do_is_refused():
    start = melt()[2]
    assert choose("internal") == ("internal", "")
    with pytest.raises(InputError, match="pressure: expected none with the engine internal"):
        engine().run(start, Dynamics(5, 300.0, pressure=1.0))
    with pytest.raises(InputError, match="thermostat: expected langevin with internal"):
        engine().run(start, Dynamics(5, 300.0, thermostat="v-rescale"))
    with pytest.raises(InputError, match="temperature: expected a number above 0"):
        engine().run(start, Dynamics(5, -1.0))
    with pytest.raises(InputError, match="tolerance: expected 0 with the engine internal"):
        engine().minimise(start, Minimisation(5, tolerance=10.0))
    with pytest.raises(EngineError, match="box of at least 2.16 nm .* internal, found 1.40"):
        engine().run(replace(start, box=0.5 * start.box), Dynamics(5, 300.0))
    without = open_engine(melt()[1].topology, name="internal", threads=1)
    with pytest.raises(InputError, match="hold: expected a mapping"):
        without.run(start, Dynamics(5, 300.0), hold=hold())
    with pytest.raises(InputError, match="hold: expected 240 beads"):
        engine().run(start, Dynamics(5, 300.0), hold=Hold(np.zeros((1, 3)), 1.0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--hold-constant", 5e4), "hold-constant: expected hold-beads with it"),
        (("--max-steps", 500), "max-steps: expected until-settled with it"),
    ],
)
def test_options_that_would_do_nothing_are_refused(given, said, tmp_path):
    text = refused(
        "finish", MELT / "aa.gro", "-p", MELT / "topol.top", "-o", tmp_path / "out.gro",
        "--temperature", 300, "--engine", "internal", *given,
    )  # fmt: skip
    assert text.startswith(said)
    assert not list(tmp_path.iterdir())
