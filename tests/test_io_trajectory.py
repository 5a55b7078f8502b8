"""Frames in and out of files: round trips, other programs' readers, and every refusal."""

import gc
import os
import warnings
import weakref
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from MDAnalysis.lib.formats.libmdaxdr import TRRFile, XTCFile

from deepbackmap.errors import InputError
from deepbackmap.io.formats import gro
from deepbackmap.io.formats.base import box_from_lengths_and_angles, lengths_and_cosines
from deepbackmap.io.trajectory import (
    EXTENSIONS,
    WRITERS,
    ParticleTable,
    atom_table,
    open_writer,
    parse_frames,
    read_frames,
    read_positions,
)
from deepbackmap.system import Structure
from test_system_whole import molecule, topology

BOX = np.array([[10.01, 0, 0], [-1.98321, 2.72345, 0], [0.31234, 1.12345, 2.56789]])
HOLDS_NAMES = (".gro", ".pdb", ".cif")
HOLDS_TIMES = (".gro", ".xtc", ".trr")
POSITION = {".gro": 5.1e-4, ".pdb": 5.1e-5, ".xtc": 5.1e-4}
"""What a format rounds to, in nm; the others keep single precision."""
CELL = {".gro": 5.1e-6, ".pdb": 2e-3, ".dcd": 1e-9, ".data": 2e-6, ".dump": 2e-6}


def table(n=7):
    return ParticleTable(
        names=tuple(f"C{k % 9}" for k in range(n)),
        resnames=("AB",) * n,
        resids=np.arange(n, dtype=np.int64) // 3 + 1,
        types=tuple("AB"[k % 2] for k in range(n)),
        masses=np.array([[12.0, 1.0][k % 2] for k in range(n)]),
        charges=np.array([[0.1, -0.1][k % 2] for k in range(n)]),
    )


def frame(seed=0, n=7, box=BOX):
    rng = np.random.default_rng(seed)
    return Structure(rng.uniform(-1.5, 2.5, (n, 3)) @ box, box * (1 + 0.01 * seed), 2.5 * seed)


def write(path, frames, particles=None, **options):
    with open_writer(path, particles or table(frames[0].n), **options) as writer:
        for structure in frames:
            writer.write(structure)
    return path


def reference(name):
    here = Path(__file__).parents[1]
    shared = Path(os.environ.get("DEEPBACKMAP_DATA", here.parent / "shared" / "data"))
    if not (shared / "sps" / name).exists():
        pytest.skip(f"sps/{name} is absent")
    return shared / "sps" / name


def structure_for(path, tmp_path):
    """A file with names, for formats that hold none."""
    if path.suffix in (".xtc", ".trr", ".dcd"):
        names = tmp_path / "names.gro"
        return names if names.exists() else write(names, [frame()]), path
    return path, None


@pytest.mark.parametrize("extension", sorted(WRITERS))
def test_read_write_read(extension, tmp_path):
    frames = [frame(k) for k in range(1 if extension in (".data", ".cif") else 4)]
    path = write(tmp_path / f"out{extension}", frames)
    again = tmp_path / f"again{extension}"
    with read_frames(*structure_for(path, tmp_path)) as source:
        assert len(source) == len(frames)
        assert source.table.n == 7
        for k, (expected, found) in enumerate(zip(frames, source, strict=True)):
            atol = POSITION.get(extension, 1e-5)
            assert np.abs(found.positions - expected.positions).max() < atol
            assert np.abs(found.box - expected.box).max() < CELL.get(extension, 1e-6)
            time = expected.time if extension in HOLDS_TIMES else float(k)
            assert found.time == pytest.approx(time, abs=1e-6)
        if extension in HOLDS_NAMES:
            assert source.table.named
            assert source.table.names == table().names
            assert source.table.resnames == table().resnames
        elif extension not in (".xtc", ".trr", ".dcd"):
            assert not source.table.named
        if extension != ".gsd":
            assert np.array_equal(source.table.resids, table().resids)
        write(again, list(source), table())
    with (
        read_frames(*structure_for(again, tmp_path)) as second,
        read_frames(*structure_for(path, tmp_path)) as first,
    ):
        for a, b in zip(first, second, strict=True):
            assert np.abs(a.positions - b.positions).max() < 3e-6
            assert np.abs(a.box - b.box).max() < (2e-3 if extension == ".pdb" else 3e-6)


@pytest.mark.parametrize("extension", [".xtc", ".trr", ".gro"])
def test_lattice_vectors_come_back_as_they_are_stored(extension, tmp_path):
    """Through lengths and angles in single precision, as MDAnalysis keeps them, they would not."""
    box = BOX.astype(np.float32).astype(np.float64) if extension != ".gro" else BOX
    path = write(tmp_path / f"out{extension}", [frame(0, box=box)])
    with read_frames(*structure_for(path, tmp_path)) as source:
        assert np.array_equal(source[0].box, box)


def test_boxes_of_other_writers(tmp_path):
    x = np.random.default_rng(0).uniform(0, 2, (7, 3)).astype(np.float32)
    with XTCFile(str(tmp_path / "a.xtc"), "w") as f:
        f.write(x, BOX.astype(np.float32), 1, 12.5, 1000.0)
    with TRRFile(str(tmp_path / "a.trr"), "w") as f:
        f.write(x, None, None, BOX.astype(np.float32), 1, 12.5, 0.0, 7)
    names = write(tmp_path / "names.gro", [frame()])
    for extension, atol in ((".xtc", 5.1e-4), (".trr", 0.0)):
        with read_frames(names, tmp_path / f"a{extension}") as source:
            assert np.array_equal(source[0].box, BOX.astype(np.float32))
            assert np.abs(source[0].positions - x).max() <= atol
            assert source[0].time == 12.5


@pytest.mark.parametrize("extension", [".gro", ".pdb", ".xtc", ".trr", ".dcd", ".dump"])
def test_mdanalysis_reads_what_is_written(extension, tmp_path):
    expected = frame(1)
    path = write(tmp_path / f"out{extension}", [expected])
    names = write(tmp_path / "names.gro", [expected])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"format": "LAMMPSDUMP"} if extension == ".dump" else {}
        universe = mda.Universe(str(names), str(path), to_guess=(), **options)
        step = universe.trajectory[0]
    atol = POSITION.get(extension, 0.0) + 1e-5  # MDAnalysis keeps single precision
    assert np.abs(step.positions / 10 - expected.positions).max() < atol
    atol = max(CELL.get(extension, 0.0), 1e-5)
    assert np.abs(step.triclinic_dimensions / 10 - expected.box).max() < atol
    assert tuple(universe.atoms.names) == table().names


def test_gro_layout_is_gromacs(tmp_path):
    particles = ParticleTable(("H1", "H162"), ("PS1", "SOL"), np.array([1, 100_002]))
    lone = Structure(np.array([[0.1, 2.0, -3.25], [1.0, 2.0, 3.0]]), BOX, 40.0)
    lines = write(tmp_path / "a.gro", [lone], particles).read_text().splitlines()
    assert lines[1] == "    2"
    assert lines[2] == "    1PS1     H1    1   0.100   2.000  -3.250"
    assert lines[3] == "    2SOL   H162    2   1.000   2.000   3.000"
    assert lines[4].split() == [
        *("10.01000", "2.72345", "2.56789", "0.00000", "0.00000"),
        *("-1.98321", "0.00000", "0.31234", "1.12345"),
    ]


@pytest.mark.parametrize("extension", [".gro", ".pdb"])
def test_more_than_99999_atoms_and_residues(extension, tmp_path):
    n = 100_001
    resids = 1 + np.arange(n, dtype=np.int64) // (1 if extension == ".gro" else 5)
    particles = ParticleTable(tuple(f"C{k % 100}" for k in range(n)), ("R",) * n, resids)
    big = Structure(np.random.default_rng(0).uniform(0, 9, (n, 3)), np.diag([10.0] * 3))
    path = write(tmp_path / f"big{extension}", [big], particles)
    with read_frames(path) as source:
        assert source.table.names == particles.names
        assert source.table.n == n
        assert np.abs(source[0].positions - big.positions).max() < 5.1e-4
    lines = path.read_text().splitlines()
    rows = [line for line in lines if " C" in line[8:16]]
    assert len(rows) == n
    assert {len(row) for row in rows} == {len(rows[0])}  # no column has shifted


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.floats(0.5, 20.0)] * 3), st.tuples(*[st.floats(-0.5, 0.5)] * 3), st.booleans()
)
def test_lengths_and_angles_give_the_box_back(lengths, tilts, right):
    box = np.diag(lengths)
    if not right:
        box[1, 0], box[2, 0] = tilts[0] * box[0, 0], tilts[1] * box[0, 0]
        box[2, 1] = tilts[2] * box[1, 1]
    sides, cosines = lengths_and_cosines(box)
    found = box_from_lengths_and_angles(sides, 90.0 - np.rad2deg(np.arcsin(cosines)))
    assert np.abs(found - box).max() < 1e-10
    assert not right or np.array_equal(found, box)


def test_gro_with_more_decimals_and_velocities(tmp_path):
    path = tmp_path / "a.gro"
    path.write_text(
        "a title without a time\n1\n"
        "    1RES     CA    1   1.234567  -0.765432   3.000001 0.12345678 0.12345678 0.12345678\n"
        "   4.00000   5.00000   6.00000\n\n"
    )
    with read_frames(path) as source:
        assert source[0].positions.tolist() == [[1.234567, -0.765432, 3.000001]]
        assert source[0].box.tolist() == [[4, 0, 0], [0, 5, 0], [0, 0, 6]]
        assert source[0].time == 0.0


def test_frames_can_be_changed_without_harm(tmp_path):
    with read_frames(write(tmp_path / "a.gro", [frame()])) as source:
        first = source[0]
        first.positions[:] = 0.0
        assert np.abs(source[0].positions).max() > 1.0


def test_reference_structure_survives(tmp_path):
    with read_frames(reference("aa.gro")) as source:
        aa, names = source[0], source.table
    assert aa.n == 5832
    assert aa.time == 40.0
    assert names.names[:3] == ("H1", "C2", "H3")
    assert names.resids[[0, 162, 5831]].tolist() == [1, 2, 36]
    assert aa.box.tolist() == [[7.84283, 0, 0], [0.11436, 2.76935, 0], [0, 0, 2.75390]]
    with read_frames(write(tmp_path / "aa.gro", [aa], names)) as again:
        assert np.array_equal(again[0].positions, aa.positions)
        assert np.array_equal(again[0].box, aa.box)
        assert again.table.names == names.names
        assert np.array_equal(again.table.resids, names.resids)


def test_atom_table_numbers_residues_as_gromacs_does():
    # The reference numbers its one-residue chains 1 to 36; larger molecules keep their numbers,
    # and one-residue ones go on behind the highest of them.
    chain = molecule("M", 4, [(0, 1), (1, 2), (2, 3)])
    two = molecule("T", 2, [(0, 1)])
    object.__setattr__(two, "residue_numbers", np.array([5, 9]))
    found = atom_table(topology((chain, 2), (two, 2), (chain, 1)))
    assert found.resids.tolist() == [10] * 4 + [11] * 4 + [5, 9, 5, 9] + [12] * 4
    assert found.names[:5] == ("C1", "C2", "C3", "C4", "C1")
    assert found.masses.tolist() == [12.0] * 16


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (None, range(10)),
        ("2:5", range(2, 5)),
        ("::3", range(0, 10, 3)),
        ("-2:", range(8, 10)),
        ("8:2:-2", range(8, 2, -2)),
        ("::-1", range(9, -1, -1)),
        (":", range(10)),
        ("4", [4]),
        ("-1", [9]),
        (" 1 : 3 ", [1, 2]),
        ("7:99", [7, 8, 9]),
    ],
)
def test_frames_slice_like_numpy(text, numbers, tmp_path):
    assert np.arange(10)[parse_frames(text)].tolist() == list(numbers)
    path = write(tmp_path / "t.trr", [frame(k) for k in range(10)])
    names = write(tmp_path / "names.gro", [frame()])
    with read_frames(names, path, frames=text) as source:
        assert source.frames.tolist() == list(numbers)
        assert [s.time for s in source] == [2.5 * k for k in numbers]
        assert source[-1].time == 2.5 * list(numbers)[-1]


@pytest.mark.parametrize("text", ["a", "1:2:3:4", "", "1:2:0", "1.5", "1 2", "::x"])
def test_bad_frames_are_refused(text):
    with pytest.raises(InputError, match="frames: expected"):
        parse_frames(text)


def test_no_frame_chosen_is_refused(tmp_path):
    path = write(tmp_path / "a.gro", [frame()])
    with pytest.raises(InputError, match=r"a\.gro: expected frames 5:2 to choose some of its 1"):
        read_frames(path, frames="5:2")


def test_positions_with_names_from_elsewhere(tmp_path):
    path = write(tmp_path / "t.xtc", [frame(k) for k in range(4)])
    names = write(tmp_path / "names.gro", [frame()])
    with read_frames(names, path, frames="1:3") as first:
        expected = [s.positions for s in first]
    with read_positions(path, first.table, frames="1:3") as second:
        assert second.table is first.table
        assert np.array_equal([s.positions for s in second], expected)
    fewer = ParticleTable(first.table.names[1:], first.table.resnames[1:], first.table.resids[1:])
    with pytest.raises(InputError, match=r"t\.xtc: expected \d+ particles as in the topology"):
        read_positions(path, fewer)


def test_missing_unknown_empty_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no\.gro: expected a file, found none"):
        read_frames(tmp_path / "no.gro")
    with pytest.raises(InputError, match=r"a\.txt: expected a file ending in .*, found '\.txt'"):
        read_frames(tmp_path / "a.txt")
    (tmp_path / "folder.gro").mkdir()
    with pytest.raises(InputError, match="found a folder"):
        read_frames(tmp_path / "folder.gro")
    names = write(tmp_path / "names.gro", [frame()])
    for extension in EXTENSIONS:
        path = tmp_path / f"bad{extension}"
        path.write_bytes(b"")
        with pytest.raises(InputError, match=r"bad\.\w+: expected .* found an empty file"):
            read_frames(names, path)
        path.write_bytes(b"This is no trajectory.\n" * 40)
        with pytest.raises(InputError, match=r"bad\.\w+( frame 0)?: expected"):
            read_frames(names, path)


@pytest.mark.parametrize("extension", sorted(WRITERS))
@pytest.mark.parametrize("cut", [0.999, 0.97, 0.8])
def test_truncated_files_are_refused(extension, cut, tmp_path):
    frames = [frame(k, n=40) for k in range(1 if extension in (".data", ".cif") else 3)]
    particles = table(40)
    whole = write(tmp_path / f"whole{extension}", frames, particles)
    names = write(tmp_path / "names.gro", [frame(n=40)], particles)
    data = whole.read_bytes()
    path = tmp_path / f"cut{extension}"
    keep = int(len(data) * cut)
    if extension in (".gro", ".pdb", ".data", ".dump", ".lammpstrj"):
        # Text that ends inside the last number cannot be told from a shorter number.
        keep = data.rindex(b"\n", 0, keep - 8) + 1
    if extension == ".pdb" and cut > 0.97:
        keep = data.index(b"ENDMDL", int(len(data) * 0.9)) - 160
    path.write_bytes(data[:keep])
    with pytest.raises(InputError, match=rf"cut\{extension}.*: expected"):
        read_frames(names, path)


def test_part_of_a_truncated_trajectory_can_be_read(tmp_path):
    names = write(tmp_path / "names.gro", [frame()])
    data = write(tmp_path / "t.trr", [frame(k) for k in range(3)]).read_bytes()
    (tmp_path / "cut.trr").write_bytes(data[:-40])
    with read_frames(names, tmp_path / "cut.trr", frames="0:2") as source:
        assert [s.time for s in source] == [0.0, 2.5]


def test_data_file_with_fewer_atoms_than_it_says_is_refused(tmp_path):
    path = write(tmp_path / "a.data", [frame()])
    path.write_text(path.read_text().replace("7 atoms", "8 atoms"))
    with pytest.raises(InputError, match=r"a\.data: expected 8 atoms as its header says, found 7"):
        read_frames(path)


def test_lammps_types_have_one_mass_each_and_molecules_their_numbers(tmp_path):
    particles = ParticleTable(
        names=("B1", "B2", "B3"),
        resnames=("P",) * 3,
        resids=np.array([4, 5, 4]),
        types=("A", "A", "A"),
        masses=np.array([28.0, 27.0, 28.0]),
        molecules=np.array([1, 1, 2]),
    )
    path = write(tmp_path / "a.data", [frame(n=3)], particles)
    lines = path.read_text().splitlines()
    assert lines[lines.index("Masses") + 2 :][:2] == ["1 28  # A", "2 27  # A"]
    rows = lines[lines.index("Atoms  # full") + 2 :]
    assert [row.split()[:3] for row in rows] == [["1", "1", "1"], ["2", "1", "2"], ["3", "2", "1"]]
    with read_frames(path) as source:
        assert source.table.types == ("1", "2", "1")
        assert source.table.resids.tolist() == [1, 1, 2]


def test_counts_that_differ_are_refused(tmp_path):
    names = write(tmp_path / "names.gro", [frame()])
    other = write(tmp_path / "t.xtc", [frame(n=12)])
    with pytest.raises(
        InputError, match=r"t\.xtc: expected 7 particles as in .*names\.gro, found 12"
    ):
        read_frames(names, other)
    two = (tmp_path / "names.gro").read_text() + write(
        tmp_path / "b.gro", [frame(n=12)]
    ).read_text()
    (tmp_path / "two.gro").write_text(two)
    with pytest.raises(InputError, match=r"two\.gro: expected 7 atoms in frame 1"):
        read_frames(tmp_path / "two.gro")


def test_structure_without_names_is_refused(tmp_path):
    path = write(tmp_path / "t.xtc", [frame()])
    with pytest.raises(InputError, match=r"t\.xtc: expected a structure with names"):
        read_frames(path)


def test_bad_coordinates_and_boxes_are_refused_with_their_frame(tmp_path):
    names = write(tmp_path / "names.gro", [frame()])
    x = np.zeros((7, 3), dtype=np.float32)
    broken = x.copy()
    broken[3, 1] = np.nan
    box = BOX.astype(np.float32)
    for k, (positions, cell, match) in enumerate(
        [
            (broken, box, r"frame 1: expected finite coordinates, found .* for particle 4"),
            (x, 0 * box, "frame 1: expected a periodic box, found none"),
            (x, box.T, "frame 1: expected a box in lower triangular form"),
            (x, np.ones((3, 3), dtype=np.float32), "frame 1: expected three independent lattice"),
        ]
    ):
        path = tmp_path / f"t{k}.trr"
        with TRRFile(str(path), "w") as f:
            for positions_, cell_ in ((x, box), (positions, cell), (x, box)):
                f.write(positions_, None, None, cell_, 0, 0.0, 0.0, 7)
        with read_frames(names, path) as source, pytest.raises(InputError, match=match):
            list(source)
        with pytest.raises(InputError, match=match):
            read_frames(names, path, frames="1:2")  # found out before any work starts


def test_pdb_without_a_cell_is_refused(tmp_path):
    path = write(tmp_path / "a.pdb", [frame()])
    kept = [s for s in path.read_text().splitlines(True) if not s.startswith("CRYST1")]
    path.write_text("".join(kept))
    with pytest.raises(InputError, match=r"a\.pdb frame 0: expected a periodic box, found none"):
        read_frames(path)


def test_gsd_of_a_triclinic_box_is_read_by_its_tilt_factors(tmp_path):
    hoomd = pytest.importorskip("gsd.hoomd")
    one = hoomd.Frame()
    one.particles.N = 1
    one.particles.position = [[0.0, 0.0, 0.0]]
    one.configuration.box = [10.0, 20.0, 30.0, 0.5, -0.25, 0.125]
    with hoomd.open(str(tmp_path / "a.gsd"), "w") as f:
        f.append(one)
    with read_frames(tmp_path / "a.gsd") as source:
        # HOOMD: a2 = (xy Ly, Ly, 0), a3 = (xz Lz, yz Lz, Lz)
        assert np.allclose(source[0].box, [[1, 0, 0], [1, 2, 0], [-0.75, 0.375, 3]])
        assert np.allclose(source[0].positions, source[0].box.sum(axis=0) / 2)


def test_a_gsd_frame_with_nothing_of_its_own_is_refused(tmp_path):
    """As a damaged index leaves it: the number of the last frame is another, which makes more."""
    fl, hoomd = pytest.importorskip("gsd.fl"), pytest.importorskip("gsd.hoomd")
    one = hoomd.Frame()
    one.particles.N, one.particles.position = 1, [[1.0, 2.0, 3.0]]
    one.configuration.box = [10.0, 20.0, 30.0, 0.0, 0.0, 0.0]
    path = tmp_path / "a.gsd"
    with hoomd.open(str(path), "w") as file:
        file.append(one)
    with fl.open(str(path), "a") as file:
        file.end_frame()
        file.write_chunk("configuration/step", np.array([7], dtype=np.uint64))
        file.end_frame()
    with read_frames(path, frames="::2") as source:
        first, last = source
        np.testing.assert_array_equal(first.positions, last.positions)
        assert last.time == 7.0
    with (
        read_frames(path) as source,
        pytest.raises(InputError, match=r"a\.gsd frame 1: expected something of its own"),
    ):
        list(source)


def dump_of(columns, rows, bounds="0 10 1.5\n0 20 0.0\n0 30 -2.0"):
    return (
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS xy xz yz pp pp pp\n"
        f"{bounds}\nITEM: ATOMS id type {columns}\n{rows}"
    )


def test_image_flags_say_where_an_atom_is(tmp_path):
    """Wrapped, scaled and unwrapped columns and a data file of one configuration are alike."""
    box = np.array([[10.0, 0, 0], [1.5, 20, 0], [0.0, -2.0, 30]])
    inside, flags = (
        np.array([[0.2, 0.5, 0.25], [0.9, 0.1, 0.7]]),
        np.array([[1, -2, 0], [0, 3, -1]]),
    )
    wrapped, right = inside @ box, (inside + flags) @ box
    # of the box around the cell
    bounds = "0 11.5 1.5\n-2 20 0.0\n0 30 -2.0"

    def rows(*parts):
        lines = (" ".join(f"{v:.12g}" for part in parts for v in part[k]) for k in range(2))
        return "".join(f"{k + 1} 1 {line}\n" for k, line in enumerate(lines))

    texts = {
        "x.dump": dump_of("x y z ix iy iz", rows(wrapped, flags), bounds),
        "xs.dump": dump_of("xs ys zs ix iy iz", rows(inside, flags), bounds),
        "xu.dump": dump_of("xu yu zu", rows(right), bounds),
        "xu-flags.dump": dump_of("xu yu zu ix iy iz", rows(right, flags), bounds),
        "xsu.dump": dump_of("xsu ysu zsu", rows(inside + flags), bounds),
        "a.data": "title\n\n2 atoms\n1 atom types\n\n0 10 xlo xhi\n0 20 ylo yhi\n0 30 zlo zhi\n"
        "1.5 0 -2 xy xz yz\n\nAtoms # atomic\n\n" + rows(wrapped, flags),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with read_frames(tmp_path / name) as source:
            np.testing.assert_allclose(source[0].positions, right / 10, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(source[0].box, box / 10, err_msg=name)
    (tmp_path / "a.data").write_text(texts["a.data"].replace(" 1 -2 0\n", " 1 -2 0.5\n"))
    with pytest.raises(InputError, match=r"a\.data: expected numbers in column iz"):
        read_frames(tmp_path / "a.data")


@pytest.mark.parametrize(
    ("hint", "row"),
    [
        ("full", "1 7 2 -0.5 1.0 2.0 3.0"),
        ("molecular", "1 7 2 1.0 2.0 3.0 0 0 0"),
        ("atomic", "1 2 1.0 2.0 3.0 0 0 0"),
        ("charge", "1 2 -0.5 1.0 2.0 3.0"),
        ("", "1 2 1.0 2.0 3.0 0 0 0"),
        ("", "1 7 2 -0.5 1.0 2.0 3.0"),
    ],
)
def test_lammps_atom_styles(hint, row, tmp_path):
    path = tmp_path / "a.data"
    path.write_text(
        "title\n\n1 atoms\n2 atom types\n\n0 10 xlo xhi\n0 20 ylo yhi\n0 30 zlo zhi\n"
        f"5 0 0 xy xz yz\n\nMasses\n\n1 1.0\n2 12.0\n\nAtoms{' # ' + hint if hint else ''}\n\n"
        f"{row}\n"
    )
    with read_frames(path) as source:
        assert np.allclose(source[0].positions, [[0.1, 0.2, 0.3]])
        assert np.allclose(source[0].box, [[1, 0, 0], [0.5, 2, 0], [0, 0, 3]], atol=1e-6)
        assert source.table.types == ("2",)
    path.write_text(path.read_text().replace(row, "1 2"))
    with pytest.raises(InputError, match=r"expected atoms in one of the styles|found: "):
        read_frames(path)


def test_nothing_is_left_behind_by_failures(tmp_path):
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), open_writer(tmp_path / "a.gro", table()) as writer:
            writer.write(frame())
            raise error
    for bad, match in (
        (frame(n=6), "expected 7 particles, found 6"),
        (Structure(np.full((7, 3), np.nan), BOX), "expected finite coordinates"),
        (Structure(np.zeros((7, 3)), np.zeros((3, 3))), "expected a periodic box"),
    ):
        with (
            pytest.raises(ValueError, match=match),
            open_writer(tmp_path / "a.xtc", table()) as writer,
        ):
            writer.write(bad)
    with (
        pytest.raises(ValueError, match="at least one frame"),
        open_writer(tmp_path / "b.gro", table()),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_unless_forced(tmp_path):
    path = write(tmp_path / "a.gro", [frame(0)])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"a\.gro: expected no file of that name, found one"):
        open_writer(path, table())
    with pytest.raises(RuntimeError), open_writer(path, table(), force=True) as writer:
        writer.write(frame(1))
        raise RuntimeError
    assert path.read_bytes() == before
    write(path, [frame(1)], force=True)
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]


def test_output_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a.gro"
    with (
        pytest.raises(InputError, match="expected no file of that name"),
        open_writer(path, table()) as writer,
    ):
        writer.write(frame())
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
    assert list(tmp_path.iterdir()) == [path]


def test_output_has_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    assert write(tmp_path / "a.gro", [frame()]).stat().st_mode == plain.stat().st_mode


def test_impossible_outputs_are_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"a\.foo: expected an output ending in .*, found '\.foo'"):
        open_writer(tmp_path / "a.foo", table())
    with pytest.raises(InputError, match=r"expected a folder .*none to write to, found none"):
        open_writer(tmp_path / "none" / "a.gro", table())
    (tmp_path / "d.gro").mkdir()
    with pytest.raises(InputError, match="expected a file to write, found a folder"):
        open_writer(tmp_path / "d.gro", table(), force=True)
    long = ParticleTable(("TOOLONG",), ("R",), np.array([1]))
    for extension, width in ((".gro", 5), (".pdb", 4)):
        with (
            pytest.raises(InputError, match=f"atom names of at most {width} .*'TOOLONG'"),
            open_writer(tmp_path / f"a{extension}", long),
        ):
            pass
    nameless = ParticleTable(("A",), ("R",), np.array([1]))
    with (
        pytest.raises(InputError, match="expected masses"),
        open_writer(tmp_path / "a.data", nameless),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["d.gro"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="expected a folder that can be written to"):
        open_writer(tmp_path / "a.gro", table())


@pytest.mark.parametrize(("extension", "far"), [(".gro", 1e4), (".gro", -1e3), (".pdb", 1e3)])
def test_coordinates_that_outgrow_the_columns_are_refused(extension, far, tmp_path):
    lost = frame()
    lost.positions[0, 0] = far
    with pytest.raises(InputError, match=r"a\.\w+ frame 0: expected coordinates from"):
        write(tmp_path / f"a{extension}", [lost])
    assert list(tmp_path.iterdir()) == []


def test_data_file_holds_one_frame(tmp_path):
    with pytest.raises(InputError, match=r"a\.data frame 1: expected one frame"):
        write(tmp_path / "a.data", [frame(), frame()])
    # before anything is worked out for them, where their number is known
    with pytest.raises(InputError, match=r"a\.data: expected one frame, .* found 2;"):
        open_writer(tmp_path / "a.data", table(), frames=2)


def test_reading_leaves_no_files(tmp_path):
    names = write(tmp_path / "names.gro", [frame()])
    path = write(tmp_path / "t.xtc", [frame(k) for k in range(3)])
    with read_frames(names, path) as source:
        list(source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["names.gro", "t.xtc"]


def test_gro_in_blocks_is_the_same_file(tmp_path, monkeypatch):
    n = 230
    particles = ParticleTable(
        tuple(f"C{k}" for k in range(n)), ("R",) * n, 99_900 + np.arange(n, dtype=np.int64)
    )
    rng = np.random.default_rng(2)
    frames = [Structure(rng.uniform(0, 9, (n, 3)), np.diag([10.0] * 3), 1.0 * k) for k in (0, 1)]
    whole = write(tmp_path / "whole.gro", frames, particles).read_bytes()
    monkeypatch.setattr(gro, "BLOCK", 50)
    assert write(tmp_path / "blocks.gro", frames, particles).read_bytes() == whole


def test_a_writer_lets_names_go_that_its_format_does_not_have(tmp_path):
    frame = Structure(np.ones((2, 3)), np.eye(3))
    for name in ("a.xtc", "a.gro"):
        particles = ParticleTable(("H", "O"), ("SOL",) * 2, np.ones(2, dtype=np.int64))
        writer = open_writer(tmp_path / name, particles)
        seen = weakref.ref(particles)
        del particles
        assert seen() is not None  # not yet open
        with writer:
            gc.collect()
            assert seen() is None
            writer.write(frame)
