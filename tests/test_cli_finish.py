"""``deepbackmap finish``: what comes out obeys the laws, and every wrong input is one line."""

import importlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cli_systems import command, contents, refused
from deepbackmap.api.finish import FinishTotals
from deepbackmap.api.finisher import Finisher, finish_options
from deepbackmap.api.record import file_hash
from deepbackmap.dynamics.finishing import Finished
from deepbackmap.errors import InputError
from deepbackmap.evaluation.judge import Judge
from deepbackmap.io.tables import ParticleTable
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from finish_systems import BOX, CHAINS, write_chains

GOOD = (
    "--temperature",
    500,
    "--steps",
    10,
    "--minimise",
    20,
    "--engine",
    "openmm-cpu",
    "--threads",
    1,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains")
    write_chains(folder)
    return folder


@pytest.fixture
def chains(template, tmp_path, monkeypatch):
    folder = tmp_path / "chains"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def spoil(folder, change, name="spoilt.gro"):
    """A copy of the structure with other positions."""
    topology = read_topology(folder / "topol.top")
    with read_frames(folder / "aa.gro") as source:
        frame = source[0]
    positions = frame.positions.copy()
    change(positions, topology)
    with open_writer(folder / name, atom_table(topology)) as writer:
        writer.write(replace(frame, positions=positions))
    return name


def test_finish_writes_atoms_with_bonds_at_length_and_a_record(chains):
    outcome = command("finish", "aa.gro", "aa.trr", "-p", "topol.top", "-o", "out.trr", *GOOD)
    assert outcome.code == 0, outcome
    topology = read_topology("topol.top")
    judge = Judge(topology)
    with read_frames("aa.gro", "out.trr") as out, read_frames("aa.gro", "aa.trr") as start:
        assert len(out) == 2
        for after, before in zip(out, start, strict=True):
            assert judge.frame(after).bonds.largest < 1e-4  # trr holds single precision
            assert judge.new_defects(judge.look(after), judge.look(before)) == []
            assert np.allclose(after.box, BOX, atol=1e-6)
            assert after.time == before.time
            assert np.abs(after.positions - before.positions).max() > 0.005
    record = json.loads((chains / "out.trr.json").read_text())
    summary = record["summary"]
    assert record["options"]["temperature"] == 500
    assert summary["before"]["bonds"]["largest"] > 0.005
    assert summary["after"]["bonds"]["largest"] < 1e-3
    assert record["versions"]["OpenMM"] == record["engine"]["version"] is not None
    assert record["input"]["structure"]["sha256"] == file_hash("aa.gro")
    assert (record["seed"], record["threads"]) == (0, 1)
    # a round of 20 steps and the first evaluation, and the steps of dynamics and the first
    assert summary["minimisation"] == 2 * 21
    assert summary["dynamics"] == 2 * 11
    assert summary["evaluations_per_frame"] == 32
    assert "lj" in summary["settled"]
    assert "force evaluations    32 a frame" in outcome.out
    assert not list(chains.glob(".*"))


def test_a_frame_comes_out_the_same_whichever_others_are_asked_for(chains):
    command("finish", "aa.gro", "aa.trr", "-p", "topol.top", "-o", "both.trr", *GOOD)
    command(
        "finish", "aa.gro", "aa.trr", "-p", "topol.top", "-o", "one.trr", "--frames", "1:", *GOOD
    )
    command("finish", "aa.gro", "aa.trr", "-p", "topol.top", "-o", "other.trr", "--seed", 1, *GOOD)
    with (
        read_frames("aa.gro", "both.trr") as both,
        read_frames("aa.gro", "one.trr") as one,
        read_frames("aa.gro", "other.trr") as other,
    ):
        assert np.abs(both[1].positions - one[0].positions).max() < 1e-5
        assert np.abs(both[1].positions - other[1].positions).max() > 0.001


def test_any_number_of_threads_gives_the_same_structure(chains):
    for threads in (1, 3):
        outcome = command("finish", "aa.gro", "-p", "topol.top", "-o", f"{threads}.trr", *GOOD,
                          "--steps", 50, "--threads", threads)  # fmt: skip
        assert outcome.code == 0, outcome
        assert ("NOT to the bit" in outcome.out) == (threads > 1)
    with read_frames("aa.gro", "1.trr") as one, read_frames("aa.gro", "3.trr") as three:
        assert np.abs(one[0].positions - three[0].positions).max() < 1e-5


def test_one_thread_gives_the_same_bits_whatever_was_finished_before(chains):
    """As the summary says of OpenMM: frames alone, and after another."""
    run = ("finish", "aa.gro", "aa.trr", "-p", "topol.top", *GOOD)
    for name, frames in (("both.trr", "0:2"), ("last.trr", "1:2")):
        outcome = command(*run, "--frames", frames, "-o", name)
        assert outcome.code == 0, outcome
        assert "to the bit with one thread" in outcome.out
    with read_frames("aa.gro", "both.trr") as both, read_frames("aa.gro", "last.trr") as last:
        np.testing.assert_array_equal(both[1].positions, last[0].positions)


def test_beads_are_held_where_they_were(chains):
    given = ("--hold-beads", "--mapping", "ps-two-bead", "--steps", 50)
    free = command("finish", "aa.gro", "-p", "topol.top", "-o", "free.gro", *GOOD, "--steps", 50)
    held = command("finish", "aa.gro", "-p", "topol.top", "-o", "held.gro", *GOOD, *given)
    there = command("finish", "aa.gro", "-p", "topol.top", "-o", "there.gro", *GOOD, *given,
                    "--beads", "cg.trr")  # fmt: skip
    assert (free.code, held.code, there.code) == (0, 0, 0), (free, held, there)
    mapping = load_mapping("ps-two-bead").resolve(read_topology("topol.top"))
    with read_frames("cg.gro") as source:
        beads = source[0].positions
    far = {}
    for name in ("free", "held", "there"):
        with read_frames(f"{name}.gro") as source:
            mapped = map_positions(mapping, source[0].positions)
        far[name] = np.sqrt(np.mean(np.sum((mapped - beads) ** 2, axis=1)))
    assert far["held"] < 0.6 * far["free"]
    assert far["held"] == pytest.approx(far["there"], abs=0.002)
    summary = json.loads((chains / "held.gro.json").read_text())["summary"]
    assert summary["held"]["rms"] == pytest.approx(far["held"], abs=0.001)
    assert "beads held" in held.out


def test_until_settled_goes_on_and_counts(chains):
    outcome = command("finish", "aa.gro", "-p", "topol.top", "-o", "out.gro", *GOOD,
                      "--until-settled", "--max-steps", 60)  # fmt: skip
    assert outcome.code == 0, outcome
    summary = json.loads((chains / "out.gro.json").read_text())["summary"]
    assert 10 < summary["steps"][0] <= 60
    assert all(term["state"] != "settled" for term in summary["settled"].values())


def mirror_one_centre(positions, topology):
    """Swaps the hydrogen and a heavy branch of a stereocentre of the first molecule."""
    centre, light, heavy = Judge(topology)._plan.centres[0, :3]
    a, b = positions[light] - positions[centre], positions[heavy] - positions[centre]
    # reflection in the plane between the two bonds: every other atom stays where it is
    positions[light] = positions[centre] + np.linalg.norm(a) * b / np.linalg.norm(b)
    positions[heavy] = positions[centre] + np.linalg.norm(b) * a / np.linalg.norm(a)


def test_a_stereocentre_that_was_inverted_before_is_named_and_not_new(chains):
    def mirror_a_molecule(positions, topology):
        positions[: topology.molecule_types[0].n_atoms, 0] *= -1.0

    name = spoil(chains, mirror_a_molecule)
    given = ("-p", "topol.top", *GOOD, "--reference", "aa.gro")
    before = contents(chains)
    said = refused("finish", name, "-o", "out.gro", *given)
    assert f"expected every stereocentre of the right hand, found 2 of {2 * CHAINS} wrong" in said
    assert "of molecule 1" in said
    # one molecule tells all of its type
    with read_frames("aa.gro") as source:
        first, table = source[0], source.table
    n, single = first.n // CHAINS, chains / "one.gro"
    names = ParticleTable(table.names[-n:], table.resnames[-n:], table.resids[-n:])
    with open_writer(single, names) as writer:
        writer.write(replace(first, positions=first.positions[-n:]))
    assert "found 2 of" in refused("finish", name, "-o", "out.gro", *given[:-1], "one.gro")
    single.unlink()
    assert contents(chains) == before
    outcome = command("finish", name, "-o", "out.gro", *given, "--keep-defects", "-q")
    assert outcome.code == 0, outcome
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("deepbackmap: WARNING, unusable: expected every stereocentre")
    summary = json.loads((chains / "out.gro.json").read_text())["summary"]
    assert (summary["before"]["hands"]["wrong"], summary["after"]["hands"]["wrong"]) == (2, 2)
    assert summary["after"]["hands"]["known"] == 2 * CHAINS
    assert summary["new"] == []
    assert "of molecule 1" in summary["after"]["hands"]["named"][0]


def test_what_only_the_majority_says_is_refused_if_asked(chains):
    def mirror_a_molecule(positions, topology):
        positions[: topology.molecule_types[0].n_atoms, 0] *= -1.0

    name = spoil(chains, mirror_a_molecule)
    outcome = command("finish", name, "-o", "out.gro", "-p", "topol.top", *GOOD)
    assert outcome.code == 0, outcome
    assert "going by what most molecules have" in outcome.out
    said = refused("finish", name, "-o", "strict.gro", "-p", "topol.top", *GOOD, "--strict")
    assert "going by what most molecules have" in said


def test_what_most_molecules_have_counts_as_right(chains):
    topology = read_topology("topol.top")
    judge = Judge(topology)
    with read_frames("aa.gro") as source:
        frame = source[0]
    clean = judge.look(frame)
    assert np.count_nonzero(clean.right) == 2 * CHAINS
    assert clean.wrong == []
    one = frame.positions.copy()
    mirror_one_centre(one, topology)
    found = judge.look(replace(frame, positions=one))
    assert found.wrong == found.newly_wrong(clean) == [0]
    # half of them inverted: nothing is known of that centre, but a change is seen all the same
    n = topology.molecule_types[0].n_atoms
    half = one.copy()
    for k in range(1, CHAINS // 2):
        piece = half[k * n : (k + 1) * n]
        mirror_one_centre(piece, topology)
    unknown = judge.look(replace(frame, positions=half))
    assert np.count_nonzero(unknown.right) == CHAINS
    assert unknown.wrong == []
    assert clean.newly_wrong(unknown) == [2 * k for k in range(CHAINS // 2)]


REFUSALS = {
    "no temperature": ((), "temperature: expected one in K"),
    "cold": (("--temperature", 0), "temperature: expected a number above 0, found 0"),
    "not a number": (("--temperature", "nan"), "temperature: expected a number above 0"),
    "steps": (("--temperature", 300, "--steps", 0), "steps: expected at least 1, found 0"),
    "friction": (("--temperature", 300, "--friction", 0), "friction: expected a number above 0"),
    "engine": (("--temperature", 300, "--engine", "lammps"), "engine: expected one of"),
    "seed": (("--temperature", 300, "--seed", -1), "seed: expected a whole number from 0"),
    "hold": (("--temperature", 300, "--hold-beads"), "hold-beads: expected a mapping"),
    "mapping": (("--temperature", 300, "--mapping", "ps-two-bead"), "mapping: expected hold-beads"),
    "frames": (("--temperature", 300, "--frames", "7:"), "expected frames 7:"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_options_that_cannot_be(case, chains):
    given, expected = REFUSALS[case]
    before = contents(chains)
    said = refused("finish", "aa.gro", "-p", "topol.top", "-o", "out.gro", *given)
    assert expected in said
    assert contents(chains) == before


def test_gromacs_that_is_not_installed(chains, monkeypatch):
    monkeypatch.setenv("PATH", str(chains))
    said = refused("finish", "aa.gro", "-p", "topol.top", "-o", "out.gro", "--temperature", 300,
                   "--engine", "gromacs")  # fmt: skip
    assert "gmx" in said


def test_outputs_that_exist_are_kept(chains):
    (chains / "out.gro").write_text("mine")
    said = refused("finish", "aa.gro", "-p", "topol.top", "-o", "out.gro", *GOOD)
    assert "out.gro: expected no file of that name" in said
    assert (chains / "out.gro").read_text() == "mine"
    (chains / "other.gro.json").write_text("mine")
    said = refused("finish", "aa.gro", "-p", "topol.top", "-o", "other.gro", *GOOD)
    assert "other.gro.json: expected no file" in said
    assert (
        command("finish", "aa.gro", "-p", "topol.top", "-o", "out.gro", *GOOD, "--force").code == 0
    )


def test_atoms_in_one_place_are_named(chains):
    def together(positions, topology):
        positions[60] = positions[3]

    said = refused("finish", spoil(chains, together), "-p", "topol.top", "-o", "out.gro", *GOOD)
    assert said.startswith("spoilt.gro frame 0: expected atoms in places of their own")
    assert "(atom 4) of molecule 1" in said
    assert "(atom 61) of molecule 2" in said
    assert not (chains / "out.gro").exists()


def test_chains_on_top_of_each_other_are_parted_and_counted(chains):
    def onto(positions, topology):
        n = topology.molecule_types[0].n_atoms
        positions[n : 2 * n] = positions[:n] + 0.002

    name = spoil(chains, onto)
    given = ("finish", name, "-p", "topol.top", "-o", "out.gro", *GOOD)
    # ten steps do not cool what was torn apart
    assert "expected angles as at 500 K, found their energy to be that of" in refused(*given)
    outcome = command(*given, "--keep-defects")
    assert outcome.code == 0, outcome
    summary = json.loads((chains / "out.gro.json").read_text())["summary"]
    assert summary["before"]["contacts"]["closest"] < 0.05
    assert "of molecule 1" in " ".join(summary["before"]["contacts"]["pair"])
    assert "of molecule 2" in " ".join(summary["before"]["contacts"]["pair"])
    assert summary["after"]["contacts"]["closest"] > 0.6
    assert summary["minimisation"] >= 21 + 41


def test_a_start_that_the_engine_cannot_run_is_refused_with_its_contact(chains):
    def onto(positions, topology):
        n = topology.molecule_types[0].n_atoms
        positions[n : 2 * n] = positions[:n] + 0.002

    name = spoil(chains, onto)
    before = contents(chains)
    # nothing parts them, so that the first step throws atoms away
    said = refused("finish", name, "-p", "topol.top", "-o", "out.gro", *GOOD, "--minimise", 0)
    assert said.startswith("spoilt.gro frame 0: ")
    assert "molecule 1" in said
    assert contents(chains) == before


def test_another_number_of_atoms(chains):
    lines = (chains / "aa.gro").read_text().splitlines()
    lines[1] = str(int(lines[1]) - 1)
    del lines[-2]
    (chains / "fewer.gro").write_text("\n".join(lines) + "\n")
    said = refused("finish", "fewer.gro", "-p", "topol.top", "-o", "out.gro", *GOOD)
    assert "fewer.gro: expected" in said
    assert f"{int(lines[1]) + 1} atoms expected" in said


def test_no_box(chains):
    lines = (chains / "aa.gro").read_text().splitlines()
    (chains / "open.gro").write_text("\n".join([*lines[:-1], "0 0 0"]) + "\n")
    said = refused("finish", "open.gro", "-p", "topol.top", "-o", "out.gro", *GOOD)
    assert "expected a periodic box, found none" in said


def test_a_box_that_is_too_small_for_the_cut_off(chains):
    lines = (chains / "aa.gro").read_text().splitlines()
    (chains / "small.gro").write_text("\n".join([*lines[:-1], "1.5 9 9"]) + "\n")
    said = refused("finish", "small.gro", "-p", "topol.top", "-o", "out.gro", *GOOD)
    assert "cut-off" in said


def test_no_lennard_jones_parameters(chains):
    from deepbackmap.io import topology as reader

    topology = reader.read_topology("topol.top")
    nothing = replace(topology, c6=0.0 * topology.c6, c12=0.0 * topology.c12)
    with pytest.raises(InputError, match=r"topol\.top: expected Lennard-Jones parameters"):
        Finisher(nothing, finish_options(300.0))


def test_a_defect_that_finishing_makes_is_refused_unless_it_is_to_be_kept(chains, monkeypatch):
    topology = read_topology("topol.top")
    with read_frames("aa.gro") as source:
        frame = source[0]

    def turned(engine, contacts, structure, options, **rest):
        positions = structure.positions.copy()
        mirror_one_centre(positions, topology)
        return Finished(replace(structure, positions=positions), 21, 11, 10, 1, {}, {})

    module = importlib.import_module("deepbackmap.api.finisher")
    monkeypatch.setattr(module, "finish_structure", turned)
    monkeypatch.setattr(module, "BONDS_OFF", 1.0)
    options = finish_options(300.0)
    strict = Finisher(topology, options, engine="openmm-cpu")
    with pytest.raises(InputError, match=r"no defect from finishing, found 1 new, .*stereocentre"):
        strict.finish(frame, 4, "x.gro")
    kept = Finisher(topology, options, engine="openmm-cpu", keep_defects=True)
    totals = FinishTotals(topology.n_atoms, options)
    totals.count(kept.finish(frame, 4, "x.gro"))
    summary = totals.summary()
    assert len(summary.new) == 1
    assert "frame 4" in summary.new[0]
    assert "WARNING, new: stereocentre" in summary.to_text()


def test_a_ring_that_is_pierced_is_found_and_followed_along_the_molecule(chains):
    topology = read_topology("topol.top")
    judge = Judge(topology)
    n = topology.molecule_types[0].n_atoms
    with read_frames("aa.gro") as source:
        frame = source[0]
    ring = judge._plan.rings[0][0]
    centre = frame.positions[ring].mean(axis=0)
    arms = frame.positions[ring] - centre
    normal = np.cross(arms[0], arms[1])
    normal /= np.linalg.norm(normal)

    def through(bond):
        positions = frame.positions.copy()
        a, b = topology.molecule_types[0].bonds[bond] + n
        axis = positions[b] - positions[a]
        # the second molecule, turned so that one bond lies along the normal of the ring
        turn = rotation(axis / np.linalg.norm(axis), normal)
        middle = 0.5 * (positions[a] + positions[b])
        positions[n : 2 * n] = (positions[n : 2 * n] - middle) @ turn.T + centre
        return replace(frame, positions=positions), (int(a), int(b))

    clean = judge.look(frame)
    assert clean.pierced == ()
    backbone = [k for k, (a, b) in enumerate(topology.molecule_types[0].bonds.tolist())
                if topology.molecule_types[0].heavy[[a, b]].all()]  # fmt: skip
    first, bond = through(backbone[0])
    found = judge.look(first)
    assert (int(ring[0]), 1, *sorted(bond)) in {(r, m, *sorted(b)) for r, m, *b in found.pierced}
    assert found.newly_pierced(clean)
    assert "of molecule 2" in judge.name_pierced(found.pierced[0])
    second, _ = through(backbone[1])
    later = judge.look(second)
    same = [e for e in later.newly_pierced(found) if e[0] == int(ring[0])]
    assert not same


def rotation(start, end):
    """The matrix that turns one unit vector onto another."""
    axis, cosine = np.cross(start, end), float(start @ end)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1.0 + cosine)


def test_backmap_and_finish_in_one_go(chains):
    # the voxel model, whose bonds are off until finishing mends them
    given = ("cg.gro", "-p", "topol.top", "--model", "ps-two-bead-568K", "--sweeps", 0,
             "--block-relaxation", 10, "--keep-defects")  # fmt: skip
    outcome = command("backmap", *given, "-o", "out.gro", "--finish", "--finish-steps", 10,
                      "--engine", "openmm-cpu", "--temperature", 500)  # fmt: skip
    assert outcome.code == 0, outcome
    summary = json.loads((chains / "out.gro.json").read_text())["summary"]
    assert summary["finish"]["dynamics"] == 11
    assert summary["finish"]["temperature"] == 500
    assert summary["finish"]["before"]["bonds"]["largest"] > 0.005
    # what is right is known before finishing, and not guessed anew from most molecules
    hands, after = summary["figures"]["hands"], summary["finish"]["after"]["hands"]
    assert hands["known"] == after["known"] > 0 == after["assumed"]
    assert hands["wrong"] == after["wrong"]
    with read_frames("out.gro") as source:
        found = Judge(read_topology("topol.top")).frame(source[0])
    assert found.bonds.largest < 0.0015  # .gro rounds to 0.001 nm
    # the other figures are of what was written
    closest = summary["finish"]["after"]["contacts"]["closest"]
    assert summary["figures"]["contacts"]["closest"] == pytest.approx(closest, abs=1e-6)
    assert "force evaluations" in outcome.out
    plain = command("backmap", *given, "-o", "plain.gro")
    assert plain.code == 0, plain
    assert "finish" not in plain.out
