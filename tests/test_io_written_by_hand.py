"""Coordinate files put together byte by byte: what they hold is read, what is wrong is said."""

import bz2
import gzip
import lzma
import struct
from dataclasses import replace

import numpy as np
import pytest
from MDAnalysis.lib.formats.libmdaxdr import TRRFile, XTCFile

from deepbackmap.errors import InputError
from deepbackmap.io.trajectory import (
    ParticleTable,
    open_writer,
    read_frames,
    read_positions,
    reading_as,
)
from deepbackmap.system import Structure

BOX = np.array([[3.0, 0.0, 0.0], [0.7, 2.8, 0.0], [-0.6, 0.5, 2.6]])


def anonymous(n):
    return ParticleTable(("X",) * n, ("Y",) * n, np.ones(n, dtype=np.int64))


def typed(types, masses=None, molecules=None):
    n = len(types)
    known = None if masses is None else np.array(masses, dtype=np.float64)
    numbers = None if molecules is None else np.array(molecules, dtype=np.int64)
    return ParticleTable(
        tuple(types), ("R",) * n, np.arange(1, n + 1), tuple(types), known, np.zeros(n), numbers
    )


def refusal(path, n):
    """What a trajectory of n particles is refused with."""
    with pytest.raises(InputError) as caught:
        read_positions(path, anonymous(n)).close()
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    return said


# --- dcd ------------------------------------------------------------------------------------------

AKMA = 0.04888821290839616
"""ps, of CHARMM's unit of time: sqrt(u Å^2 mol / kcal)."""


def record(data, order="<"):
    mark = struct.pack(f"{order}i", len(data))
    return mark + data + mark


def dcd(frames, *, cell=None, first=0, every=1, delta=1.0, charmm=24, fourth=False, n=None):
    """A .dcd of frames (n, 3) in Å; ``cell`` are its six numbers in the order of the file."""
    count = len(frames[0]) if n is None else n
    numbers = [0] * 20
    numbers[0], numbers[1], numbers[2] = len(frames), first, every
    numbers[10], numbers[11], numbers[19] = int(cell is not None), int(fourth), charmm
    head = bytearray(b"CORD" + struct.pack("<20i", *numbers))
    if charmm:
        head[40:44] = struct.pack("<f", delta)
    else:
        head[40:48] = struct.pack("<d", delta)
    found = record(bytes(head)) + record(struct.pack("<i", 1) + b" " * 80)
    found += record(struct.pack("<i", count))
    for frame in frames:
        if cell is not None:
            found += record(np.array(cell, dtype="<f8").tobytes())
        for axis in np.asarray(frame, dtype="<f4").T:
            found += record(axis.tobytes())
        if fourth:
            found += record(np.zeros(len(frame), dtype="<f4").tobytes())
    return found


def points(count=2, n=4, seed=0):
    return np.random.default_rng(seed).uniform(0.0, 20.0, (count, n, 3))


def lengths_angles(box):
    """a, b, c and the angles between b and c, a and c, a and b."""
    a, b, c = box
    lengths = np.linalg.norm(box, axis=1)
    pairs = ((b, c), (a, c), (a, b))
    return lengths, [u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in pairs]


def test_dcd_cells_in_degrees_and_as_cosines_are_the_same_lattice(tmp_path):
    """NAMD writes cosines, CHARMM and VMD write degrees; both in the order a, gamma, b, beta..."""
    (a, b, c), cosines = lengths_angles(BOX / 0.1)
    for name, (alpha, beta, gamma) in (
        ("cosines", cosines),
        ("degrees", np.degrees(np.arccos(cosines))),
    ):
        path = tmp_path / f"{name}.dcd"
        path.write_bytes(dcd(points(), cell=(a, gamma, b, beta, alpha, c)))
        with read_positions(path, anonymous(4)) as source:
            for k, expected in enumerate(points()):
                np.testing.assert_allclose(source[k].box, BOX, atol=1e-12)
                np.testing.assert_allclose(source[k].positions, 0.1 * expected, atol=1e-6)


@pytest.mark.parametrize(("charmm", "delta"), [(24, 0.5), (0, 0.25)])
def test_dcd_times_are_steps_times_the_time_step(charmm, delta, tmp_path):
    """Frames stand ``every`` steps apart from step ``first`` on; X-PLOR has the step in double."""
    cell = None if not charmm else (30.0, 90.0, 30.0, 90.0, 90.0, 30.0)
    path = tmp_path / "a.dcd"
    path.write_bytes(dcd(points(3), cell=cell, first=400, every=200, delta=delta, charmm=charmm))
    if charmm:
        with read_positions(path, anonymous(4)) as source:
            times = [frame.time for frame in source]
    else:  # no cell: a lone molecule
        with read_positions(path, anonymous(4), lone=True) as source:
            times = [frame.time for frame in source]
    np.testing.assert_allclose(times, delta * AKMA * np.array([400.0, 600.0, 800.0]), rtol=1e-6)


def test_dcd_with_a_fourth_dimension_is_read_without_it(tmp_path):
    cell = (30.0, 90.0, 30.0, 90.0, 90.0, 30.0)
    plain, four = tmp_path / "plain.dcd", tmp_path / "four.dcd"
    plain.write_bytes(dcd(points(3), cell=cell))
    four.write_bytes(dcd(points(3), cell=cell, fourth=True))
    with read_positions(plain, anonymous(4)) as one, read_positions(four, anonymous(4)) as other:
        assert len(one) == len(other) == 3
        for k in range(3):
            assert np.array_equal(one[k].positions, other[k].positions)


def test_dcd_that_is_none_is_told_what_it_is(tmp_path):
    path = tmp_path / "a.dcd"
    path.write_bytes(struct.pack("<q", 84) + b"CORD" + bytes(200))
    assert "with 32 bit records" in refusal(path, 4)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    assert "a file that begins otherwise" in refusal(path, 4)
    path.write_bytes(dcd(points(), n=-3))
    assert "expected a number of particles, found -3" in refusal(path, 4)
    box = (30.0, 90.0, 30.0, 90.0, 90.0, 30.0)
    path.write_bytes(dcd(points(), cell=box)[:-1])
    assert "cut short" in refusal(path, 4)
    path.write_bytes(dcd(points())[:196])
    assert "at least one frame, found none" in refusal(path, 4)
    text = dcd(points())
    path.write_bytes(text[:184] + record(struct.pack("<2i", 4, 0)) + text[196:])
    assert "a record of 4 bytes at byte 184, found 8" in refusal(path, 4)


def test_dcd_cells_that_no_lattice_has_are_refused(tmp_path):
    path = tmp_path / "a.dcd"
    for cell, match in (
        ((30.0, 200.0, 30.0, 90.0, 90.0, 30.0), "shape matrix"),
        ((30.0, -5.0, 30.0, 2.0, 2.0, 30.0), "shape matrix"),
        ((30.0, 10.0, 30.0, 20.0, 40.0, 30.0), "a cell that can be"),  # 40 > 10 + 20
        ((30.0, 90.0, 0.0, 90.0, 90.0, 30.0), "a cell that can be"),
        ((np.nan, 90.0, 30.0, 90.0, 90.0, 30.0), "a cell that can be"),
    ):
        path.write_bytes(dcd(points(), cell=cell))
        assert match in refusal(path, 4), cell


# --- trr and xtc ----------------------------------------------------------------------------------


def trr_frame(n, *, x=True, v=False, box=True, time=0.0, double=False):
    size, kind = (8, ">f8") if double else (4, ">f4")
    blocks = (9 * size * box, 0, 0, 3 * n * size * x, 3 * n * size * v, 0)
    head = struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file"
    head += struct.pack(">13i", 0, 0, *blocks[:3], 0, 0, *blocks[3:], n, 0, 0)
    head += struct.pack(f">2{'d' if double else 'f'}", time, 0.0)
    data = np.concatenate([BOX.ravel()] * box + [np.full(3 * n, 0.5)] * (x + v))
    return head + data.astype(kind).tobytes()


def test_trr_frames_without_coordinates_and_of_other_sizes_are_refused(tmp_path):
    path = tmp_path / "a.trr"
    path.write_bytes(trr_frame(5, x=False, v=True))
    assert "expected coordinates, found a frame without" in refusal(path, 5)
    path.write_bytes(trr_frame(5) + trr_frame(6))
    assert "5 particles in frame 1 as in frame 0, found 6" in refusal(path, 5)
    path.write_bytes(trr_frame(5) + trr_frame(5)[:-7])
    assert "bytes behind its beginning" in refusal(path, 5)
    path.write_bytes(trr_frame(5, time=np.inf))
    assert "expected a time, found inf" in refusal(path, 5)
    path.write_bytes(trr_frame(5, box=False))
    assert "expected a periodic box, found none" in refusal(path, 5)


def test_trr_in_double_is_read_as_the_library_reads_it(tmp_path):
    path = tmp_path / "a.trr"
    path.write_bytes(trr_frame(5, v=True, time=1.25, double=True))
    with TRRFile(str(path)) as file:
        theirs = file.read()
    with read_positions(path, anonymous(5)) as source:
        assert np.allclose(source[0].positions, theirs.x)
        assert np.allclose(source[0].box, theirs.box, atol=1e-7)
        assert source[0].time == theirs.time == 1.25


def packed(path, n=40, precision=1000.0):
    x = np.cumsum(np.random.default_rng(3).normal(0.0, 0.1, (n, 3)), axis=0)
    with XTCFile(str(path), "w") as file:
        file.write(x.astype(np.float32), BOX.astype(np.float32), 0, 0.0, precision)
    return bytearray(path.read_bytes())


def test_xtc_has_whole_precisions_and_zeros_behind_its_stream(tmp_path):
    path = tmp_path / "a.xtc"
    data = packed(path)
    data[56:60] = struct.pack(">f", 999.5)
    path.write_bytes(data)
    assert "a precision of whole points per nm, found 999.5" in refusal(path, 40)
    for n in range(30, 60):  # one whose stream does not fill its last word
        data = packed(path, n)
        if int.from_bytes(data[88:92], "big") % 4:
            break
    data[-1] = 1
    path.write_bytes(data)
    assert "zeros behind the stream" in refusal(path, n)


def test_xtc_of_few_particles_holds_plain_numbers(tmp_path):
    """Up to nine particles are not compressed: single precision comes back to the bit."""
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    path = tmp_path / "a.xtc"
    with open_writer(path, anonymous(9)) as writer:
        writer.write(Structure(x.astype(np.float64), BOX, 3.0))
    with read_positions(path, anonymous(9)) as source:
        assert np.array_equal(source[0].positions, x.astype(np.float64))
        assert source[0].time == 3.0


# --- lammps ---------------------------------------------------------------------------------------


def dump(rows, *, columns="id type x y z", box="BOX BOUNDS pp pp pp", front="", n=None):
    bounds = ("0 30", "0 28", "0 26")
    if "abc" in box:
        bounds = ("0 30 0 0", "28 0 0 0", "0 0 26 0")
    return (
        f"{front}ITEM: TIMESTEP\n5\nITEM: NUMBER OF ATOMS\n{len(rows) if n is None else n}\n"
        f"ITEM: {box}\n" + "\n".join(bounds) + f"\nITEM: ATOMS {columns}\n" + "\n".join(rows) + "\n"
    )


ROWS = ["1 A 1.0 2.0 3.0", "2 B 4.0 5.0 6.0", "3 A 7.0 8.0 9.0"]


def test_dumps_in_any_order_of_rows_columns_and_sections_are_the_same(tmp_path):
    """What has a number and a name needs no place."""
    frames = []
    for k, text in enumerate(
        (
            dump(ROWS),
            dump(ROWS[::-1]),
            dump(["3.0 2.0 1.0 A 1", "9.0 8.0 7.0 A 3", "6.0 5.0 4.0 B 2"],
                 columns="z y x type id"),
            dump([f"{row} 0.5" for row in ROWS], columns="id type x y z q", front="ITEM: UNITS\n"
                 "real\n"),
        )
    ):  # fmt: skip
        path = tmp_path / f"{k}.dump"
        path.write_text(text)
        with read_frames(path) as source:
            frames.append(source[0])
            assert source.table.types == ("A", "B", "A")
    for frame in frames[1:]:
        assert np.array_equal(frame.positions, frames[0].positions)
    assert np.allclose(frames[0].positions[1], [0.4, 0.5, 0.6])


def test_dumps_with_two_kinds_of_coordinates_are_read_by_the_plain_ones(tmp_path):
    path = tmp_path / "a.dump"
    rows = [f"{row} 0.1 0.1 0.1" for row in ROWS]
    path.write_text(dump(rows, columns="id type x y z xs ys zs"))
    with read_frames(path) as source:
        assert np.allclose(source[0].positions[2], [0.7, 0.8, 0.9])


@pytest.mark.parametrize("tilts", [(7, -6, 5), (-7, 9, -5), (6, 4, 3), (-6, -4, -3)])
def test_scaled_rows_of_a_skewed_dump_are_fractions_of_its_vectors(tilts, tmp_path):
    """The bounds in the file are those of the corners of the cell."""
    xy, xz, yz = tilts
    box = np.array([[30.0, 0.0, 0.0], [xy, 28.0, 0.0], [xz, yz, 26.0]])
    corners = np.stack(np.meshgrid(*[[0, 1]] * 3), axis=-1).reshape(-1, 3) @ box + 1.5
    bounds = zip(corners.min(axis=0), corners.max(axis=0), tilts, strict=True)
    text = "\n".join(f"{low} {high} {tilt}" for low, high, tilt in bounds)
    fractions = np.random.default_rng(1).uniform(size=(3, 3))
    rows = [f"{k + 1} A {f[0]:.12f} {f[1]:.12f} {f[2]:.12f}" for k, f in enumerate(fractions)]
    plain = dump(rows, columns="id type xs ys zs")
    path = tmp_path / "a.dump"
    path.write_text(plain.replace("BOUNDS pp pp pp\n0 30\n0 28\n0 26",
                                  f"BOUNDS xy xz yz pp pp pp\n{text}"))  # fmt: skip
    with read_frames(path) as source:
        np.testing.assert_allclose(source[0].box, 0.1 * box, atol=1e-12)
        # coordinates keep the origin of the file
        np.testing.assert_allclose(source[0].positions, 0.1 * (fractions @ box + 1.5), atol=1e-9)


def test_what_a_dump_lacks_is_named(tmp_path):
    path = tmp_path / "a.dump"
    good = dump(ROWS)
    for text, match in (
        (good.replace("ITEM: BOX BOUNDS pp pp pp\n0 30\n0 28\n0 26\n", ""), "neither or one"),
        (good.replace("ITEM: NUMBER OF ATOMS\n3\n", ""), "neither or one of them"),
        (good.replace("ITEM: TIMESTEP", "ITEM: LABEL MAP"), "found ITEM: LABEL MAP"),
        (dump(ROWS, box="BOX BOUNDS abc origin"), "right-handed lattice vectors"),
        (dump(ROWS, columns="id type vx vy vz"), "columns id and x y z"),
        (dump(ROWS, columns="number type x y z"), "columns id and x y z"),
        (dump([*ROWS[:2], ROWS[0]]), "each atom once, found atom 1 twice"),
        (dump([*ROWS[:2], "3 A 7.0 8.0 nan"]), "for atom 3"),
        (dump(ROWS, n=10**9), "a number of atoms that a file of"),
        (good + dump(ROWS[:2]), "3 particles as in frame 0, found 2"),
        (good + dump([*ROWS[:2], "4 A 7.0 8.0 9.0"]), "the atoms of frame 0"),
        (good.replace("0 28\n", "0 twenty\n"), "2 numbers as BOX BOUNDS of frame 0"),
        (good.replace("TIMESTEP\n5", "TIMESTEP\n5.5"), "a whole number as TIMESTEP"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=match) as caught:
            read_frames(path)
        assert "a.dump" in str(caught.value)


DATA = """by hand

3 atoms
2 atom types
0 30 xlo xhi
0 28 ylo yhi
0 26 zlo zhi

Atoms # full

1 1 1 0.5 1.0 2.0 3.0
2 1 2 -0.5 4.0 5.0 6.0
3 2 1 0.0 7.0 8.0 9.0
"""


def test_what_a_data_file_lacks_is_named(tmp_path):
    path = tmp_path / "a.data"
    for old, new, match in (
        ("3 atoms\n", "", "a number of atoms in the header, found none"),
        ("Atoms # full", "Positions", "a section Atoms, found none"),
        ("0 28 ylo yhi\n", "", "a box as xlo xhi, ylo yhi and zlo zhi"),
        ("0 28 ylo yhi", "0 x28 ylo yhi", "numbers in front of ylo yhi in line 6"),
        ("2 1 2 -0.5", "1 1 2 -0.5", "each atom once, found atom 1 twice"),
        ("# full", "# sphere", "found style sphere with 7 columns"),
        ("3 2 1 0.0 7.0 8.0 9.0\n", "", "3 atoms as its header says, found 2"),
        ("5.0 6.0", "5.0 six", "numbers in column z"),
        ("1 1 1 0.5 1.0 2.0 3.0\n2 1 2 -0.5 4.0 5.0 6.0\n3 2 1 0.0 7.0 8.0 9.0\n",
         "Masses\n", "rows in the section Atoms, found none"),
    ):  # fmt: skip
        assert old in DATA
        path.write_text(DATA.replace(old, new))
        with pytest.raises(InputError, match=match):
            read_frames(path)


def test_general_vectors_of_a_data_file_are_turned_and_distances_stay(tmp_path):
    """avec, bvec and cvec of any direction: the cell is turned, and its atoms with it."""
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    vectors, x = 10.0 * BOX @ turn, np.arange(9.0).reshape(3, 3) ** 1.5
    lines = [" ".join(f"{v:.12f}" for v in row) for row in (*vectors, *(x @ turn))]
    text = DATA.replace("0 30 xlo xhi", f"{lines[0]} avec").replace(
        "0 28 ylo yhi", f"{lines[1]} bvec"
    ).replace("0 26 zlo zhi", f"{lines[2]} cvec")  # fmt: skip
    for k, plain in enumerate(("1.0 2.0 3.0", "4.0 5.0 6.0", "7.0 8.0 9.0")):
        text = text.replace(plain, lines[3 + k])
    (tmp_path / "a.data").write_text(text)
    with read_frames(tmp_path / "a.data") as source:
        np.testing.assert_allclose(source[0].box, BOX, atol=1e-10)
        np.testing.assert_allclose(source[0].positions, 0.1 * x, atol=1e-10)


def test_types_of_written_data_are_one_for_each_name_and_mass(tmp_path):
    """A bead at the end of a chain is heavier than one of the same name inside: LAMMPS has one
    mass a type."""
    table = typed("ABBA", masses=[10.0, 20.0, 21.0, 10.0], molecules=[1, 1, 2, 2])
    x = np.random.default_rng(0).uniform(0.0, 2.0, (4, 3))
    with open_writer(tmp_path / "a.data", table) as writer:
        writer.write(Structure(x, BOX))
    text = (tmp_path / "a.data").read_text()
    assert "3 atom types" in text
    rows = [line.split() for line in text.partition("Atoms")[2].splitlines()[2:]]
    assert [row[2] for row in rows] == ["1", "2", "3", "1"]
    assert [row[1] for row in rows] == ["1", "1", "2", "2"]
    masses = text.partition("Masses")[2].partition("Atoms")[0].split()
    assert [float(w) for w in masses[1::4]] == [10.0, 20.0, 21.0]
    without = "masses, which a LAMMPS data file holds, found none"
    with pytest.raises(InputError, match=without), open_writer(tmp_path / "b.data", typed("AB")):
        pass
    assert not (tmp_path / "b.data").exists()


# --- all formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_that_are_cut_are_said_to_be(pack, tmp_path):
    end = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[pack]
    path = tmp_path / f"a.data.{end}"
    whole = pack(DATA.encode())
    path.write_bytes(whole)
    with read_frames(path) as source:
        assert source[0].n == 3
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="expected a whole packed file, found"):
        read_frames(path)


def test_a_unit_that_is_told_scales_coordinates_and_cell_alike(tmp_path):
    """Fractions of the cell are those of the file, whatever its unit is said to be."""
    x = np.random.default_rng(0).uniform(0.0, 3.0, (4, 3))
    names = {".gro": 1.0, ".pdb": 0.1, ".xtc": 1.0, ".dcd": 0.1}
    for suffix, native in names.items():
        path = tmp_path / f"a{suffix}"
        with open_writer(path, anonymous(4)) as writer:
            writer.write(Structure(x, BOX))
        with read_positions(path, anonymous(4)) as source:
            plain = source[0]
        for said, length in (("nm", 1.0), ("A", 0.1), ("0.47", 0.47)):
            with reading_as(length_unit=said), read_positions(path, anonymous(4)) as source:
                found = source[0]
            factor = length / native
            np.testing.assert_allclose(found.positions, factor * plain.positions, rtol=1e-12)
            np.testing.assert_allclose(found.box, factor * plain.box, rtol=1e-12)


def test_units_that_are_none_and_formats_that_nobody_knows_are_refused():
    for unit in ("parsec", "0", "-1", "nan", "1e13"):
        expected = "length unit: expected nm, A, or the length"
        with pytest.raises(InputError, match=expected), reading_as(length_unit=unit):
            pass
    with pytest.raises(InputError, match="format: expected one of gro, pdb"), reading_as("docx"):
        pass


def test_a_writer_refuses_what_no_file_should_hold(tmp_path):
    """A bug in a caller is no bad input: it is a ValueError, and leaves no file."""
    good = Structure(np.ones((3, 3)), BOX)
    bad = {
        "finite coordinates": replace(good, positions=np.full((3, 3), np.nan)),
        "coordinates within 1e\\+06 nm": replace(good, positions=np.full((3, 3), 1e7)),
        "a periodic box": replace(good, box=np.zeros((3, 3))),
        "a box in lower triangular form": replace(good, box=BOX.T.copy()),
        "a box from 0.1 to 1e\\+06 nm": replace(good, box=np.diag([5.0, 5.0, 0.05])),
        "3 particles, found 2": replace(good, positions=np.ones((2, 3))),
        "a time": replace(good, time=np.inf),
    }
    for suffix in (".gro", ".xtc", ".cif"):
        for match, structure in bad.items():
            path = tmp_path / f"a{suffix}"
            expected = pytest.raises(ValueError, match=f"structure: expected {match}")
            with expected, open_writer(path, anonymous(3)) as writer:
                writer.write(structure)
            assert list(tmp_path.iterdir()) == []
    writer = open_writer(tmp_path / "a.gro", anonymous(3))
    with pytest.raises(ValueError, match="expected to be inside"):
        writer.write(good)
    expected = pytest.raises(ValueError, match="expected at least one frame to be written")
    with expected, open_writer(tmp_path / "a.gro", anonymous(3)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_kinds_are_named_with_the_way_in(tmp_path):
    for suffix, match in (
        (".cpt", "gmx trjconv"), (".top", "give it with -p"), (".edr", "no coordinates"),
        (".restart", "restart2data"), (".h5", "mdconvert"), (".mdcrd", "cpptraj"),
    ):  # fmt: skip
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"something")
        with pytest.raises(InputError, match=match) as caught:
            read_frames(path)
        assert "expected structures or trajectories, found" in str(caught.value)


def test_numbers_of_gro_that_are_none_are_refused_with_their_row(tmp_path):
    rows = ["    1HEX     C1    1   0.200   0.300   0.400",
            "    1HEX     C2    2   0.198   0.112   0.075"]  # fmt: skip
    path = tmp_path / "a.gro"
    for old, new, match in (
        ("0.112", "+-.12", "three coordinates"),
        ("   0.112", "1-20.112", "three coordinates"),
        ("    1HEX     C2", "    xHEX     C2", "a residue number in columns 1 to 5 of atom 2"),
    ):
        text = "\n".join(["title", "    2", *rows, "3.0 3.0 3.0"]) + "\n"
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=match):
            read_frames(path)
    path.write_text(text.replace("    1HEX     C1", "*****HEX     C1"))
    with pytest.raises(InputError, match="of atom 1"):  # nothing to repeat
        read_frames(path)
