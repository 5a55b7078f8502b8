"""Options work or are refused, and no output is one of the inputs, called from Python as well."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli_systems import command, contents, refused, write_model, write_system
from deepbackmap.api.backmap import backmap
from deepbackmap.api.baseline import baseline, learn
from deepbackmap.api.evaluate import evaluate
from deepbackmap.api.files import spare_inputs, spare_inputs_beside
from deepbackmap.api.finish import finish
from deepbackmap.api.map import map_trajectory
from deepbackmap.api.mappings import draft_mapping, infer_mapping
from deepbackmap.api.md import md
from deepbackmap.api.train import train
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import (
    ParticleTable,
    open_writer,
    read_frames,
    read_positions,
    reading_as,
)
from deepbackmap.mapping.match import check_atoms
from deepbackmap.mapping.selection import refuse_absent
from deepbackmap.system import Structure
from test_cli_runs import CONFIG


@pytest.fixture(scope="module")
def melt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    write_model(folder / "model.safetensors")
    (folder / "train.yaml").write_text(CONFIG)
    return folder


def test_units_of_all_formats(tmp_path):
    """A file whose numbers are in another unit than its format's, once that unit is said."""
    box = np.array([[3.0, 0, 0], [0.4, 3.2, 0], [-0.3, 0.2, 2.9]])
    right = Structure(np.random.default_rng(0).uniform(0.1, 2.0, (20, 3)), box)
    table = ParticleTable(("C",) * 20, ("Y",) * 20, np.arange(1, 21))
    for ending, unit in (("gro", "A"), ("xtc", "A"), ("trr", "A"), ("pdb", "nm"), ("dcd", "nm"),
                         ("gro", 0.5), ("dcd", 0.5)):  # fmt: skip
        length = {"A": 0.1, "nm": 1.0}.get(unit, unit)
        native = 0.1 if ending in ("pdb", "dcd") else 1.0
        factor = native / length
        wrong = replace(right, positions=factor * right.positions, box=factor * right.box)
        path = tmp_path / f"a.{ending}"
        with open_writer(path, table, force=True) as writer:
            writer.write(wrong)
        steps = 0.002 / factor  # of the text formats and of .xtc, whose digits are those written
        with reading_as(length_unit=unit), read_positions(path, table) as source:
            assert np.abs(source[0].positions - right.positions).max() < steps
            assert np.abs(source[0].box - right.box).max() < steps
        with reading_as(length_unit=unit, files=[path]), read_positions(path, table) as source:
            assert np.abs(source[0].positions - right.positions).max() < steps
        # of other files than those worked on, the format tells
        with reading_as(length_unit=unit, files=["other"]), read_positions(path, table) as source:
            assert np.abs(source[0].positions - wrong.positions).max() < 0.002


def test_a_file_in_angstrom_is_mapped_as_one_in_nm(melt, tmp_path):
    with read_frames(melt / "aa.gro", melt / "aa.xtc") as source:
        table, frames = source.table, list(source)
    with open_writer(tmp_path / "big.trr", table) as writer:
        for f in frames:
            writer.write(replace(f, positions=10.0 * f.positions, box=10.0 * f.box))
    beads = []
    for given, words in ((melt / "aa.xtc", ()), (tmp_path / "big.trr", ("--length-unit", "A"))):
        out = tmp_path / f"cg-{len(beads)}.trr"
        done = command("map", melt / "aa.gro", given, "-p", melt / "topol.top",
                       "--mapping", "ps-two-bead", "-o", out, *words)  # fmt: skip
        assert done.code == 0, done.err
        with read_frames(melt / "cg.gro", out) as source:
            beads.append([f.positions for f in source])
    assert np.abs(np.array(beads[0]) - np.array(beads[1])).max() < 1e-5


def map_words(melt, out, *more):
    return ("map", melt / "aa.gro", "-p", melt / "topol.top", "--mapping", "ps-two-bead",
            "-o", out, *more)  # fmt: skip


def test_a_format_that_no_file_needs_is_refused(melt, tmp_path):
    said = refused(*map_words(melt, tmp_path / "o.gro", "--format", "pdb"))
    assert "format: expected a file whose name does not say what it is, found" in said
    assert "aa.gro, which is read as gro by its name" in said
    odd = tmp_path / "odd"
    odd.write_bytes((melt / "aa.gro").read_bytes())
    words = list(map_words(melt, tmp_path / "o.gro", "--format", "gro"))
    words[1] = odd
    assert command(*words).code == 0


def test_residues_that_are_not_there_are_refused(melt, tmp_path):
    topology = read_topology(melt / "topol.top")
    name = topology.molecule_types[0].residue_names[0]
    refuse_absent(topology, drop=[name], keep=[f"{name[0]}*"])
    for option in ("drop", "keep"):
        with pytest.raises(InputError, match=f"{option}: expected a residue of .* found 'XYZ'"):
            refuse_absent(topology, **{option: [name, "XYZ"]})
        said = refused(*map_words(melt, tmp_path / "o.gro", f"--{option}", "XYZ"))
        assert "found 'XYZ', which none is called there" in said
        assert name in said
        for verb in ("backmap --model", "baseline --method backward --mapping"):
            verb, *more = verb.split()
            which = melt / "model.safetensors" if verb == "backmap" else "ps-two-bead"
            said = refused(verb, melt / "cg.gro", "-p", melt / "topol.top", *more, which,
                           "-o", tmp_path / "o.gro", f"--{option}", "XYZ")  # fmt: skip
            assert "found 'XYZ'" in said
    assert list(tmp_path.iterdir()) == []


def test_options_that_would_do_nothing(melt, tmp_path):
    top, out = ("-p", melt / "topol.top"), ("-o", tmp_path / "out")
    finishing = ("finish", melt / "aa.gro", *top, "-o", tmp_path / "o.gro", "--temperature", 300)
    assert "strict: expected to refuse or to keep" in refused(
        *finishing, "--strict", "--keep-defects"
    )
    said = refused("baseline", melt / "cg.gro", *top, "--mapping", "ps-two-bead", "--method",
                   "backward", "--no-minimise", "--engine", "openmm",
                   "-o", tmp_path / "o.gro")  # fmt: skip
    assert "engine: expected minimise with it" in said
    running = ("md", "--start", f"a={melt / 'aa.gro'}", *top, *out, "--temperature", 300)
    assert "reference-frames: expected a reference" in refused(*running, "--reference-frames", "0")
    assert "expected files without names" in refused(*running, "-s", melt / "aa.gro")
    judging = ("evaluate", "--reference", melt / "aa.gro", "--generated", f"a={melt / 'aa.gro'}",
               *top, *out)  # fmt: skip
    assert "expected files without names" in refused(*judging, "-s", melt / "aa.gro")
    for option in (("--map-unit", "frame"), ("--map-centres", "name CH")):
        assert "expected a structure map" in refused(*judging, "--no-map", *option)
    assert "size: expected graph with it" in refused("mapping", "draft", *top, "--size", 3)
    assert command("mapping", "draft", *top, "--by", "graph", "--size", 3, "-o",
                   tmp_path / "draft.yaml").code == 0  # fmt: skip


def test_only_what_there_is_is_advised(melt, tmp_path):
    """Beads in place of atoms: ``map`` can be told to go by order, ``finish`` cannot."""
    with read_frames(melt / "aa.gro") as source:
        wrong, frame = replace(source.table, names=("Q",) * source.table.n), source[0]
    with open_writer(tmp_path / "q.gro", wrong) as writer:
        writer.write(frame)
    words = list(map_words(melt, tmp_path / "o.gro"))
    words[1] = tmp_path / "q.gro"
    assert "--by-order takes the atoms" in refused(*words)
    said = refused("finish", tmp_path / "q.gro", "-p", melt / "topol.top", "--temperature", 300,
                   "-o", tmp_path / "o.gro")  # fmt: skip
    assert "by-order" not in said
    assert "which is no atom of this molecule" in said


def test_a_topology_of_more_than_memory_holds_is_compared_first(melt):
    """1.5e9 atoms in the topology, 150 in the file: the answer needs neither time nor memory."""
    small = read_topology(melt / "topol.top")
    huge = replace(small, blocks=((0, 30_000_000),))
    with read_frames(melt / "aa.gro") as source:
        table = source.table
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"1500000000 atoms expected, 150 in the file"):
            check_atoms(huge, table, "aa.gro")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    fewer = replace(small, blocks=((0, 2),))
    with pytest.raises(InputError, match="expected no atom after molecule 2"):
        check_atoms(fewer, table, "aa.gro")


def verbs(folder):
    """Every verb as a function, with an output that is one of its inputs."""
    top, gro, cg = folder / "topol.top", folder / "aa.gro", folder / "cg.gro"
    model, mapping = folder / "model.safetensors", folder / "map.yaml"
    quiet = {"force": True, "progress": False}
    return {
        "map": lambda: map_trajectory(gro, None, top, mapping, gro, **quiet),
        "map, mapping": lambda: map_trajectory(gro, None, top, [mapping], mapping, **quiet),
        "backmap": lambda: backmap(cg, topology=top, model=model, output=cg, **quiet),
        "backmap, model": lambda: backmap(cg, topology=top, model=model, output=model, **quiet),
        "backmap, moved": lambda: backmap(
            cg, topology=top, model=model, output=folder / "new.gro", moved=folder / "new.gro",
            **quiet,
        ),
        "backmap, moved input": lambda: backmap(
            cg, topology=top, model=model, output=folder / "new.gro", moved=cg, **quiet
        ),
        "baseline": lambda: baseline(
            cg, topology=top, mapping=mapping, method="backward", output=cg, **quiet
        ),
        "learn": lambda: learn(gro, None, topology=top, mapping=mapping, output=gro, force=True),
        "finish": lambda: finish(gro, topology=top, temperature=300.0, output=gro, **quiet),
        "md": lambda: md({"a": gro}, topology=top, temperature=300.0, output=folder, **quiet),
        "evaluate": lambda: evaluate(
            gro, {"a": gro}, structure=None, topology=top, output=folder, **quiet
        ),
        "infer": lambda: infer_mapping(gro, cg, topology=top, output=cg, **quiet),
        "draft": lambda: draft_mapping(top, output=top, force=True),
        "train": lambda: train(
            folder / "train.yaml", [f"training.init_from={model}"], run_folder=folder,
            progress=False,
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    write_system(folder)
    write_model(folder / "model.safetensors")
    (folder / "train.yaml").write_text(CONFIG)
    (folder / "map.yaml").write_text(draft_mapping(folder / "topol.top"))
    return folder


@pytest.mark.parametrize("verb", verbs(Path()))
def test_no_verb_writes_over_what_it_reads(verb, guarded):
    before = contents(guarded)
    with pytest.raises(InputError, match=r"none of the inputs|another file than the output"):
        verbs(guarded)[verb]()
    assert contents(guarded) == before


def test_words_that_are_no_files_are_passed_over(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("")
    spare_inputs(file, None, "{[" + "C" * 5000 + "]}", ["ps-two-bead", "b.yaml"])
    for given in (f"ps-two-bead; {file}".replace(" ", ""), [tmp_path / "x", file]):
        with pytest.raises(InputError, match="none of the inputs"):
            spare_inputs(file, given)
    record = tmp_path / "o.gro.json"
    record.write_text("")
    with pytest.raises(InputError, match=r"o\.gro\.json: expected an output that is none"):
        spare_inputs(tmp_path / "o.gro", record)
    spare_inputs_beside(tmp_path / "o.pdb", tmp_path / "o.gro", record)
