"""Damaged beads and wrong settings: refused with the right reason, spoken of, or right."""

from dataclasses import replace

import pytest

from cli_systems import command
from damaged_beads import CHAINS, KINDS, MONOMERS, Damage, make_damage
from deepbackmap.api.demo import melt_folder
from deepbackmap.chemistry import tacticity
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.usable import verdict, worst
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.mapping.match import bead_table

DAMAGES, MANY = 60, 300


@pytest.fixture(scope="module")
def whole():
    """The packaged melt: its folder and mapping, beads of a frame, and the hands of its atoms."""
    folder = melt_folder()
    mapping = load_mapping("ps-two-bead").resolve(read_topology(folder / "topol.top"))
    with read_frames(folder / "cg.gro", folder / "cg.xtc", frames=":1") as source:
        beads = source[0]
    with read_frames(folder / "aa.gro", folder / "aa.xtc", frames=":1") as source:
        signs = tacticity.signs(source[0], tacticity.find_centres(mapping))
    assert beads.n == CHAINS * 2 * MONOMERS
    return folder, mapping, beads, signs


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
    _, mapping, _, signs = whole
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


@pytest.mark.slow
def test_many_damages(whole, tmp_path):
    for number in range(DAMAGES, MANY):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(whole, folder, number)


@pytest.mark.parametrize(
    ("name", "factor", "question"),
    [
        ("cg.gsd", 0.1, "is the file in nm? (--length-unit nm)"),
        ("cg.pdb", 0.1, "is the file in nm? (--length-unit nm)"),
        ("cg.gro", 10.0, "is the file in Å? (--length-unit A)"),
        ("cg.xtc", 10.0, "is the file in Å? (--length-unit A)"),
        ("cg.trr", 10.0, "is the file in Å? (--length-unit A)"),
        ("cg.lammpstrj", 0.1 / 0.5, "--length-unit with what one unit is in nm"),
    ],
)
def test_a_file_in_another_unit_is_taken_once_the_unit_is_said(
    name, factor, question, whole, tmp_path
):
    """What is read is off by a factor, and the hint is one that helps."""
    folder, mapping, beads, _ = whole
    written = replace(beads, positions=factor * beads.positions, box=factor * beads.box)
    with open_writer(tmp_path / name, bead_table(mapping)) as writer:
        writer.write(written)
    given = [tmp_path / name]
    if name.endswith(("xtc", "trr")):
        given.insert(0, tmp_path / "names.gro")
        with open_writer(given[0], bead_table(mapping)) as writer:
            writer.write(beads)
    call = ("backmap", *given, "-p", folder / "topol.top", "-o", tmp_path / "out.gro",
            "-q")  # fmt: skip
    if name.endswith(("gsd", "lammpstrj")):  # which know types only
        call += ("--by-order",)
    outcome = command(*call)
    assert outcome.code == 2
    assert question in outcome.err
    assert not (tmp_path / "out.gro").exists()
    unit = "0.5" if name == "cg.lammpstrj" else question[-3:-1].strip()
    outcome = command(*call, "--length-unit", unit)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    damage = Damage("", beads, "", right=True)
    assert worst(findings(whole, damage, tmp_path / "out.gro")) != "unusable"


def test_what_is_kept_with_its_defects_is_spoken_of(whole, tmp_path):
    damage = make_damage(1, whole[2])
    outcome, output = attempt(whole, tmp_path, damage, "--keep-defects")
    assert outcome.code == 0
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("deepbackmap: WARNING, unusable: expected bonded beads")
    assert output.exists()


def test_a_temperature_far_from_the_training_is_spoken_of(whole, tmp_path):
    damage = replace(make_damage(15, whole[2]), temperature="900")
    outcome, output = attempt(whole, tmp_path, damage)
    assert outcome.code == 0
    assert "WARNING, suspicious: expected a temperature that the model knows (313 to 568 K), " in (
        outcome.err
    )
    assert output.exists()
