"""Damaged beads and wrong settings: refused with the right reason, spoken of, or right."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cli_systems import command
from damaged_beads import CHAINS, KINDS, MONOMERS, make_damage
from deepbackmap.chemistry import tacticity
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.usable import verdict, worst
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from melt import build

DAMAGES = 60
MANY = 300
BOX = 4.5 * np.eye(3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four chains in some order of their own, their beads, and the hands that they have."""
    folder = tmp_path_factory.mktemp("chains")
    build.write_topology(folder / "topol.top", MONOMERS, CHAINS)
    topology = read_topology(folder / "topol.top")
    mapping = load_mapping("ps-two-bead").resolve(topology)
    rng = np.random.default_rng(3)
    chains = build.place_chains(build.build_chains(MONOMERS, CHAINS, rng), BOX[0, 0], rng)
    atoms = Structure(chains.reshape(-1, 3), BOX)
    with open_writer(folder / "aa.gro", atom_table(topology)) as writer:
        writer.write(atoms)
    beads = Structure(map_positions(mapping, atoms.positions), BOX)
    return folder, mapping, beads, tacticity.signs(atoms, tacticity.find_centres(mapping))


def attempt(whole, tmp_path, damage, *more):
    """Runs ``backmap -q`` on damaged beads."""
    folder, mapping, *_ = whole
    path, output = tmp_path / "cg.gro", tmp_path / "out.gro"
    with open_writer(path, bead_table(mapping)) as writer:
        writer.write(damage.beads)
    outcome = command("backmap", path, "-p", folder / "topol.top", "-o", output, "-q",
                      "--temperature", damage.temperature, *more)  # fmt: skip
    return outcome, output


def findings(whole, damage, output):
    """What speaks against atoms that were written, by the hands that they should have."""
    _, mapping, _beads, signs = whole
    centres = tacticity.find_centres(mapping)
    known = tacticity.KnownHands(centres.atoms, -signs if damage.mirrored else signs)
    with read_frames(output) as source:
        frame = source[0]
    figures = Judge(mapping.topology, mapping, hands=known).frame(frame)
    assert figures.atoms == mapping.topology.n_atoms
    return verdict(figures, float(damage.temperature))


def check(whole, tmp_path, number):
    damage = make_damage(number, whole[2])
    outcome, output = attempt(whole, tmp_path, damage)
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) <= 1, outcome.err
    if outcome.code == 2:
        assert not damage.right, (number, damage.kind, outcome.err)
        assert damage.words in outcome.err, (number, damage.kind, outcome.err)
        assert not output.exists()
        return "refused"
    assert outcome.code == 0, outcome
    assert not damage.words, (number, damage.kind, outcome.err)
    bad = worst(findings(whole, damage, output))
    if damage.right:
        assert bad != "unusable", (number, damage.kind)
    assert bad == "fine" or "WARNING" in outcome.err, (number, damage.kind, outcome.err)
    return bad


@pytest.mark.parametrize("first", range(len(KINDS)))
def test_every_kind_of_damage_is_refused_or_right_or_spoken_of(first, whole, tmp_path):
    for number in range(first, DAMAGES, len(KINDS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(whole, folder, number)
