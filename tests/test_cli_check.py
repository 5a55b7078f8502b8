"""``check`` says beforehand what ``backmap`` would refuse, and everything at once."""

import json
import shutil
from importlib.resources import files

import numpy as np
import pytest

from cli_systems import command, refused, write_model, write_system
from deepbackmap.api.check import check
from deepbackmap.chemistry.tacticity import find_centres
from deepbackmap.io.topology import read_topology
from deepbackmap.mapping import load_mapping
from sited_systems import HEAD
from test_cli_bad_input import count_line, edit


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    write_model(folder / "model.safetensors")
    write_model(folder / "no-rings.safetensors", atom_types=("C", "C_AR", "H", "X"))
    return folder


@pytest.fixture
def melt(template, tmp_path, monkeypatch):
    folder = tmp_path / "melt"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def no_change(melt):
    pass


def missing_bead(melt):
    edit(melt / "cg.gro", (10, lambda line: []))
    count_line(melt / "cg.gro", -1)


def small_box(melt):
    edit(melt / "cg.gro", (20, lambda line: ["1.3 1.3 1.3"]))


def far_bead(melt):
    def moved(line):
        return [f"{line[:20]}{float(line[20:28]) + 1.1:8.3f}{line[28:]}"]

    edit(melt / "cg.gro", (5, moved))


def no_topology(melt):
    (melt / "topol.top").unlink()


def other_molecule(melt):
    text = (melt / "topol.top").read_text()
    (melt / "topol.top").write_text(text.replace("PS1 3", "PS1 4"))


def no_energies(melt):
    text = (melt / "topol.top").read_text()
    (melt / "topol.top").write_text(
        text.replace("[ system ]", "[ moleculetype ]\nDUM 1\n[ atoms ]\n1 C 1 PSX C1 1 0 12\n"
                     "2 C 1 PSX C2 1 0 12\n[ bonds ]\n1 2 8 0 1\n[ system ]") + "\nDUM 1\n"
    )  # fmt: skip


def no_numbers(melt):
    edit(melt / "cg.gro", (4, lambda line: [line[:20] + "     nan" + line[28:]]))


DAMAGES = (no_change, missing_bead, small_box, far_bead, no_topology, other_molecule, no_energies,
           no_numbers)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("model", ["model.safetensors", "no-rings.safetensors"])
def test_exit_code_is_that_of_backmap(melt, damage, model):
    damage(melt)
    checked = command("check", "-p", "topol.top", "--beads", "cg.gro", "--model", model)
    made = command("backmap", "cg.gro", "-p", "topol.top", "--model", model, "-o", "out.gro",
                   "--sweeps", 0, "--relaxation", 20, "-q")  # fmt: skip
    if damage is no_change and model == "model.safetensors":
        # random weights: what comes out may be refused, what went in was not
        assert checked.code == 0 and "cg.gro frame 0: expected bonded" not in made.err
    else:
        assert (checked.code, made.code) == (2, 2), (checked.out, made.err)


def test_all_that_is_wrong_is_said_at_once(melt):
    missing_bead(melt)
    no_energies(melt)
    done = command("check", "-p", "topol.top", "--beads", "cg.gro", "--mapping", "ps-two-bead",
                   "--model", "none", "--json")  # fmt: skip
    assert done.code == 2
    found = json.loads(done.out)
    assert not found["fits"]
    wrong = [(r["part"], r["text"]) for r in found["remarks"] if r["severity"] == "error"]
    said = {part: [text for p, text in wrong if p == part] for part, _ in wrong}
    assert "table_b0.xvg" in said["topology"][0] or "table" in said["topology"][0]
    # the residue PSX matches PS* and is no multiple of a monomer
    assert "multiple of 16 atoms" in said["mapping"][0]
    assert "expected a temperature" in said["model"][0]


def test_missing_entries_are_written_out_together(melt):
    (melt / "other.yaml").write_text("residues:\n  X: {beads: [{name: X, type: X, atoms: [C]}]}\n")
    done = command("check", "-p", "topol.top", "--mapping", "other.yaml")
    assert done.code == 2 and "1 thing to put right" in done.out
    assert "to write, under 'residues' of the mapping:\n" in done.out
    entry = done.out.split("of the mapping:\n")[1].split("\n\n")[0]
    (melt / "mine.yaml").write_text(f"residues:\n{entry}\n")
    again = command("check", "-p", "topol.top", "--mapping", "mine.yaml")
    assert again.code == 0 and "all that was given fits" in again.out


def test_any_part_alone(melt):
    assert check(topology="topol.top").fits
    assert check(beads="cg.gro", trajectory="cg.xtc").fits
    assert check(mapping="ps-two-bead").fits
    assert not check(mapping="broken.yaml").fits
    assert check(model="model.safetensors").fits
    assert "found none" in refused("check")


def test_what_is_dropped_must_be_there(melt):
    done = command("check", "-p", "topol.top", "--mapping", "ps-two-bead", "--drop", "SOL")
    assert done.code == 2 and "SOL" in done.out


WRONG_SECTIONS = {
    "pattern: mrr": "letters m and r", "centres: {CX: R}": "stereocentre CX",
    "double_bonds: {CA=CB: cis}": "double bond", "pattern: isotactic, numbers: 40": "numbers",
}  # fmt: skip


@pytest.mark.parametrize("entry", WRONG_SECTIONS)
def test_hands_that_no_molecule_has_are_said_without_beads(melt, entry):
    text = (files("deepbackmap") / "presets/mappings/ps-two-bead.yaml").read_text()
    (melt / "told.yaml").write_text(f"{text}\nstereo:\n  - {{molecules: PS*, {entry}}}\n")
    done = command("check", "-p", "topol.top", "--mapping", "told.yaml")
    assert done.code == 2
    (said,) = [line for line in done.out.splitlines() if "DOES NOT FIT" in line]
    assert said.startswith("mapping") and WRONG_SECTIONS[entry] in said


def test_hands_that_the_mapping_tells_are_counted(melt):
    text = (files("deepbackmap") / "presets/mappings/ps-two-bead.yaml").read_text()
    (melt / "told.yaml").write_text(
        f"{text}\nstereo:\n  - {{molecules: PS*, pattern: isotactic}}\n"
    )
    done = command("check", "-p", "topol.top", "--mapping", "told.yaml")
    count = len(find_centres(load_mapping("ps-two-bead").resolve(read_topology("topol.top"))).atoms)
    assert done.code == 0 and f"hands of {count} of {count} stereocentres" in done.out


def test_what_models_know_is_said(melt):
    done = command("check", "-p", "topol.top", "--mapping", "ps-two-bead")
    assert "packaged models that know these types: ps-two-bead" in done.out
    done = command("check", "-p", "topol.top", "--model", "no-rings.safetensors")
    assert "atom type H_AR is unknown to the model" in done.out
    assert "train one of your own (docs/training.md)" in done.out


def test_a_packaged_model_fits_what_it_was_made_for(melt):
    done = command("check", "-p", "topol.top", "--beads", "cg.gro", "--model", "default")
    assert "ps-two-bead-points knows all types" in done.out and done.code == 0, done.out


def test_beads_of_bonds_without_a_length_are_judged(melt):
    """All kinds of bond have a usual length at least: G96, cubic, FENE, connections."""
    atoms = "".join(f"{k} C 1 MIX C{k} 1 0 12\n" for k in range(1, 7))
    bonds = ["1 2 2 0.15 1e6", "2 3 4 0.15 1e5 2", "3 4 7 0.3 1e4", "4 5 5", "5 6 3 0.15 300 20"]
    (melt / "mix.top").write_text(
        f"{HEAD}[ moleculetype ]\nMIX 3\n[ atoms ]\n{atoms}[ bonds ]\n" + "\n".join(bonds)
        + "\n[ system ]\nx\n[ molecules ]\nMIX 1\n"
    )  # fmt: skip
    (melt / "mix.yaml").write_text(
        "residues:\n  MIX:\n    beads:\n      - {name: A, type: A, atoms: [C1, C2]}\n"
        "      - {name: B, type: B, atoms: [C3, C4]}\n"
        "      - {name: D, type: D, atoms: [C5, C6]}\n"
    )
    places = ((1, "A", 0.0), (2, "B", 0.27), (3, "D", 0.53))
    rows = "".join(f"    1MIX  {n:>5s}{k:5d}{x:8.3f}   0.000   0.000\n" for k, n, x in places)
    (melt / "mix.gro").write_text(f"x\n    3\n{rows}   3.0   3.0   3.0\n")
    done = command("check", "-p", "mix.top", "--mapping", "mix.yaml", "--beads", "mix.gro")
    assert "3 beads, recognised by names" in done.out
    wrong = [line for line in done.out.splitlines() if "DOES NOT FIT" in line]
    assert all(line.startswith("topology") for line in wrong) and len(wrong) <= 1


def test_every_frame_is_looked_at(melt):
    from deepbackmap.io.trajectory import open_writer, read_frames

    with read_frames("cg.gro", "cg.xtc") as source:
        frames, table = list(source), source.table
    frames[2].positions[4] += [1.1, 0.0, 0.0]
    with open_writer("bad.xtc", table) as writer:
        for frame in frames:
            writer.write(frame)
    given = {"topology": "topol.top", "mapping": "ps-two-bead", "beads": "cg.gro"}
    found = check(**given, trajectory="bad.xtc")
    assert [r.text.split(":")[0] for r in found.remarks if r.severity == "error"] == [
        "bad.xtc frame 2"
    ]
    assert check(**given, trajectory="bad.xtc", frames="0:2").fits


def test_folders_macros_and_tables(melt):
    """-I, -D and --tables, as grompp's include, define and mdrun's tableb."""
    text = (melt / "topol.top").read_text()
    (melt / "inc").mkdir()
    (melt / "inc" / "far.itp").write_text(
        "[ moleculetype ]\nDUM 1\n[ atoms ]\n1 C 1 DUM C1 1 0 12\n2 C 1 DUM C2 1 0 12\n"
        "[ bonds ]\n1 2 8 0 KB\n"
    )
    r = np.linspace(0, 0.5, 26)
    np.savetxt(melt / "table_b0.xvg", np.column_stack([r, (r - 0.15) ** 2, -2 * (r - 0.15)]))
    top = text.replace("[ system ]", '#ifdef FAR\n#include "far.itp"\n#endif\n[ system ]')
    (melt / "far.top").write_text(top + "\n#ifdef FAR\nDUM 1\n#endif\n")
    assert command("check", "-p", "far.top").out.count("DUM") == 0
    lost = command("check", "-p", "far.top", "-D", "FAR")
    assert lost.code == 2 and "far.itp" in lost.out
    bare = command("check", "-p", "far.top", "-D", "FAR", "-D", "KB=1000", "-I", "inc")
    assert bare.code == 0 and "table 0 of [ bonds ]" in bare.out and "1 DUM" in bare.out
    whole = command("check", "-p", "far.top", "-D", "FAR", "-D", "KB=1000", "-I", "inc",
                    "--tables", "table_b0.xvg")  # fmt: skip
    assert whole.code == 0 and "table" not in whole.out
    assert "expected a folder of included files" in refused("check", "-p", "far.top", "-I", "no")
    assert "expected NAME or NAME=VALUE" in refused("check", "-p", "far.top", "-D", "=3")


def test_given_folders_stand_in_the_record(melt):
    (melt / "inc").mkdir()
    done = command("backmap", "cg.gro", "-p", "topol.top", "--model", "model.safetensors", "-o",
                   "o.gro", "--sweeps", 0, "--keep-defects", "-I", "inc", "-D",
                   "OWN=1")  # fmt: skip
    assert done.code == 0, done
    record = json.loads((melt / "o.gro.json").read_text())
    assert record["input"]["topology_options"] == {"defines": {"OWN": "1"}, "include_dirs": ["inc"]}
