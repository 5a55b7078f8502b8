"""A small melt in every format that is read, and all else that the verbs are given."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import deepbackmap
from cli_systems import command, write_model, write_system
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.formats.base import lengths_and_cosines
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.model.file import save_model
from test_io_lammps import data_text

ATOMS = ("gro", "pdb", "xtc", "trr", "dcd", "data", "lammpstrj", "gsd")
"""Coordinates that are also written."""
FOREIGN = ("peptide.prmtop", "peptide.psf", "peptide.prm", "peptide.rtf")
CONFIG = """preset: tiny
data:
  topology: topol.top
  mapping: map.yaml
  structure: aa.gro
  trajectory: aa.xtc
  train: "0:2"
  validate: "2:3"
  temperature: 500
training: {iterations: 1}
"""
POINTS_CONFIG = """method: points
data: {topology: topol.top, mapping: map.yaml, structure: aa.gro, trajectory: aa.xtc, train: "0:2",
       validate: "2:3", temperature: 500, dynamics: ""}
points: {cutoff: 0.4, radial: 5, chain: 2, depth: 3}
network: {width: 16, blocks: 1, channels: 2, times: 2}
training: {iterations: 1, batch: 4, frames: 1}
"""
STEREO = """stereo:
  - pattern: syndiotactic
    first: "-"
  - {molecules: PS*, numbers: [1, 2-3], pattern: atactic, seed: 4, meso: 0.55}
  - {molecules: PS*, numbers: 3, pattern: m}
"""
CGSMILES = "{[#A]([#B])[#A]([#B])[#A]([#B])}.{#A=[>]C([$])C[<],#B=[$]c1ccccc1}\n"


def write_whole(folder: Path) -> None:
    """All files that the commands of ``fuzz_doors`` read."""
    folder.mkdir(parents=True)
    write_system(folder)
    topology = read_topology(folder / "topol.top")
    mapping = load_mapping("ps-two-bead")
    system = mapping.resolve(topology)
    _write_coordinates(folder, topology, system)
    _write_models(folder)
    _write_mappings(folder, mapping.to_text(), system)
    (folder / "train.yaml").write_text(CONFIG)
    (folder / "points.yaml").write_text(POINTS_CONFIG)
    names = [name for m in system.molecules for name in m.bead_types]
    (folder / "labels.txt").write_text("\n".join(f"{n}{'ud'[k % 4 // 2]}" for k, n in
                                                 enumerate(names * 3)) + "\n")  # fmt: skip
    packaged = Path(deepbackmap.__file__).parent / "packaged" / "templates"
    shutil.copy(packaged / "ps-two-bead.npz", folder / "templates.npz")
    presets = Path(deepbackmap.__file__).parent / "presets" / "modifiers"
    shutil.copy(presets / "polystyrene.modifiers", folder / "ps.modifiers")
    (folder / "molecules.data").write_text(data_text())
    (folder / "system.xml").write_text(_openmm())
    rows = (
        f"ATOM  {k:5d} {name:>3s}  WAT A{1 + (k > 3):4d}    {k:8.3f}   0.000   0.000"
        for k, name in enumerate(("O", "H1", "H2") * 2, 1)
    )
    (folder / "system.pdb").write_text("\n".join(rows) + "\nEND\n")
    for file in FOREIGN:
        shutil.copy(Path(__file__).parent / "data" / "foreign" / file, folder / file)
    _compile(folder)


def _compile(folder: Path) -> None:
    """Runs what compiles when it runs for the first time, which would count as a hang later."""
    done = command("backmap", folder / "cg.gro", "-p", folder / "topol.top", "--model",
                   folder / "points.safetensors", "--relaxation", 1, "--keep-defects",
                   "-o", folder / "compiled.gro", "-q")  # fmt: skip
    assert done.code == 0, done
    for name in ("compiled.gro", "compiled.gro.json"):
        (folder / name).unlink()


def _write_coordinates(folder: Path, topology: Any, system: Any) -> None:
    shutil.copy(folder / "aa.xtc", folder / "good.xtc")
    shutil.copy(folder / "aa.gro", folder / "good.gro")
    for name, table in (("aa", atom_table(topology)), ("cg", bead_table(system))):
        with read_frames(folder / f"{name}.gro", folder / f"{name}.xtc") as source:
            frames = list(source)
        for kind in ATOMS:
            if kind not in ("gro", "xtc"):
                with open_writer(folder / f"{name}.{kind}", table) as writer:
                    for frame in frames[: 1 if kind == "data" else 2]:
                        writer.write(frame)
        _write_cif(folder / f"{name}.cif", table, frames[:2])
        packed = gzip.compress((folder / f"{name}.gro").read_bytes(), mtime=0)
        (folder / f"{name}.gro.gz").write_bytes(packed)
    done = command("finish", folder / "aa.gro", "-p", folder / "topol.top", "--temperature", 300,
                   "--steps", 50, "--minimise", 300, "--keep-defects", "--engine", "openmm-cpu",
                   "--threads", 1, "-o", folder / "relaxed.gro", "-q")  # fmt: skip
    assert done.code == 0, done
    (folder / "relaxed.gro.json").unlink()


def _write_models(folder: Path) -> None:
    import small_polystyrene

    write_model(folder / "model.safetensors")
    save_model(small_polystyrene.point_model(), folder / "points.safetensors")


def _write_mappings(folder: Path, packaged: str, system: Any) -> None:
    """The same beads, or simpler ones, as every program writes them down."""
    (folder / "map.yaml").write_text(packaged)
    (folder / "stereo.yaml").write_text(packaged + STEREO)
    (folder / "map.cgs").write_text(CGSMILES)
    molecule = system.molecules[0]
    atoms = system.topology.molecule_types[0].atom_names
    beads = {name: [a for a, o in zip(atoms, molecule.owner, strict=True) if o == k]
             for k, name in enumerate(molecule.bead_names)}  # fmt: skip
    numbers = {name: [str(1 + atoms.index(a)) for a in held] for name, held in beads.items()}
    groups = (f"[ {name} ]\n{' '.join(held)}\n" for name, held in numbers.items())
    (folder / "map.ndx").write_text("".join(groups))
    pairs = [(a, name) for name, held in beads.items() for a in held]
    rows = (f"{k} {a} {name}\n" for k, (a, name) in enumerate(pairs, 1))
    (folder / "backward.map").write_text(
        f"[ molecule ]\nPS1\n[ martini ]\n{' '.join(beads)}\n[ atoms ]\n{''.join(rows)}"
    )
    rows = (f"{a} {name}\n" for a, name in pairs)
    (folder / "vermouth.map").write_text(
        "[ block ]\n[ from ]\naa\n[ to ]\ncg\n[ from blocks ]\nPS1\n[ to blocks ]\nPS1\n"
        f"[ mapping ]\n{''.join(rows)}"
    )
    rows = (f"{name} {name[0]} {' '.join(held)}\n" for name, held in beads.items())
    (folder / "pycgtool.map").write_text(f"[ PS1 ]\n{''.join(rows)}")
    (folder / "map.xml").write_text(_votca(beads))


def _openmm() -> str:
    """Two molecules of three particles, with bonds, an angle and charges."""
    import openmm as mm

    system, bonds, angles, pairs = mm.System(), mm.HarmonicBondForce(), mm.HarmonicAngleForce(), (
        mm.NonbondedForce()
    )  # fmt: skip
    for first in (0, 3):
        for mass, charge in ((15.999, -0.8), (1.008, 0.4), (1.008, 0.4)):
            system.addParticle(mass)
            pairs.addParticle(charge, 0.31, 0.6)
        bonds.addBond(first, first + 1, 0.1, 4e5)
        bonds.addBond(first, first + 2, 0.1, 4e5)
        angles.addAngle(first + 1, first, first + 2, 1.9, 400.0)
    pairs.createExceptionsFromBonds([(0, 1), (0, 2), (3, 4), (3, 5)], 0.5, 0.5)
    for force in (bonds, angles, pairs):
        system.addForce(force)
    return str(mm.XmlSerializer.serialize(system))


def _votca(beads: dict[str, list[str]]) -> str:
    entries = "\n".join(
        f"<cg_bead><name>{name}</name><type>{name[0]}</type><mapping>{name}</mapping>\n<beads>"
        f"{' '.join(f'1:PS1:{a}' for a in held)}</beads></cg_bead>"
        for name, held in beads.items()
    )
    maps = "\n".join(
        f"<map><name>{name}</name><weights>{'1 ' * len(held)}</weights></map>"
        for name, held in beads.items()
    )
    return (
        f"<cg_molecule><name>p</name><ident>PS1</ident>\n<topology><cg_beads>\n{entries}\n"
        f"</cg_beads></topology>\n<maps>\n{maps}\n</maps></cg_molecule>\n"
    )


def _write_cif(path: Path, table: Any, frames: list[Any]) -> None:
    """Atoms and cell as PDBx, which the package only reads."""
    lengths, cosines = lengths_and_cosines(frames[0].box)
    cell = dict(zip(("length_a", "length_b", "length_c"), 10 * lengths, strict=True))
    angles = np.rad2deg(np.arccos(cosines))
    cell |= dict(zip(("angle_alpha", "angle_beta", "angle_gamma"), angles, strict=True))
    lines = ["data_cell", *(f"_cell.{name} {value:.4f}" for name, value in cell.items()), "loop_"]
    columns = ("id", "label_atom_id", "label_comp_id", "label_seq_id", "Cartn_x", "Cartn_y",
               "Cartn_z", "pdbx_PDB_model_num")  # fmt: skip
    lines += [f"_atom_site.{name}" for name in columns]
    for k, frame in enumerate(frames, 1):
        rows = zip(table.names, table.resnames, table.resids, 10 * frame.positions, strict=True)
        lines += [
            f"{i} {name} {residue} {number} {x:.4f} {y:.4f} {z:.4f} {k}"
            for i, (name, residue, number, (x, y, z)) in enumerate(rows, 1)
        ]
    path.write_text("\n".join([*lines, "#", ""]))


def beads_off(made: Path, whole: Path, frames: int, *, atoms: bool) -> list[float]:
    """Distances in nm of the beads of an output from the undamaged ones, more than rounding.

    Args:
        made: the output.
        whole: folder of the undamaged files.
        frames: that the undamaged input had; two files in one are twice the frames.
        atoms: whether the output holds atoms, which are mapped first.
    """
    system = load_mapping("ps-two-bead").resolve(read_topology(whole / "topol.top"))
    far: list[float] = []
    with read_frames(made) as source, read_frames(whole / "cg.gro", whole / "cg.xtc") as good:
        for k, frame in enumerate(source):
            right = good[k % frames]
            found = map_positions(system, frame.positions) if atoms else frame.positions
            moved = minimum_image(found - right.positions, right.box)
            far += [round(float(d), 4) for d in np.linalg.norm(moved, axis=1) if not d <= 2e-3]
    return far
