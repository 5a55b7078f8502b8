"""The structure map as a whole, and its file for chemiscope."""

import dataclasses
import gzip
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.similarity.chemiscope import chemiscope_data, export_chemiscope
from deepbackmap.similarity.options import MapOptions
from deepbackmap.similarity.structure_map import map_structures, structure_kernel
from deepbackmap.system import Structure
from evaluation_systems import molecule, reference_folder, rotation, structure, topology

QUICK = MapOptions(n_max=4, l_max=4, structures=24, permutations=200)
CELL = np.diag([2.0, 2.0, 2.0])


def chains(tilt, seeds, chain_length=6):
    """Boxes of nine chains of CF, each turned at random; ``tilt`` bends the side atoms."""
    backbone = np.arange(chain_length)
    bonds = [(k, k + 1) for k in backbone[:-1]] + [(k, chain_length + k) for k in backbone]
    top = topology(molecule(["C"] * chain_length + ["F"] * chain_length, bonds), counts=[9])
    frames = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        line = np.stack([0.15 * backbone, 0 * backbone, 0 * backbone], axis=1)
        angle = tilt + 0.15 * rng.normal(size=(9, chain_length))
        side = line + 0.14 * np.stack([np.sin(angle), np.cos(angle), 0 * angle], axis=2)
        both = np.concatenate([np.tile(line, (9, 1, 1)), side], axis=1)
        turned = [c @ rotation(int(rng.integers(1e6))) + rng.random(3) @ CELL for c in both]
        frames.append(structure(np.concatenate(turned), CELL))
    return top, list(enumerate(frames))


TOP, REFERENCE = chains(0.0, range(8))
SAME, BENT = chains(0.0, range(100, 108))[1], chains(0.6, range(200, 208))[1]


@pytest.fixture(scope="module")
def drawn():
    return map_structures(TOP, {"reference": REFERENCE, "same": SAME, "bent": BENT}, QUICK)


def test_a_map_tells_what_overlaps_and_what_does_not(drawn):
    assert drawn.samples == ("reference", "same", "bent")
    assert list(drawn.overlap) == ["reference (halves)", "same", "bent"]
    assert drawn.overlap["reference (halves)"].p_value > 0.02
    assert drawn.overlap["same"].p_value > 0.02
    bent = drawn.overlap["bent"]
    assert bent.p_value < 0.02
    assert bent.mmd2 > 10 * abs(drawn.overlap["same"].mmd2)
    centre = [drawn.points[drawn.sample == k].mean(axis=0) for k in range(3)]
    apart = np.linalg.norm(np.array(centre)[1:] - centre[0], axis=1)
    assert apart[1] > 3 * apart[0]


def test_a_map_says_what_its_points_are(drawn):
    assert drawn.points.shape == (72, 2)
    assert np.bincount(drawn.sample).tolist() == [24, 24, 24]
    for k in range(3):
        mine = drawn.sample == k
        assert np.bincount(drawn.frame[mine]).tolist() == [3] * 8
        assert len(set(zip(drawn.frame[mine], drawn.molecule[mine], strict=True))) == 24
    assert drawn.molecule.min() >= 1 and drawn.molecule.max() <= 9
    # frames of one number show the same molecules
    np.testing.assert_array_equal(drawn.molecule[:24], drawn.molecule[24:48])
    assert 0.0 < drawn.stress < 0.1


def test_a_map_records_its_settings(drawn):
    assert drawn.settings["centres a molecule"] == "MOL 4"
    assert drawn.settings["SOAP species"] == "elements: C, F"
    assert drawn.settings["SOAP cutoff / nm"] == QUICK.cutoff
    assert drawn.settings["REMatch alpha"] == QUICK.alpha
    assert drawn.settings["sketch-map sigma"] > 0.0


def test_the_same_seed_makes_the_same_map(drawn):
    samples = {"reference": REFERENCE, "same": SAME, "bent": BENT}
    again = map_structures(TOP, samples, QUICK)
    np.testing.assert_array_equal(again.points, drawn.points)
    assert again.overlap == drawn.overlap
    other = map_structures(TOP, samples, dataclasses.replace(QUICK, seed=1))
    assert not np.array_equal(other.molecule, drawn.molecule)


def test_the_kernel_does_not_know_how_a_frame_is_turned_or_cut():
    turn = rotation(8)
    moved = [
        (number, Structure((s.positions + 0.7) @ turn, s.box @ turn)) for number, s in REFERENCE
    ]
    kernel = structure_kernel(TOP, {"reference": REFERENCE, "moved": moved}, QUICK)
    np.testing.assert_allclose(kernel[:24, :24], kernel[24:, 24:], atol=1e-7)
    np.testing.assert_allclose(np.diag(kernel[:24, 24:]), 1.0, atol=1e-7)


def test_whole_frames_can_be_structures():
    options = dataclasses.replace(QUICK, unit="frame", structures=6)
    found = map_structures(TOP, {"reference": REFERENCE, "bent": BENT}, options)
    assert found.molecule.tolist() == [0] * 12
    assert found.frame[:6].tolist() == [1, 2, 3, 5, 6, 7]
    assert found.overlap["bent"].mmd2 > 0.0


def test_molecules_of_several_types_with_and_without_centres():
    chain, water = TOP.molecule_types[0], molecule(["Cl", "H", "H"], [(0, 1), (0, 2)])
    mixed = topology(water, chain, water, counts=[2, 9, 1])
    rng = np.random.default_rng(0)

    def with_water(frame):
        before, behind = rng.random((6, 3)) @ CELL, rng.random((3, 3)) @ CELL
        return structure(np.concatenate([before, frame.positions, behind]), CELL)

    frames = [(number, with_water(s)) for number, s in REFERENCE]
    found = map_structures(mixed, {"reference": frames}, QUICK)
    assert found.settings["molecules without centres"] == "MOL, MOL"
    assert found.molecule.min() >= 3 and found.molecule.max() <= 11
    assert found.settings["SOAP species"] == "elements: C, Cl, F"


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ({}, QUICK, "begin with 'reference', found none"),
        ({"bent": BENT, "reference": REFERENCE}, QUICK, "begin with 'reference', found bent"),
        ({"reference": REFERENCE, "none": []}, QUICK, "at least 4 structures of none, found 0"),
        (
            {"reference": REFERENCE[:3]},
            dataclasses.replace(QUICK, unit="frame"),
            "at least 4 structures of reference, found 3",
        ),
        ({"reference": REFERENCE}, dataclasses.replace(QUICK, selection="name X"), "'name X'"),
        (
            {"reference": REFERENCE, "cut": [(5, structure(np.zeros((3, 3)), CELL))]},
            QUICK,
            "expected 108 atoms in frame 5 of cut as in topology, found 3",
        ),
        (
            {"reference": [(k, REFERENCE[0][1]) for k in range(4)]},
            dataclasses.replace(QUICK, unit="frame"),
            "structures that differ",
        ),
    ],
)
def test_samples_that_cannot_be_mapped_are_refused(samples, options, message):
    with pytest.raises(InputError, match=message):
        map_structures(TOP, samples, options)


@pytest.mark.parametrize(
    ("field", "value"),
    [("species", "atoms"), ("unit", "bead"), ("structures", 3), ("zeta", 0), ("alpha", 0.0),
     ("sigma", -1.0), ("cutoff", 0.1), ("low", (0.5, 2.0)), ("high", (2.0, 0.0)),
     ("permutations", 0), ("searches", -1)],
)  # fmt: skip
def test_options_are_checked_by_name(field, value):
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        MapOptions(**{field: value})


def test_chemiscope_reads_its_own_structures_back(drawn, tmp_path):
    samples = {"reference": REFERENCE, "same": SAME, "bent": BENT}
    path = tmp_path / "map.json.gz"
    export_chemiscope(path, drawn, TOP, samples)
    data = json.loads(gzip.decompress(path.read_bytes()))
    assert data == json.loads(json.dumps(chemiscope_data(drawn, TOP, samples)))
    values = {name: p["values"] for name, p in data["properties"].items()}
    assert values["sample"] == ["reference"] * 24 + ["same"] * 24 + ["bent"] * 24
    np.testing.assert_array_equal(
        np.stack([values["sketch-map 1"], values["sketch-map 2"]], axis=1), drawn.points
    )
    for k in (0, 30, 71):
        entry = data["structures"][k]
        places = np.stack([entry[axis] for axis in "xyz"], axis=1) / 10
        frame = samples[drawn.samples[drawn.sample[k]]][drawn.frame[k]][1]
        atoms = frame.positions[12 * (drawn.molecule[k] - 1) :][:12]
        assert entry["names"] == ["C"] * 6 + ["F"] * 6
        np.testing.assert_allclose(places, atoms - atoms.mean(axis=0), atol=6e-5)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="force replaces it"):
        export_chemiscope(path, drawn, TOP, samples)
    export_chemiscope(path, drawn, TOP, samples, force=True)


def test_the_file_is_what_chemiscope_itself_writes(drawn):
    chemiscope = pytest.importorskip("chemiscope")
    data = chemiscope_data(drawn, TOP, {"reference": REFERENCE, "same": SAME, "bent": BENT})
    theirs = chemiscope.create_input(
        structures=data["structures"],
        properties=data["properties"],
        metadata=data["meta"],
        settings=data["settings"],
    )
    assert theirs == data


def test_frames_are_exported_with_their_cell():
    options = dataclasses.replace(QUICK, unit="frame")
    samples = {"reference": REFERENCE}
    entry = chemiscope_data(map_structures(TOP, samples, options), TOP, samples)["structures"][0]
    assert entry["size"] == TOP.n_atoms
    assert entry["cell"] == (10 * CELL).ravel().tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [("map.txt", "ending in .json or .json.gz, found '.txt'"), ("no/map.json", "place to write")],
)
def test_places_that_cannot_be_written_are_refused(drawn, tmp_path, name, message):
    samples = {"reference": REFERENCE, "same": SAME, "bent": BENT}
    with pytest.raises(InputError, match=message):
        export_chemiscope(tmp_path / name, drawn, TOP, samples)
    assert not list(tmp_path.iterdir())


def test_an_export_without_a_sample_of_the_map_is_refused(drawn):
    with pytest.raises(InputError, match="frame 0 of bent among the samples"):
        chemiscope_data(drawn, TOP, {"reference": REFERENCE, "same": SAME})


def frames_of(folder, name, step):
    frames = read_frames(folder / "aa.gro", folder / name)
    return [(int(k), frames[int(k)]) for k in frames.frames[::step]]


def test_the_packaged_melt_has_a_centre_a_phenyl_ring():
    melt = Path(str(files("deepbackmap"))) / "packaged" / "melt"
    top = read_topology(melt / "topol.top")
    sample = frames_of(melt, "aa.xtc", 1)[:2]
    found = map_structures(top, {"reference": sample}, QUICK)
    rings = sum(t == "C_AR" for t in top.molecule_types[0].atom_types) // 6
    assert found.settings["centres a molecule"].split()[-1] == str(rings)


@pytest.mark.parametrize("temperature", [313, 568])
def test_the_papers_baseline_is_far_off_and_its_model_is_near(temperature):
    folder = reference_folder()
    top = read_topology(folder / "topol.top")
    samples = {
        name: frames_of(folder, f"test_{temperature}K_{file}.xtc", 4)
        for name, file in (
            ("reference", "aa"),
            ("paper", "paper_deepbackmap"),
            ("baseline", "paper_baseline"),
        )
    }
    found = map_structures(
        top, samples, dataclasses.replace(QUICK, structures=60, permutations=300)
    )
    assert found.settings["centres a molecule"] == "PS1 10"
    assert found.overlap["reference (halves)"].p_value > 0.02
    assert found.overlap["baseline"].p_value < 0.02
    assert found.overlap["baseline"].mmd2 > 30 * found.overlap["paper"].mmd2
