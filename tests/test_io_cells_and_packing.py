"""Lone molecules without a cell, packed files, formats of MDAnalysis, and what outputs hold."""

import bz2
import gzip
import lzma
import shutil
from dataclasses import replace

import MDAnalysis as mda
import numpy as np
import pytest

from cli_systems import command, refused
from deepbackmap.errors import InputError
from deepbackmap.io.tables import ParticleTable, atom_table
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import open_writer, read_frames, reading_as
from deepbackmap.system import Structure
from sited_systems import CHAIN, HEAD, OTHER

TRICLINIC = np.array([[3.0, 0.0, 0.0], [0.4, 2.9, 0.0], [-0.7, 0.5, 3.1]])
BUTANE = OTHER.split("5 V 1")[0] + "[ bonds ]" + OTHER.split("[ bonds ]")[1].split("[ virtual")[0]
MAPPING = """residues:
  MOL:
    beads:
      - {name: A, type: A, atoms: [C1, C2]}
      - {name: B, type: B, atoms: [C3, C4]}
"""


@pytest.fixture
def lone(tmp_path, monkeypatch):
    """One molecule and its mapping; coordinates without a cell."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.top").write_text(f"{HEAD}{BUTANE}[ system ]\none\n[ molecules ]\nMOL 1\n")
    (tmp_path / "two.top").write_text(f"{HEAD}{BUTANE}[ system ]\ntwo\n[ molecules ]\nMOL 2\n")
    (tmp_path / "map.yaml").write_text(MAPPING)
    table = atom_table(read_topology("one.top"))
    with open_writer("aa.gro", table, without_cell=True) as writer:
        writer.write(Structure(CHAIN - 0.2, np.eye(3) * 9))
    return tmp_path


def last_line(path):
    return [float(w) for w in path.read_text().splitlines()[-1].split()]


@pytest.mark.parametrize("suffix", [".gro", ".pdb", ".cif"])
def test_a_lone_molecule_needs_no_cell(lone, suffix):
    assert last_line(lone / "aa.gro") == [0.0, 0.0, 0.0]
    done = command("map", "aa.gro", "-p", "one.top", "--mapping", "map.yaml", "-o", f"cg{suffix}")
    assert done.code == 0, done
    with read_frames(f"cg{suffix}", lone=True) as source:
        frame = source[0]
        assert source.without_cell
    weights = np.array([15.035, 14.027])
    assert frame.positions[0] == pytest.approx(
        weights @ (CHAIN[:2] - 0.2) / weights.sum(), abs=1.1e-3
    )
    done = command("backmap", f"cg{suffix}", "-p", "one.top", "--mapping", "map.yaml", "--model",
                   "none", "--temperature", 300, "-o", "out.gro", "--option",
                   "conformations=600", "--option", "pieces=200")  # fmt: skip
    assert done.code == 0, done
    assert last_line(lone / "out.gro") == [0.0, 0.0, 0.0]
    done = command("finish", "out.gro", "-p", "one.top", "--temperature", 300, "--steps", 10,
                   "-o", "done.gro", "--engine", "internal")  # fmt: skip
    assert done.code == 0, done
    assert last_line(lone / "done.gro") == [0.0, 0.0, 0.0]
    assert command("check", "-p", "one.top", "--mapping", "map.yaml", "--beads", f"cg{suffix}",
                   "--model", "none", "--temperature", 300).code == 0  # fmt: skip


def test_several_molecules_need_one_and_the_message_says_how(lone):
    table = atom_table(read_topology("two.top"))
    with open_writer("two.gro", table, without_cell=True) as writer:
        writer.write(Structure(np.concatenate([CHAIN, CHAIN + 1.0]), np.eye(3) * 9))
    said = refused("map", "two.gro", "-p", "two.top", "--mapping", "map.yaml", "-o", "x.gro")
    assert "expected a periodic box, found none (all zeros); one molecule alone can do" in said
    assert "gmx editconf -box" in said


def test_nothing_sees_its_image_in_the_cell_of_a_lone_molecule(lone):
    with read_frames("aa.gro", lone=True) as source:
        frame = source[0]
    assert np.diag(frame.box).min() - np.ptp(frame.positions, axis=0).max() >= 4.0


@pytest.mark.parametrize("end, pack", [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_packed_files(lone, end, pack):
    plain = (lone / "aa.gro").read_bytes()
    (lone / f"aa.gro.{end}").write_bytes(pack.compress(plain))
    with read_frames(f"aa.gro.{end}", lone=True) as source, read_frames("aa.gro", lone=True) as own:
        assert (source[0].positions == own[0].positions).all()
    (lone / f"cut.gro.{end}").write_bytes(pack.compress(plain)[:-9])
    with pytest.raises(InputError, match="a whole packed file"):
        read_frames(f"cut.gro.{end}")


def random_system(n, names=None, resnames=None, resids=None):
    rng = np.random.default_rng(2)
    table = ParticleTable(
        names or tuple(f"C{k % 90}" for k in range(n)),
        resnames or ("MOL",) * n,
        np.arange(1, n + 1) if resids is None else resids,
        types=("A", "B") * (n // 2),
        masses=np.full(n, 12.011), charges=np.zeros(n), molecules=np.arange(1, n + 1),
        elements=("C", "Cl") * (n // 2), bonds=np.array([[0, 1], [1, 2], [0, 4]]),
    )  # fmt: skip
    return table, Structure(rng.random((n, 3)) @ TRICLINIC, TRICLINIC)


KEPT = {".gro": (5.1e-4, 1e-5), ".pdb": (5.1e-5, 1.2e-3), ".cif": (6e-6, 1e-6),
        ".data": (6e-7, 1e-8), ".lammpstrj": (6e-7, 1e-8), ".gsd": (1e-6, 1e-6),
        ".trr": (1e-6, 1e-6), ".dcd": (1e-6, 1e-8)}  # fmt: skip
"""How exactly positions and cells come back, nm."""


@pytest.mark.parametrize("box", [TRICLINIC, np.diag([3.0, 2.9, 3.1])], ids=["skew", "straight"])
@pytest.mark.parametrize("suffix", KEPT)
def test_there_and_back(tmp_path, suffix, box):
    table, structure = random_system(10)
    structure = replace(structure, box=box)
    with open_writer(tmp_path / f"x{suffix}", table) as writer:
        writer.write(structure)
    with open_writer(tmp_path / "names.gro", table) as writer:
        writer.write(structure)
    names = tmp_path / ("names.gro" if suffix in (".trr", ".dcd") else f"x{suffix}")
    with read_frames(names, tmp_path / f"x{suffix}") as source:
        found, again = source[0], source.table
    apart = (found.positions - structure.positions) @ np.linalg.inv(box)
    apart = (apart - np.rint(apart)) @ box
    assert np.abs(apart).max() <= KEPT[suffix][0]
    assert np.abs(found.box - box).max() <= KEPT[suffix][1]
    if again.named:
        assert again.names == table.names and again.resnames == table.resnames
        assert (again.resids == table.resids).all()


@pytest.mark.parametrize("suffix", [".gro", ".pdb", ".cif"])
def test_more_than_100000_residues(tmp_path, suffix):
    table, structure = random_system(100_002)
    with open_writer(tmp_path / f"x{suffix}", table) as writer:
        writer.write(structure)
    with read_frames(tmp_path / f"x{suffix}") as source:
        again = source.table
        assert source[0].n == 100_002
    assert again.names == table.names
    wrap = {".gro": 100_000, ".pdb": 10_000, ".cif": 10**9}[suffix]
    assert (again.resids == table.resids % wrap).all()
    if suffix == ".pdb":
        assert "CONECT" not in (tmp_path / "x.pdb").read_text()


@pytest.mark.parametrize("suffix", [".gro", ".pdb"])
def test_long_names_are_refused_where_columns_end(tmp_path, suffix):
    table, _ = random_system(10, names=("LONGNAME",) * 10)
    with (
        pytest.raises(InputError, match="atom names of at most"),
        open_writer(tmp_path / f"x{suffix}", table),
    ):
        pass


def test_names_of_any_kind_in_mmcif(tmp_path):
    names = ("LONGNAME", "O5'", "H5''", 'C"', "_X", "#1", ".", "?", "loop_x", "a'b")
    table, structure = random_system(10, names=names, resnames=("RESIDUE8",) * 10)
    with open_writer(tmp_path / "x.cif", table) as writer:
        writer.write(structure)
        writer.write(replace(structure, positions=structure.positions + 0.01))
        with pytest.raises(InputError, match="one cell for all frames"):
            writer.write(replace(structure, box=1.01 * TRICLINIC))
    with read_frames(tmp_path / "x.cif") as source:
        assert source.table.names == names and source.table.resnames == table.resnames
        assert len(source) == 2
        assert source[1].positions - source[0].positions == pytest.approx(0.01, abs=1e-5)


def test_openmm_reads_the_mmcif_that_is_written(tmp_path):
    app = pytest.importorskip("openmm.app")
    table, structure = random_system(10)
    with open_writer(tmp_path / "x.cif", table) as writer:
        writer.write(structure)
    read = app.PDBxFile(str(tmp_path / "x.cif"))
    assert [a.name for a in read.topology.atoms()] == list(table.names)
    assert [a.element.symbol for a in read.topology.atoms()] == list(table.elements)
    assert read.topology.getNumChains() == 10
    positions = np.array(read.getPositions(asNumpy=True)._value)
    assert np.abs(positions - structure.positions).max() < 1e-5
    box = np.array(read.topology.getPeriodicBoxVectors()._value)
    assert np.abs(box - TRICLINIC).max() < 1e-5


def bonded_table(names, resids, bonds, molecules=None):
    n = len(names)
    return ParticleTable(
        names=tuple(names),
        resnames=("MOL",) * n,
        resids=np.array(resids),
        molecules=np.array(molecules or [1] * n),
        bonds=np.array(bonds),
    )


def bonds_by_openmm(path, table):
    app = pytest.importorskip("openmm.app")
    with open_writer(path, table) as writer:
        writer.write(Structure(np.random.default_rng(1).random((table.n, 3)), np.eye(3) * 3.0))
    with read_frames(path) as source:
        assert source.table.names == table.names and len(source) == 1
    topology = app.PDBxFile(str(path)).topology
    return sorted(tuple(sorted((b[0].index, b[1].index))) for b in topology.bonds())


ALONG = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_openmm_reads_the_bonds_of_mmcif(tmp_path):
    """Two residues that are bonded, in two molecules; the second residue lacks a bond."""
    names, resids = ["A", "B'", "C"] * 4, [1] * 3 + [2] * 3 + [1] * 3 + [2] * 3
    bonds = [(0, 1), (1, 2), (2, 3), (3, 4), (6, 7), (7, 8), (8, 9), (9, 10), (10, 11)]
    table = bonded_table(names, resids, bonds, [1] * 6 + [2] * 6)
    assert bonds_by_openmm(tmp_path / "x.cif", table) == bonds
    text = (tmp_path / "x.cif").read_text()
    assert "MOL A B' sing" in text  # all four residues have this one, and three of them B'-C
    assert text.count("covale") == 2 + 3 + 2 + 3


def test_bonds_of_atoms_that_names_do_not_tell_apart_are_left_out(tmp_path):
    assert bonds_by_openmm(tmp_path / "x.cif", bonded_table("ABCDEF", [1] * 6, ALONG)) == ALONG
    assert bonds_by_openmm(tmp_path / "y.cif", bonded_table("ABCABC", [1] * 6, ALONG)) == []
    numbered = bonded_table("ABCABC", [1] * 3 + [2] * 3, ALONG)
    assert bonds_by_openmm(tmp_path / "z.cif", numbered) == ALONG


def test_pdb_has_elements_and_bonds(tmp_path):
    table, structure = random_system(10)
    with open_writer(tmp_path / "x.pdb", table) as writer:
        writer.write(structure)
    found = mda.Universe(str(tmp_path / "x.pdb"))
    assert found.atoms.elements.tolist() == list(table.elements)
    assert sorted(map(tuple, found.bonds.to_indices().tolist())) == [(0, 1), (0, 4), (1, 2)]


def test_gsd_has_bonds_in_every_frame(tmp_path):
    hoomd = pytest.importorskip("gsd.hoomd")
    table, structure = random_system(10)
    with open_writer(tmp_path / "x.gsd", table) as writer:
        writer.write(structure)
        writer.write(structure)
    with hoomd.open(str(tmp_path / "x.gsd")) as file:
        for frame in file:
            assert frame.bonds.group.tolist() == table.bonds.tolist()
            assert [frame.bonds.types[k] for k in frame.bonds.typeid] == ["A-B", "A-B", "A-A"]


def test_frames_and_names_through_mdanalysis(lone):
    """A NetCDF trajectory with a psf beside it, both of other programs' making."""
    universe = mda.Universe("aa.gro")
    universe.dimensions = [30, 31, 32, 90, 90, 90]
    with mda.Writer("t.nc", n_atoms=4) as writer:
        writer.write(universe.atoms)
        universe.atoms.positions += 1.0
        writer.write(universe.atoms)
    rows = "".join(
        f"{k + 1:8d} A    1    MOL  {name:<4s} C    0.000000       14.0270           0\n"
        for k, name in enumerate(("C1", "C2", "C3", "C4"))
    )
    (lone / "n.psf").write_text(
        f"PSF\n\n       1 !NTITLE\n REMARKS made by a test\n\n       4 !NATOM\n{rows}\n"
        "       0 !NBOND: bonds\n\n"
    )
    with read_frames("n.psf", "t.nc") as source:
        assert source.table.names == ("C1", "C2", "C3", "C4") and len(source) == 2
        assert source[0].positions == pytest.approx(CHAIN - 0.2, abs=1e-3)
        assert source[1].positions - source[0].positions == pytest.approx(0.1, abs=1e-5)
        assert np.diag(source[0].box) == pytest.approx([3.0, 3.1, 3.2], abs=1e-5)
    done = command("map", "n.psf", "t.nc", "-p", "one.top", "--mapping", "map.yaml", "-o", "b.xtc")
    assert done.code == 0, done
    assert "found names only; give the file of the frames" in refused(
        "map", "n.psf", "-p", "one.top", "--mapping", "map.yaml", "-o", "c.xtc"
    )
    shutil.copy("t.nc", "unnamed")
    with reading_as("nc"), read_frames("n.psf", "unnamed") as source:
        assert len(source) == 2
    (lone / "bad.psf").write_text((lone / "n.psf").read_text()[:150])
    assert "a file that MDAnalysis can read" in refused(
        "map", "bad.psf", "t.nc", "-p", "one.top", "--mapping", "map.yaml", "-o", "d.xtc"
    )


def moving():
    """Frames of the chain in a skewed cell that grows, with times."""
    return [Structure(CHAIN + 0.3 + 0.1 * k, TRICLINIC * (1.0 + 0.01 * k), 2.0 * k)
            for k in range(3)]  # fmt: skip


def same_frames(path, frames):
    with read_frames("aa.gro", path) as source:
        assert len(source) == len(frames)
        for found, expected in zip(source, frames, strict=True):
            assert np.abs(found.positions - expected.positions).max() < 6e-4
            assert np.abs(found.box - expected.box).max() < 2e-5
            assert found.time == pytest.approx(expected.time)


def test_h5md_of_mdanalysis(lone):
    pytest.importorskip("h5py", reason="h5py is absent")
    frames = moving()
    universe = mda.Universe("aa.gro")
    units = {"lengthunit": "angstrom", "timeunit": "ps"}
    with (
        mda.Writer("t.h5md", n_atoms=4, **units) as writer,
        mda.Writer("bare.h5md", n_atoms=4) as bare,
    ):
        for frame in frames:
            universe.atoms.positions = frame.positions * 10.0
            universe.dimensions = mda.lib.mdamath.triclinic_box(*(frame.box * 10.0))
            universe.trajectory.ts.data["step"] = 0
            universe.trajectory.ts.time = frame.time
            writer.write(universe.atoms)
            bare.write(universe.atoms)
    same_frames("t.h5md", frames)
    done = command(
        "map", "aa.gro", "t.h5md", "-p", "one.top", "--mapping", "map.yaml", "-o", "b.xtc"
    )
    assert done.code == 0, done
    assert "expected an H5MD file that says its units (attributes 'unit'), found none" in refused(
        "map", "aa.gro", "bare.h5md", "-p", "one.top", "--mapping", "map.yaml", "-o", "c.xtc"
    )


@pytest.mark.skipif(shutil.which("gmx") is None, reason="GROMACS is absent")
def test_tng_of_gromacs(lone):
    import subprocess

    pytest.importorskip("pytng", reason="pytng is absent")
    with read_frames("aa.gro", lone=True) as source:
        frames, table = moving(), source.table
    with open_writer("t.trr", table) as writer:
        for frame in frames:
            writer.write(frame)
    made = ["gmx", "trjconv", "-f", "t.trr", "-s", "aa.gro", "-o", "t.tng"]
    subprocess.run(made, check=True, capture_output=True, input=b"0\n")
    same_frames("t.tng", frames)
    done = command(
        "map", "aa.gro", "t.tng", "-p", "one.top", "--mapping", "map.yaml", "-o", "b.xtc"
    )
    assert done.code == 0, done


@pytest.mark.skipif(shutil.which("gmx") is None, reason="GROMACS is absent")
def test_names_of_a_run_input(lone):
    import subprocess

    (lone / "run.mdp").write_text("integrator = md\ncutoff-scheme = verlet\n")
    with read_frames("aa.gro", lone=True) as source:
        frame, table = source[0], source.table
    with open_writer("boxed.gro", table) as writer:
        writer.write(frame)
    subprocess.run(
        ["gmx", "grompp", "-f", "run.mdp", "-c", "boxed.gro", "-p", "one.top", "-o", "t.tpr",
         "-maxwarn", "9"], check=True, capture_output=True,
    )  # fmt: skip
    with read_frames("t.tpr", "boxed.gro") as source:
        assert source.table.names == ("C1", "C2", "C3", "C4")
        assert set(source.table.resnames) == {"MOL"}
    done = command("map", "t.tpr", "boxed.gro", "-p", "one.top", "--mapping", "map.yaml", "-o",
                   "b.gro")  # fmt: skip
    assert done.code == 0, done
