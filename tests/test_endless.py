"""Molecules that are bonded to their own periodic images: chains without an end, networks."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from deepbackmap.api import backmap, baseline, finish, map_trajectory, md
from deepbackmap.blocks.index import build_bead_frames, build_blocks
from deepbackmap.blocks.plan import build_plan
from deepbackmap.chemistry.stereo import restore, volumes
from deepbackmap.dynamics.containers import Dynamics, EngineError, Interactions, Minimisation
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile, map_positions
from deepbackmap.mechanics import constraints
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole, spanning_molecules

UNITS, LENGTH, STEP, HEIGHT = 10, 0.154, 0.1275, 0.0864
"""CH2 pairs of a zigzag along x whose last carbon is bonded to the next image of the first; bonds
of 0.154 nm take 0.1275 nm along it and 0.0864 nm across."""
BOX = np.array([[2 * UNITS * STEP, 0.0, 0.0], [0.3, 2.4, 0.0], [-0.2, 0.4, 2.5]])
MAPPING = """
weights: mass
residues:
  PE:
    beads:
      - {name: A, type: A, atoms: [C1, C2]}
"""
FIRM = 1e-6


def topology_text():
    n = 2 * UNITS
    ring = [[(k + i) % n + 1 for i in range(4)] for k in range(n)]
    sections = {
        "atoms": [f"{k + 1} CH2 {k // 2 + 1} PE C{k % 2 + 1} {k + 1} 0 14.027" for k in range(n)],
        "bonds": [f"{a} {b} 1 {LENGTH} 260000" for a, b, *_ in ring],
        "angles": [f"{a} {b} {c} 1 112 500" for a, b, c, _ in ring],
        "dihedrals": [f"{a} {b} {c} {d} 3 8.4 16.8 1.1 -26.3 0 0" for a, b, c, d in ring],
    }
    body = "\n".join(f"[ {name} ]\n" + "\n".join(rows) for name, rows in sections.items())
    head = "[ defaults ]\n1 2 no 1 1\n[ atomtypes ]\nCH2 6 14.027 0.0 A 0.395 0.3825\n"
    return f"{head}[ moleculetype ]\nPE 3\n{body}\n[ system ]\np\n[ molecules ]\nPE 2\n"


@pytest.fixture
def endless(tmp_path):
    """Topology file, mapping, and positions of two chains, the second one's cut elsewhere."""
    path = tmp_path / "per.top"
    path.write_text(topology_text())
    mapping = MappingFile.from_text(MAPPING).resolve(read_topology(path))
    n = 2 * UNITS
    one = np.zeros((n, 3))
    one[:, 0], one[1::2, 1] = STEP * np.arange(n), HEIGHT
    rng = np.random.default_rng(2)
    x = np.concatenate([one + np.array([0.1, 0.7, 0.6]), one + np.array([0.5, 1.6, 1.7])])
    moved = rng.integers(-1, 2, x.shape) @ BOX
    return path, mapping, x, x + moved


def write_gro(path, x, names):
    rows = [
        f"{k // 2 % UNITS + 1:5d}{'PE':<5}{names[k % len(names)]:>5}{k + 1:5d}"
        f"{p[0]:12.7f}{p[1]:12.7f}{p[2]:12.7f}"
        for k, p in enumerate(x)
    ]
    cell = BOX[[0, 1, 2, 0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 0, 2, 0, 1]]
    box = " ".join(f"{v:.5f}" for v in cell)
    path.write_text("p\n" + f"{len(x)}\n" + "\n".join(rows) + f"\n{box}\n")


def bonds_off(mapping, x):
    bonds = mapping.topology.molecule_types[0].bonds
    pairs = np.concatenate([bonds, bonds + 2 * UNITS])
    d = minimum_image(x[pairs[:, 0]] - x[pairs[:, 1]], BOX)
    return np.abs(np.linalg.norm(d, axis=1) - LENGTH).max()


def test_wholeness_accepts_them_only_where_that_is_asked_for(endless):
    _, mapping, x, moved = endless
    topology = mapping.topology
    with pytest.raises(InputError, match="own periodic image"):
        make_whole(moved, BOX, topology)
    whole = make_whole(moved, BOX, topology, endless=True)
    assert spanning_molecules(whole, BOX, topology).tolist() == [True, True]
    np.testing.assert_allclose(minimum_image(whole - x, BOX), 0.0, atol=1e-12)


def test_a_molecule_that_is_only_torn_is_not_one_of_them(endless):
    _, mapping, x, _ = endless
    (kind,) = mapping.topology.molecule_types
    bonds = kind.terms["bond"]
    inside = np.abs(np.diff(bonds.atoms, axis=1)[:, 0]) == 1
    cut = dataclasses.replace(bonds, atoms=bonds.atoms[inside], parameters=bonds.parameters[inside])
    opened = dataclasses.replace(
        mapping.topology, molecule_types=(dataclasses.replace(kind, terms={"bond": cut}),)
    )
    whole = make_whole(x, BOX, opened)
    assert not spanning_molecules(whole, BOX, opened).any()
    assert not spanning_molecules(whole, np.zeros((3, 3)), opened).any()


def test_a_bead_needs_only_its_own_atoms_beside_each_other(endless):
    _, mapping, x, moved = endless
    expected = x.reshape(-1, 2, 3).mean(axis=1)
    found = map_positions(mapping, make_whole(moved, BOX, mapping.topology, endless=True), BOX)
    np.testing.assert_allclose(minimum_image(found - expected, BOX), 0.0, atol=1e-12)


def test_forces_are_those_of_the_force_field(endless):
    _, mapping, x, moved = endless
    rng = np.random.default_rng(5)
    shaken = moved + rng.normal(0.0, 0.01, x.shape)
    field = ForceField.from_topology(mapping.topology, cutoff=0.9, reaction_field_epsilon=None)
    at = torch.tensor(shaken, requires_grad=True)
    energies = field.energies(at, torch.tensor(BOX))
    sum(energies.values()).backward()
    engine = Mechanics(mapping, rigid=False, cutoff=0.9, epsilon=None)
    beads = map_positions(mapping, shaken, BOX)
    found = engine.forces(shaken, beads, BOX)
    expected = -at.grad.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    terms = engine.energies(shaken, beads, BOX)
    for name in ("bond", "angle", "proper"):
        assert terms[name].sum() == pytest.approx(float(energies[name].detach()), rel=1e-9)


@pytest.mark.parametrize("width", [0.0, 0.01])
def test_bonds_and_beads_hold_and_images_do_not_matter(endless, width):
    _, mapping, x, moved = endless
    beads = map_positions(mapping, x, BOX)
    rng = np.random.default_rng(7)
    engine, names = Mechanics(mapping), np.arange(len(x))
    runs = [
        engine.run(p, b, BOX, Langevin(40, 300.0), names, width)
        for p, b in ((x, beads), (moved, beads + rng.integers(-1, 2, beads.shape) @ BOX))
    ]
    for run in runs:
        assert not len(run.broken)
        assert bonds_off(mapping, run.positions) < FIRM
        off = minimum_image(map_positions(mapping, run.positions, BOX) - beads, BOX)
        assert np.abs(off).max() < (FIRM if width == 0.0 else 0.06)
    apart = minimum_image(runs[0].positions - runs[1].positions, BOX)
    assert np.abs(apart).max() < 1e-6
    assert np.linalg.norm(minimum_image(runs[0].positions - x, BOX), axis=1).max() > 0.01


def test_velocities_keep_their_lengths_and_beads(endless):
    _, mapping, x, _ = endless
    v = np.random.default_rng(3).normal(size=x.shape)
    left = Mechanics(mapping).tangent(x, v, box=BOX)
    np.testing.assert_allclose(map_positions(mapping, left), 0.0, atol=1e-9)
    bonds = mapping.topology.molecule_types[0].bonds
    d = minimum_image(x[bonds[:, 0]] - x[bonds[:, 1]], BOX)
    along = np.einsum("bc,bc->b", d, left[bonds[:, 0]] - left[bonds[:, 1]])
    np.testing.assert_allclose(along, 0.0, atol=1e-9)


def test_map_and_backmap_take_them(endless, tmp_path):
    path, mapping, x, moved = endless
    write_gro(tmp_path / "aa.gro", moved, ["C1", "C2"])
    (tmp_path / "map.yaml").write_text(MAPPING)
    map_trajectory(
        tmp_path / "aa.gro", None, path, tmp_path / "map.yaml", tmp_path / "cg.gro",
        progress=False,
    )  # fmt: skip
    with read_frames(tmp_path / "cg.gro") as source:
        beads = source[0]
    expected = x.reshape(-1, 2, 3).mean(axis=1)
    assert np.abs(minimum_image(beads.positions - expected, BOX)).max() < 6e-4
    summary = backmap(
        tmp_path / "cg.gro", topology=path, output=tmp_path / "made.gro", model="none",
        mapping=tmp_path / "map.yaml", temperature=300.0, bead_tolerance=0.0, relaxation=20,
        options={"pieces": 64}, keep_defects=True, progress=False,
    )  # fmt: skip
    with read_frames(tmp_path / "made.gro") as source:
        made = source[0]
    assert bonds_off(mapping, made.positions) < 2e-3  # of three decimals
    whole = make_whole(made.positions, BOX, mapping.topology, endless=True)
    off = minimum_image(map_positions(mapping, whole, BOX) - beads.positions, BOX)
    assert np.abs(off).max() < 1e-3
    assert summary.frames == 1


# --- finish, md, baseline -------------------------------------------------------------------------

GMX = pytest.mark.skipif(shutil.which("gmx") is None, reason="gmx is not installed")


@pytest.fixture
def files(endless, tmp_path):
    """Atoms and mapping as files."""
    _, _, x, moved = endless
    rng = np.random.default_rng(4)
    write_gro(tmp_path / "aa.gro", moved + rng.normal(0.0, 0.004, x.shape), ["C1", "C2"])
    (tmp_path / "map.yaml").write_text(MAPPING)
    return tmp_path


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("engine", ["internal", pytest.param("gromacs", marks=GMX)])
def test_finish_takes_them(endless, files, engine, hold):
    path, mapping, x, _ = endless
    held = {"hold_beads": True, "mapping": files / "map.yaml"} if hold else {}
    finish(files / "aa.gro", topology=path, output=files / "done.gro", engine=engine,
           temperature=300.0, steps=100, progress=False, **held)  # fmt: skip
    with read_frames(files / "done.gro") as source:
        made = source[0].positions
    assert bonds_off(mapping, made) < 2e-3
    assert np.linalg.norm(minimum_image(made - x, BOX), axis=1).max() < 0.4
    assert np.linalg.norm(minimum_image(made - x, BOX), axis=1).max() > 0.01


@GMX
def test_gromacs_is_told_and_has_the_same_energies(endless):
    """Bonds that close across the box among them: without the setting GROMACS takes them as long as
    the box."""
    _, mapping, x, moved = endless
    start = Structure(moved + np.random.default_rng(5).normal(0.0, 0.004, x.shape), BOX)
    engine = open_engine(mapping.topology, name="gromacs", threads=1,
                         interactions=Interactions(cutoff=0.9))  # fmt: skip
    segment = engine.minimise(start, Minimisation(0, bond_constant=None))
    wanted = ForceField.from_topology(mapping.topology, cutoff=0.9).energies_by_term(start)
    for name in ("bond", "angle", "proper", "lj"):
        assert segment.energies[name][0] == pytest.approx(wanted[name], rel=2e-4)


def test_openmm_refuses_them_and_names_the_way(endless):
    _, mapping, x, _ = endless
    engine = open_engine(mapping.topology, name="openmm", threads=1,
                         interactions=Interactions(cutoff=0.9))  # fmt: skip
    with pytest.raises(EngineError, match=r"molecule 1 bonded to its own.*gromacs or internal"):
        engine.run(Structure(x, BOX), Dynamics(steps=1, temperature=300.0))


def test_md_takes_them(endless, files):
    path, mapping, _, _ = endless
    md({"a": files / "aa.gro"}, topology=path, output=files / "md", temperature=300.0, time=1.0,
       pressure=None, engine="internal", progress=False)  # fmt: skip
    (made,) = (files / "md").rglob("last.gro")
    with read_frames(made) as source:
        assert bonds_off(mapping, source[0].positions) < 2e-3


def test_the_projection_of_baseline_takes_them(endless, files):
    """Every atom on its bead: no modifiers, no minimisation."""
    path, _, x, _ = endless
    map_trajectory(files / "aa.gro", None, path, files / "map.yaml", files / "cg.gro",
                   progress=False)  # fmt: skip
    baseline(files / "cg.gro", topology=path, mapping=files / "map.yaml", output=files / "b.gro",
             method="backward", minimise=False, keep_defects=True, progress=False)  # fmt: skip
    with read_frames(files / "b.gro") as source:
        made = source[0].positions
    beads = x.reshape(-1, 2, 3).mean(axis=1)
    assert np.abs(minimum_image(made - np.repeat(beads, 2, axis=0), BOX)).max() < 0.02


def test_models_refuse_them_and_name_the_way(endless):
    _, mapping, x, _ = endless
    beads = map_positions(mapping, x, BOX)
    blocks = build_blocks(build_plan(mapping, ("CH2",), ("A",)), mapping, torch.device("cpu"))
    with pytest.raises(InputError, match=r"molecule 1 bonded to its own.*--model none"):
        build_bead_frames(beads, BOX, blocks, mapping, cutoff=None, plane=False)


def test_hands_are_those_of_nearest_images():
    """A centre one of whose branches lies across the box, turned inside out."""
    x = np.array([[0.0, 0, 0], [0.1, 0, 0], [-0.05, 0.1, 0], [-0.05, -0.05, 0.09],
                  [-0.05, -0.05, -0.09]])  # fmt: skip
    centres, light = np.array([[0, 1, 2, 3, 4]]), np.array([False, True, False, False, False])
    away = x + np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, -1, 1], [0, 0, 0]]) @ BOX
    sign = np.sign(volumes(x, centres)).astype(np.int64)
    np.testing.assert_allclose(volumes(away, centres, BOX), volumes(x, centres), rtol=1e-9)
    restore(x, centres, -sign, light)
    restore(away, centres, -sign, light, BOX)
    assert np.sign(volumes(x, centres)) == -sign
    np.testing.assert_allclose(minimum_image(away - x, BOX), 0.0, atol=1e-12)


# --- factors that leave something out -------------------------------------------------------------


def test_an_incomplete_factor_and_gradients_come_to_the_same(endless, monkeypatch):
    """One ring closes in each chain: whatever of it the factor leaves out, the iteration finds."""
    _, mapping, x, _ = endless
    beads, names = map_positions(mapping, x, BOX), np.arange(len(x))
    v = np.random.default_rng(3).normal(size=x.shape)
    exact = Mechanics(mapping)
    monkeypatch.setattr(constraints, "DENSE", 0)
    monkeypatch.setattr(constraints, "ROOM", 1)
    rough = Mechanics(mapping)
    runs = [e.run(x, beads, BOX, Langevin(20, 300.0), names) for e in (exact, rough)]
    assert bonds_off(mapping, runs[1].positions) < FIRM
    np.testing.assert_allclose(runs[1].positions, runs[0].positions, rtol=0, atol=2e-5)
    one, other = (e.tangent(x, v, box=BOX) for e in (exact, rough))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)
