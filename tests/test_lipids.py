"""A small bilayer with CHARMM's kinds of term: check, backmap without a model, map."""

import numpy as np
import pytest

from cli_systems import command
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.system.topology import require_energies
from lipid_system import molecule, write_lipids


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Atoms of a bilayer, its beads and topology."""
    folder = tmp_path_factory.mktemp("lipids")
    top, cg, mapping = write_lipids(folder, side=3)
    done = command("backmap", cg, "-p", top, "--mapping", mapping, "--model", "none",
                   "--temperature", 310, "-o", folder / "aa.gro", "--option",
                   "conformations=2400", "--option", "pieces=600")  # fmt: skip
    assert done.code == 0, done
    return folder, top, cg, mapping, done.out


def positions(path):
    with read_frames(path) as source:
        return source[0]


def test_the_terms_are_those_of_charmm(made):
    topology = read_topology(made[1])
    require_energies(topology)
    terms = topology.molecule_types[0].terms
    assert set(terms) == {"bond", "angle", "urey_bradley", "proper", "improper"}
    atoms, bonds = molecule()
    assert len(terms["bond"].atoms) == len(bonds) == len(atoms) - 1
    assert sum(charge for *_, charge in atoms) == pytest.approx(1.0)


def test_check_says_that_it_fits(made):
    _, top, cg, mapping, _ = made
    given = ("-p", top, "--mapping", mapping, "--beads", cg)
    done = command("check", *given, "--model", "none", "--temperature", 310)
    assert done.code == 0 and "LIP, 50 atoms in 5 beads" in done.out
    assert "no packaged model knows these types" in command("check", *given).out


def test_heads_are_outside_and_beads_where_they_were(made):
    folder, top, cg, mapping, said = made
    assert said.split("bonds through rings")[1].split()[0] == "0"
    atoms = positions(folder / "aa.gro").positions.reshape(18, 50, 3)
    names = [name for name, *_ in molecule()[0]]
    head = np.abs(atoms[:, names.index("N"), 2] - 3.0)
    tail = np.abs(atoms[:, names.index("C10"), 2] - 3.0)
    assert (head > tail + 0.5).all()
    done = command("map", folder / "aa.gro", "-p", top, "--mapping", mapping, "-o",
                   folder / "again.gro")  # fmt: skip
    assert done.code == 0, done
    given, again = positions(cg), positions(folder / "again.gro")
    apart = again.positions - given.positions
    apart -= np.diag(given.box) * np.rint(apart / np.diag(given.box))
    # beads that were put on straight lines, which no lipid has exactly there
    assert np.sqrt((apart**2).sum(axis=1).mean()) < 0.12
