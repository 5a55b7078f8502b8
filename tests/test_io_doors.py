"""Doors of the formats: damage is found out, others' habits are read, units are asked for."""

import gzip
import struct
import warnings

import numpy as np
import pytest
from MDAnalysis.lib.formats.libdcd import DCDFile
from MDAnalysis.lib.formats.libmdaxdr import TRRFile, XTCFile

from deepbackmap.errors import InputError, Notice
from deepbackmap.io.formats.base import FormatError
from deepbackmap.io.formats.lammps import lower_triangular
from deepbackmap.io.formats.xdr import XtcReader
from deepbackmap.io.trajectory import (
    ParticleTable,
    format_of,
    open_writer,
    read_frames,
    read_positions,
    reading_as,
)
from deepbackmap.system import Structure
from test_io_trajectory import BOX, frame, table, write

CUBE = np.diag([3.0, 3.0, 3.0])


def anonymous(n):
    return ParticleTable(("X",) * n, ("Y",) * n, np.ones(n, dtype=np.int64))


def xtc(path, frames, precision=1000.0):
    with XTCFile(str(path), "w") as file:
        for k, x in enumerate(frames):
            file.write(x.astype(np.float32), BOX.astype(np.float32), k, float(k), precision)
    return path


def clouds(seed=0):
    """Coordinates that make the encoder use all its ways: chains, water, one point, far apart."""
    rng = np.random.default_rng(seed)
    for n in (1, 9, 10, 11, 100, 2000):
        for scale in (0.0, 0.001, 0.05, 1.0, 30.0, 900.0):
            x = rng.normal(size=(n, 3))
            yield scale * x
            yield scale * np.cumsum(0.05 * x, axis=0)
            yield np.repeat(scale * x, 3, axis=0)[:n] + 0.01 * rng.normal(size=(n, 3))


def test_xtc_is_decoded_as_by_the_library(tmp_path):
    for x in clouds():
        for precision in (1000.0, 100.0):
            path = xtc(tmp_path / "a.xtc", [x], precision)
            ours = XtcReader(path).read(0)
            with XTCFile(str(path)) as file:
                theirs = file.read()
            assert np.array_equal(ours.positions, theirs.x.astype(np.float64))
            assert np.array_equal(ours.box, theirs.box.astype(np.float64))


def chain_xtc(path):
    rng = np.random.default_rng(1)
    return xtc(path, [np.cumsum(0.1 * rng.normal(size=(300, 3)), axis=0) for _ in range(2)])


def test_one_wrong_bit_of_an_xtc_is_found_or_moves_few(tmp_path):
    """Bits of a coordinate leave a stream as whole as before: one run moves, and no more."""
    path = chain_xtc(tmp_path / "a.xtc")
    data, right = path.read_bytes(), XtcReader(path).read(0).positions
    refused = 0
    for bit in np.random.default_rng(2).choice(8 * (len(data) // 2), 400, replace=False):
        if 56 <= bit // 8 < 60:
            continue  # the precision, of which other whole numbers are as good
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            found = XtcReader(path).read(0)
        except FormatError:
            refused += 1
            continue
        assert (np.abs(found.positions - right) > 1e-6).any(axis=1).sum() <= 11
    assert refused > 20


@pytest.mark.parametrize(
    ("at", "word", "match"),
    [
        (0, 1994, "expected an .xtc frame at byte 0, found a foreign number 1994"),
        (4, 2**31 - 1, "expected a number of particles in the frame at byte 0"),
        (52, 299, "found 300 and 299"),
        (56, 0, "expected a precision"),
        (60, 2**31 - 1, "expected bounds of the coordinates"),
        (72, 0, "coordinate"),
        (84, 200, "expected steps of a size numbered 9 to 72, found 200"),
        (88, 2**31 - 1, "expected a stream of coordinates for 300 particles"),
        (88, -1, "found one of -1 bytes"),
        (88, 4, "found one of 4 bytes"),
    ],
)
def test_heads_of_xtc_frames_are_held_against_the_file(at, word, match, tmp_path):
    path = chain_xtc(tmp_path / "a.xtc")
    data = bytearray(path.read_bytes())
    data[at : at + 4] = struct.pack(">i", word)
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.xtc.*{match}"):
        read_positions(path, anonymous(300))


def test_xtc_with_64_bit_lengths(tmp_path):
    """The magic number 2023 of GROMACS 2023 and later, for very large systems."""
    data = chain_xtc(tmp_path / "a.xtc").read_bytes()
    new = b""
    while data:
        length = struct.unpack(">i", data[88:92])[0]
        end = 92 + length + -length % 4
        new += struct.pack(">i", 2023) + data[4:88] + struct.pack(">q", length) + data[92:end]
        data = data[end:]
    (tmp_path / "b.xtc").write_bytes(new)
    for k in range(2):
        a, b = (XtcReader(tmp_path / f"{x}.xtc").read(k) for x in "ab")
        assert np.array_equal(a.positions, b.positions)
        assert a.time == b.time == k


def test_xtc_beyond_its_table_is_refused(tmp_path):
    far = Structure(np.array([[0.0, 0.0, 3000.0]]), CUBE)
    with (
        pytest.raises(InputError, match=r"within 2796 nm, which is all that \.xtc holds"),
        open_writer(tmp_path / "a.xtc", anonymous(1)) as writer,
    ):
        writer.write(far)
    assert list(tmp_path.iterdir()) == []


def test_trr_in_double_precision_and_with_velocities(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 3))
    head = struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file"
    head += struct.pack(">13i", 0, 0, 72, 0, 0, 0, 0, 120, 120, 0, 5, 3, 0)
    head += struct.pack(">2d", 1.25, 0.0) + BOX.astype(">f8").tobytes()
    (tmp_path / "a.trr").write_bytes(head + x.astype(">f8").tobytes() * 2)
    with read_positions(tmp_path / "a.trr", anonymous(5)) as source:
        assert np.array_equal(source[0].positions, x)
        assert np.array_equal(source[0].box, BOX)
        assert source[0].time == 1.25


def test_damaged_heads_of_trr(tmp_path):
    path = tmp_path / "a.trr"
    with TRRFile(str(path), "w") as file:
        for k in range(2):
            file.write(np.zeros((7, 3), np.float32), None, None, BOX.astype(np.float32), k, k, 0, 7)
    data = path.read_bytes()
    for at in range(0, 76, 4):
        for word in (-1, 7, 2**31 - 1):
            changed = bytearray(data)
            changed[at : at + 4] = struct.pack(">i", word)
            path.write_bytes(changed)
            if at in (68, 72) or changed == data:
                continue  # step and number of energies, which nothing needs
            with pytest.raises(InputError, match=r"a\.trr.*: expected"):
                read_positions(path, anonymous(7))


def dcd(path, n=5, frames=3, **options):
    x = np.random.default_rng(0).normal(size=(frames, n, 3)).astype(np.float32)
    with DCDFile(str(path), "w") as file:
        file.write_header(remarks="x", natoms=n, istart=0, nsavc=1, delta=1.0, is_periodic=1)
        for k in range(frames):
            file.write(x[k], box=np.array([30.0, 90.0, 30.0, 90.0, 90.0, 30.0]))
    return path, x


def test_dcd_of_another_writer_and_of_another_byte_order(tmp_path):
    path, x = dcd(tmp_path / "a.dcd")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    swapped = data[: len(data) // 4 * 4].reshape(-1, 4)[:, ::-1].copy().reshape(-1)
    swapped[4:8] = data[4:8]
    at = 92 + 8 + struct.unpack("<i", data[92:96].tobytes())[0] + 12
    for k in range(3):  # doubles are swapped as one
        begin = at + k * (56 + 3 * 28) + 4
        swapped[begin : begin + 48] = data[begin : begin + 48].reshape(-1, 8)[:, ::-1].reshape(-1)
    (tmp_path / "b.dcd").write_bytes(swapped.tobytes())
    for name in "ab":
        with read_positions(tmp_path / f"{name}.dcd", anonymous(5)) as source:
            assert len(source) == 3
            for k in range(3):
                assert np.allclose(source[k].positions, x[k] * 0.1, atol=1e-6)
                assert np.allclose(source[k].box, CUBE, atol=1e-6)


def test_joined_and_damaged_dcd(tmp_path):
    path, _ = dcd(tmp_path / "a.dcd")
    data = path.read_bytes()
    (tmp_path / "two.dcd").write_bytes(data + data)
    with pytest.raises(InputError, match=r"two\.dcd.*(joined on|belongs to another file)"):
        read_positions(tmp_path / "two.dcd", anonymous(5))
    for at in (0, 4, 88, 92):
        changed = bytearray(data)
        changed[at] ^= 4
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"a\.dcd: expected"):
            read_positions(path, anonymous(5))


def test_dcd_with_fixed_particles(tmp_path):
    """Only the moving ones are in the frames after the first (CHARMM's and NAMD's fixed atoms)."""

    def record(data):
        return struct.pack("<i", len(data)) + data + struct.pack("<i", len(data))

    numbers = [0] * 20
    numbers[0], numbers[8], numbers[19] = 2, 1, 24
    text = record(b"CORD" + struct.pack("<20i", *numbers))
    text += record(struct.pack("<i", 1) + b" " * 80) + record(struct.pack("<i", 3))
    text += record(struct.pack("<2i", 1, 3))
    first, later = np.arange(9, dtype="<f4").reshape(3, 3), 10 + np.arange(6, dtype="<f4")
    for axes in (first, later.reshape(3, 2)):
        text += b"".join(record(axis.tobytes()) for axis in axes)
    (tmp_path / "a.dcd").write_bytes(text)
    from deepbackmap.io.formats.dcd import DcdReader

    reader = DcdReader(tmp_path / "a.dcd")
    assert reader.n_frames == 2
    assert np.allclose(reader.read(0).positions, 0.1 * first.T)
    expected = first.T.copy()
    expected[[0, 2]] = later.reshape(3, 2).T
    assert np.allclose(reader.read(1).positions, 0.1 * expected)
    assert not reader.read(1).box.any()


GRO = "{title}\n    2\n    1HEX     C1    1   0.200   0.300   0.400\n" \
      "{number:>5}HEX     C2    2   0.198   0.112   0.075\n   3.0 3.0 3.0\n"  # fmt: skip


@pytest.mark.parametrize(
    ("title", "time"),
    [("", 0.0), ("   ", 0.0), ("version t=1.0.5", 0.0), ("t=...", 0.0), ("t= 2026-11-27", 0.0),
     ("x t=  12.50000 step= 3", 12.5), ("t=5", 5.0), ("t=1e999", 0.0)],
)  # fmt: skip
def test_titles_of_gro_are_free(title, time, tmp_path):
    path = tmp_path / "a.gro"
    path.write_text(GRO.format(title=title, number=1))
    with read_frames(path) as source:
        assert source[0].time == time
        assert source[0].positions.tolist() == [[0.2, 0.3, 0.4], [0.198, 0.112, 0.075]]


def test_stars_for_residue_numbers(tmp_path):
    (tmp_path / "a.gro").write_text(GRO.format(title="x", number="*****"))
    with read_frames(tmp_path / "a.gro") as source:
        assert source.table.resids.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("old", "new"),
    [("   0.112   0.075", "  0.112   0.075"), ("   0.112   0.075", "   0.1120   0.075"),
     ("0.112", "0.1x2"), ("0.112", "nan  "), ("    2\n", "    2000000000\n"),
     ("    2\n", "   -2\n"),
     ("3.0 3.0 3.0", "3.0 3.0"), ("3.0 3.0 3.0", "1e12 1e12 1e12"), ("3.0 3.0 3.0", "3 3 1e-3")],
)  # fmt: skip
def test_damaged_rows_of_gro(old, new, tmp_path):
    text = GRO.format(title="x", number=1)
    assert old in text
    (tmp_path / "a.gro").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"a\.gro.*: expected"):
        read_frames(tmp_path / "a.gro")


def test_large_cells_of_gro_come_back(tmp_path):
    box = np.array([[1234.5, 0, 0], [-1000.25, 2000.125, 0], [500.5, -1000.75, 9999.5]])
    path = write(tmp_path / "a.gro", [Structure(np.ones((7, 3)), box)])
    with read_frames(path) as source:
        assert np.array_equal(source[0].box, box)


def test_long_names(tmp_path):
    def names(atom, residue):
        return ParticleTable((atom,), (residue,), np.array([1]))

    lone = [Structure(np.ones((1, 3)), CUBE)]
    for extension, cut in ((".gro", "HEXAN"), (".pdb", "HEXA")):
        with pytest.warns(Notice, match=f"HEXANE is written as {cut}"):
            path = write(tmp_path / f"a{extension}", lone, names("C1", "HEXANE"))
        with read_frames(path) as source:
            assert source.table.resnames == (cut,)
        with pytest.raises(InputError, match=r"atom names of at most . characters") as caught:
            write(tmp_path / f"b{extension}", lone, names("C" * 300, "HEX"))
        assert len(str(caught.value)) < 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "c.gro", lone, names("C1", "HEXAN"))


X = np.array([[2.0, 5.0, -7.0], [11.0, 12.5, 13.0], [-9.0, 0.0, 19.0]])
"""In Å, in a cube from -10 to 20."""


def dump(rows, columns="id type x y z", bounds="pp pp pp\n-10 20\n-10 20\n-10 20", front=""):
    body = "\n".join(rows)
    return (
        f"{front}ITEM: TIMESTEP\n100\nITEM: NUMBER OF ATOMS\n{len(rows)}\n"
        f"ITEM: BOX BOUNDS {bounds}\nITEM: ATOMS {columns}\n{body}\n"
    )


def rows_of(x, order=(2, 0, 1)):
    return [f"{k + 1} 1 {x[k, 0]:.9g} {x[k, 1]:.9g} {x[k, 2]:.9g}" for k in order]


DATA = (
    "by hand\n\n3 atoms\n1 atom types\n\n-10 20 xlo xhi\n-10 20 ylo yhi\n-10 20 zlo zhi\n\n"
    "Masses\n\n1 14\n\nAtoms # molecular\n\n{rows}\n\nVelocities\n\n1 0 0 0\n2 0 0 0\n3 0 0 0\n"
)


def data(rows=None):
    rows = rows or [f"{k + 1} 1 1 {a:g} {b:g} {c:g}" for k, (a, b, c) in enumerate(X)]
    return DATA.format(rows="\n".join(rows))


def first(path, text, **options):
    path.write_text(text)
    with reading_as(**options), read_frames(path) as source:
        return source[0]


def test_one_origin_for_dumps_scaled_dumps_and_data(tmp_path):
    scaled = (X + 10.0) / 30.0
    found = [
        first(tmp_path / "x.dump", dump(rows_of(X))),
        first(tmp_path / "xs.dump", dump(rows_of(scaled), "id type xs ys zs")),
        first(tmp_path / "xu.dump", dump(rows_of(X), "id type xu yu zu")),
        first(tmp_path / "a.data", data()),
    ]
    for structure in found:
        assert np.abs(structure.positions - 0.1 * X).max() < 1e-8
        assert np.allclose(structure.box, CUBE, atol=1e-12)
    assert found[0].time == 100.0


def test_skewed_and_general_cells_of_dumps(tmp_path):
    """Of both, the distances of all images are what the lattice vectors say."""
    a, b, c = np.array([[30.0, 0, 0], [6.0, 28.0, 0], [-4.0, 3.0, 25.0]])
    low, high = -4.0, 36.0  # of the box around: xlo + min(0, xy, xz, xy + xz), ...
    bounds = f"xy xz yz pp pp pp\n{low} {high} 6\n0 31 -4\n0 25 3"
    skewed = first(tmp_path / "a.dump", dump(rows_of(X), bounds=bounds))
    assert np.allclose(skewed.box, 0.1 * np.array([a, b, c]))
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    vectors = np.array([a, b, c]) @ turn
    lines = "\n".join(f"{v[0]:.12g} {v[1]:.12g} {v[2]:.12g} 0" for v in vectors)
    general = dump(rows_of(X @ turn), bounds=f"abc origin pp pp pp\n{lines}")
    found = first(tmp_path / "b.dump", general)
    assert np.allclose(found.box, skewed.box, atol=1e-7)
    assert np.allclose(found.positions, skewed.positions, atol=1e-7)


def test_left_handed_cells_are_refused():
    with pytest.raises(FormatError, match="right-handed"):
        lower_triangular(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("units", "nm", "ps"), [("real", 0.1, 0.001), ("metal", 0.1, 1.0), ("nano", 1.0, 1000.0)]
)
def test_units_and_times_of_dumps(units, nm, ps, tmp_path):
    front = f"ITEM: UNITS\n{units}\nITEM: TIME\n2.5\n"
    found = first(tmp_path / "a.dump", dump(rows_of(X), front=front))
    assert np.abs(found.positions - nm * X).max() < 1e-7
    assert found.time == pytest.approx(2.5 * ps)


def test_reduced_units_are_asked_for(tmp_path):
    text = dump(rows_of(X), front="ITEM: UNITS\nlj\n")
    with pytest.raises(InputError, match=r"a\.dump: expected units .* 'lj'.*--length-unit"):
        first(tmp_path / "a.dump", text)
    found = first(tmp_path / "a.dump", text, length_unit="0.05")
    assert np.abs(found.positions - 0.05 * X).max() < 1e-8
    assert np.allclose(first(tmp_path / "a.data", data(), length_unit="nm").box, np.diag([30] * 3))
    for wrong in ("-1", "0", "furlong", "nan"):
        with (
            pytest.raises(InputError, match="length unit: expected nm, A, or"),
            reading_as(length_unit=wrong),
        ):
            pass


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (dump([*rows_of(X)[:2], rows_of(X)[2] + " 0.5"]), "5 columns .* found 6 in row 3"),
        (dump([*rows_of(X)[:2], rows_of(X)[2][:-3]]), "5 columns .* found 4 in row 3"),
        (dump(rows_of(X)).replace("\n3\n", "\n4\n"), "4 rows of atoms"),
        (dump(rows_of(X)).replace("\n3\n", "\n2\n"), "begins with ITEM:"),
        (dump(rows_of(X)).replace("\n3\n", "\n1e9\n"), "a whole number as NUMBER OF ATOMS"),
        (dump(rows_of(X)).replace("\n3\n", "\n10000000000\n"), "that a file of"),
        (dump(rows_of(X, (2, 0, 0))), "each atom once, found atom 1 twice"),
        (dump(rows_of(X), "id type a b c"), "columns id and x y z"),
        (dump(rows_of(X), bounds="pp pp pp\n-10 20\n-10\n-10 20"), "2 numbers as BOX BOUNDS"),
        (dump(rows_of(X)) + "ITEM: TIMESTEP\n", "a whole number as TIMESTEP of frame 1"),
    ],
)  # fmt: skip
def test_damaged_dumps(text, match, tmp_path):
    with pytest.raises(InputError, match=rf"a\.dump.*: expected .*{match}"):
        first(tmp_path / "a.dump", text)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (["1 1 1 0 0 0", "2 1 1 1 1", "3 1 1 2 2 2"], "6 columns .* found 5 in row 2"),
        (["1 1 1 0 0 0", "2 1 1 1 1 1 1", "3 1 1 2 2 2"], "found 7 in row 2"),
        (["1 1 1 0 0 0", "2 1 1 1 1 1"], "3 atoms as its header says, found 2"),
        (["1 1 1 0 0 0", "1 1 1 1 1 1", "3 1 1 2 2 2"], "each atom once"),
        (["1 1 1 0 0 x", "2 1 1 1 1 1", "3 1 1 2 2 2"], "numbers in column z"),
        (["1 1 0 0 0", "2 1 1 1 1", "3 1 2 2 2"], "style molecular with 5 columns"),
    ],
)
def test_damaged_data_files(rows, match, tmp_path):
    with pytest.raises(InputError, match=rf"a\.data: expected .*{match}"):
        first(tmp_path / "a.data", data(rows))


def test_data_with_image_flags_and_style_by_width(tmp_path):
    rows = [f"{k + 1} 1 1 {a:g} {b:g} {c:g} 0 0 0" for k, (a, b, c) in enumerate(X)]
    assert np.allclose(first(tmp_path / "a.data", data(rows)).positions, 0.1 * X)
    rows = [f"{k + 1} 1 0.25 {a:g} {b:g} {c:g}" for k, (a, b, c) in enumerate(X)]
    plain = data(rows).replace(" # molecular", "")  # charge, told by its point
    assert np.allclose(first(tmp_path / "b.data", plain).positions, 0.1 * X)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("data.hexane", "data"), ("dump.1000", "dump"), ("x.dump.5", "dump"), ("a.lmp", "data"),
     ("t.lammpstrj.gz", "dump"), ("A.XTC", "xtc"), ("a.gro.gz", "gro"), ("a.txt", None),
     ("dump", None), ("data", None), ("dump.xtc", "xtc")],
)  # fmt: skip
def test_formats_by_name(name, kind, tmp_path):
    assert format_of(tmp_path / name) == kind


def test_names_of_lammps_gzip_and_format(tmp_path):
    text = dump(rows_of(X))
    for name in ("dump.1000", "run.lmp", "polymer.dump.7"):
        assert np.allclose(first(tmp_path / name, text).positions, 0.1 * X)
    assert np.allclose(first(tmp_path / "data.hexane", data()).positions, 0.1 * X)
    assert np.allclose(first(tmp_path / "a.out", text, format="dump").positions, 0.1 * X)
    with pytest.raises(InputError, match=r"a\.out: expected a file ending in .*--format"):
        first(tmp_path / "a.out", text)
    with pytest.raises(InputError, match="format: expected one of"), reading_as(format="pdbx"):
        pass
    packed = gzip.compress(text.encode())
    for name, content in (("a.dump.gz", packed), ("b.dump", packed)):
        (tmp_path / name).write_bytes(content)
        with read_frames(tmp_path / name) as source:
            assert np.allclose(source[0].positions, 0.1 * X)
    for k, content in enumerate((packed[:-20], packed[:30] + b"x" + packed[31:])):
        (tmp_path / f"{k}.dump.gz").write_bytes(content)
        with pytest.raises(InputError, match="expected a whole packed file"):
            read_frames(tmp_path / f"{k}.dump.gz")
    write(tmp_path / "t.xtc", [frame()])
    (tmp_path / "t.xtc.gz").write_bytes(gzip.compress((tmp_path / "t.xtc").read_bytes()))
    with read_positions(tmp_path / "t.xtc.gz", table()) as source:
        assert np.abs(source[0].positions - frame().positions).max() < 5.1e-4


CRYST = "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1 \n"


def atoms(shift=0.0, resid="   1"):
    return "".join(
        f"HETATM{k + 1:5d}  C{k + 1}  HEX A{resid}    "
        f"{shift + x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00\n"
        for k, (x, y, z) in enumerate(X)
    )


def test_pdb_of_openmm_vmd_and_others(tmp_path):
    def models(*shifts):
        return "".join(f"MODEL     {k:4d}\n{atoms(s)}TER\nENDMDL\n" for k, s in enumerate(shifts))

    texts = {
        "openmm": f"REMARK   1 x\n{CRYST}{models(0, 1)}CONECT    1    2\nEND\n",
        "vmd": f"{CRYST}{atoms(0)}END\n{atoms(1)}END\n",
        "gromacs": f"TITLE t= 1\n{CRYST}MODEL 1\n{atoms(0)}TER\nENDMDL\n\n{CRYST}MODEL 2\n"
        f"{atoms(1)}ENDMDL\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.pdb"
        path.write_text(text)
        with read_frames(path) as source:
            assert len(source) == 2, name
            for k in range(2):
                assert np.allclose(source[k].positions, 0.1 * (X + np.array([k, 0, 0])), atol=1e-9)
                assert np.allclose(source[k].box, CUBE)
            assert source.table.names == ("C1", "C2", "C3")
            assert source.table.resnames == ("HEX A",) or source.table.resids.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CRYST + atoms() + "END\n" + atoms()[:80] + "END\n", "frame 1: expected 3 atoms as in"),
        (CRYST + "MODEL 1\n" + atoms(), "an ENDMDL behind frame 0"),
        (CRYST + atoms().replace("   2.000", "  2.000"), "columns 31 to 54 of atom 1"),
        (CRYST + atoms().replace("   2.000", "    2.000"), "columns 31 to 54 of atom 1"),
        (CRYST + atoms().replace("  12.500", "  1x.500"), "columns 31 to 54 of atom 2"),
        (CRYST.replace("90.00", "99.99", 1).replace("90.00", " 0.00", 1) + atoms(), "a cell that"),
        (CRYST.replace("30.000", "3o.000", 1) + atoms(), "three lengths and three angles"),
        (CRYST.replace("30.000", " 1.000") + atoms(), "a periodic box, found none"),
        (CRYST, "at least one ATOM"),
    ],
)  # fmt: skip
def test_damaged_pdb(text, match, tmp_path):
    (tmp_path / "a.pdb").write_text(text)
    with (
        pytest.raises(InputError, match=rf"a\.pdb.*{match}"),
        read_frames(tmp_path / "a.pdb") as source,
    ):
        list(source)


def test_residue_numbers_of_pdb_that_outgrew_their_columns(tmp_path):
    text = CRYST + "".join(
        atoms(resid=r).splitlines(True)[k] for k, r in enumerate(["9999", "A000", "A001"])
    )
    (tmp_path / "a.pdb").write_text(text)
    with read_frames(tmp_path / "a.pdb") as source:
        assert source.table.resids.tolist() == [9999, 10000, 10001]


@pytest.mark.parametrize("alias", ["itself", "symlink", "hard link", "names"])
def test_what_is_read_is_not_written(alias, tmp_path):
    path = write(tmp_path / "a.gro", [frame()])
    trajectory = write(tmp_path / "t.xtc", [frame()])
    target = tmp_path / "b.gro"
    if alias == "symlink":
        target.symlink_to(path)
    elif alias == "hard link":
        target.hardlink_to(path)
    else:
        target = path
    kept = path.read_bytes()
    with (
        read_frames(path, trajectory if alias == "names" else None),
        pytest.raises(InputError, match="expected an output that is none of the inputs"),
    ):
        open_writer(target, table(), force=True)
    assert path.read_bytes() == kept
    write(target, [frame()], force=True)  # and once it is closed it is


def test_pdbx_of_openmm(tmp_path):
    app = pytest.importorskip("openmm.app")
    from openmm import Vec3, unit

    topology = app.Topology()
    chain = topology.addChain()
    for k in range(2):
        residue = topology.addResidue("HEXANE", chain, str(100_000 + k))
        for name in ("C1", "O5'", 'H"'):
            topology.addAtom(name, app.Element.getBySymbol("C"), residue)
    box = np.array([[3.0, 0, 0], [0.5, 2.5, 0], [-0.25, 0.75, 2.0]])
    topology.setPeriodicBoxVectors([Vec3(*v) for v in box] * unit.nanometer)
    frames = np.random.default_rng(0).uniform(-1, 3, (2, 6, 3))
    path = tmp_path / "a.cif"
    with path.open("w") as file:
        app.PDBxFile.writeHeader(topology, file, keepIds=True)
        for k, x in enumerate(frames):
            app.PDBxFile.writeModel(topology, x * unit.nanometer, file, k + 1, keepIds=True)
    with read_frames(path) as source:
        assert len(source) == 2
        for k in range(2):
            assert np.abs(source[k].positions - frames[k]).max() < 5.1e-5
            assert np.abs(source[k].box - box).max() < 2e-4
        assert source.table.names == ("C1", "O5'", 'H"') * 2
        assert set(source.table.resnames) == {"HEXANE"}
        assert source.table.resids.tolist() == [100_000] * 3 + [100_001] * 3
    lines = path.read_text().splitlines()
    row = next(k for k, line in enumerate(lines) if line.startswith(("ATOM", "HETATM")))
    for changed in (
        [*lines[:row], lines[row] + " 1", *lines[row + 1 :]],
        [*lines[:row], *lines[row + 1 :]],
        [*lines[:row], lines[row].rpartition(" ")[0], *lines[row + 1 :]],
        lines[1:],
        [line for line in lines if "Cartn_x" not in line],
        [*lines[:row], lines[row + 1], lines[row], *lines[row + 2 :]],
    ):
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(InputError, match=r"a\.cif: expected"):
            read_frames(path)
