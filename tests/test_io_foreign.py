"""Files of other kinds are named, with the way in."""

import bz2
import gzip
import lzma

import pytest

from deepbackmap.errors import InputError
from deepbackmap.io.topology import FORMATS, read_topology
from deepbackmap.io.topology.foreign import FOREIGN
from deepbackmap.io.trajectory import read_frames

TEXTS = {
    "a PDB structure": "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00\nATOM      1  C\n",
    "a .gro structure": "title\n    1\n    1MOL     C1    1   0.100   0.200   0.300\n 1 1 1\n",
    "an mmCIF structure": "data_x\nloop_\n_atom_site.id\n",
    "a Tripos mol2 file": "@<TRIPOS>MOLECULE\nx\n",
    "a molecule without force field": "x\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n",
    "a force field of OpenMM": "<ForceField>\n <AtomTypes/>\n</ForceField>\n",
    "a state of OpenMM": '<?xml version="1.0" ?>\n<State openmmVersion="8" type="State">\n',
    "residues or parameters of CHARMM": "* top\n*\n36 1\nMASS  -1 H 1.008\n",
    "coordinates of Amber": "x\n    2\n" + "".join(f"{v:12.7f}" for v in range(6)) + "\n",
    "a topology of GROMOS": "TITLE\nx\nEND\nPHYSICALCONSTANTS\n",
    "a GROMOS structure": "TITLE\nx\nEND\nPOSITION\n    1 MOL   C1  1  0.1 0.1 0.1\nEND\n",
    "parameters or residues of Amber": "remark\nMASS\nc3 12.01\n\nBOND\n",
    "a system of moltemplate": 'import "oplsaa.lt"\nMol {\n  write("Data Atoms") {\n',
    "a restart file of LAMMPS": "LammpS RestartT\n",
    "a FIELD file of DL_POLY": "x\nUNITS kcal\nMOLECULES 1\nwater\nNUMMOLS 10\n",
    "parameters of a run": "; run\nintegrator = md\n",
    "a mapping": "weights: mass\nresidues:\n  A: {}\n",
    "a trajectory": "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n",
    "an Interchange of OpenFF": '{"collections": {}}\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_each_kind_is_named_with_the_way_in(tmp_path, name):
    path = tmp_path / "file.xyzzy"
    path.write_text(TEXTS[name])
    with pytest.raises(InputError, match="expected a topology that can be read") as error:
        read_topology(path)
    said = str(error.value)
    assert f"found {name}" in said
    known = next(f for f in FOREIGN if f.name.startswith(name))
    assert said.endswith(known.advice) and len(known.advice) > 20


def test_all_kinds_are_tried():
    assert len(TEXTS) == len(FOREIGN)


def test_no_topology_is_taken_for_one_of_them(tmp_path):
    """What readers know comes first."""
    first = next(k for k, f in enumerate(FORMATS) if f in FOREIGN)
    assert all(f in FOREIGN for f in FORMATS[first:])


WAYS = {
    ".cpt": "trjconv",
    ".restart": "-restart2data",
    ".top": "give it with -p",
    ".h5": "mdconvert",
}


@pytest.mark.parametrize("suffix, word", WAYS.items())
def test_coordinates_of_other_kinds(tmp_path, suffix, word):
    (tmp_path / f"x{suffix}").write_text("x")
    with pytest.raises(InputError, match=word):
        read_frames(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
def test_packed_topologies_are_to_be_unpacked(tmp_path, packer):
    """Whatever comes out of the packing, it is not taken for lines of a topology."""
    path = tmp_path / "topol.top"
    path.write_bytes(packer.compress(("[ defaults ]\n1 2 yes\n" * 400).encode()))
    with pytest.raises(InputError, match=r"found a packed file: unpack it first \(gunzip"):
        read_topology(path)
