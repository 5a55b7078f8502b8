"""Forces and energies of the dynamics in the process beside those of OpenMM and GROMACS."""

import dataclasses
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import openmm as mm
import pytest

import deepbackmap
from deepbackmap.dynamics.containers import Interactions
from deepbackmap.dynamics.openmm_system import Recipe, build_system
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics.engine import Mechanics
from deepbackmap.system import BondedTerms
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.whole import make_whole
from evaluation_systems import reference_folder
from test_forcefield_gromacs import COUNTED_AS, STORED, identify, located, read_frame
from test_mechanics_engine import free

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
TERMS = ("bond", "angle", "proper", "improper", "lj", "lj14", "coulomb")
CLOSE = 1e-5
"""Of the largest force and, by root mean square, of all; of an energy."""
SINGLE = 1e-4
"""The same of the largest force of GROMACS in single precision, whose pairs of atoms a tenth of a
nanometre apart feel the seventh digit of a position of some nanometres."""
CUTOFF = 0.9


@functools.cache
def polystyrene():
    topology = read_topology(MELT / "topol.top")
    with read_frames(MELT / "aa.gro") as source:
        frame = source[0]
    return topology, make_whole(frame.positions, frame.box, topology), frame.box


@functools.cache
def octane():
    """The benchmark's liquid, whose force field comes with GROMACS."""
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    data = reference_folder().parent
    if shutil.which("gmx") is None or not (data / "liquids").is_dir():
        pytest.skip("needs GROMACS and the reference data of the liquids")
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("physics_bench", folder / "physics.py")
        assert spec is not None and spec.loader is not None
        physics = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = physics
        spec.loader.exec_module(physics)
        with tempfile.TemporaryDirectory() as scratch:
            case = physics.liquid("octane", data, Path(scratch))
    except InputError as error:
        pytest.skip(str(error))
    finally:
        sys.path.remove(str(folder))
    topology, frame = case.mapping.topology, case.reference[0]
    return topology, make_whole(frame.positions, frame.box, topology), frame.box


SYSTEMS = {"polystyrene": polystyrene, "octane": octane}


def only(topology, term):
    """A topology with one kind of energy; those of listed pairs' charges go with Coulomb."""

    def stripped(m):
        pairs = m.pairs.parameters.copy()
        pairs[:, :2] *= term == "lj14"
        kept = {
            kind: listed
            for kind, listed in m.terms.items()
            if KINDS[kind].counted in (term, term + "14")
            or (kind == "constraint" and term == "bond")
        }
        return dataclasses.replace(
            m, terms=kept, charges=m.charges * (term == "coulomb"),
            pairs=BondedTerms(m.pairs.atoms, pairs),
        )  # fmt: skip

    return dataclasses.replace(
        topology, molecule_types=tuple(map(stripped, topology.molecule_types)),
        c6=topology.c6 * (term == "lj"), c12=topology.c12 * (term == "lj"),
    )  # fmt: skip


def bare_mapping(topology):
    return SystemMapping(topology, tuple(free(m.n_atoms) for m in topology.molecule_types))


def by_openmm(topology, x, box):
    """Energy and forces of OpenMM's Reference platform, all in double precision."""
    interactions = Interactions(cutoff=CUTOFF, dispersion_correction=False)
    built = build_system(topology, interactions, Recipe(constrain=False), None, box)
    context = mm.Context(
        built.system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(x)
    state = context.getState(getForces=True, getEnergy=True, groups=built.acting)
    unit = mm.unit.kilojoule_per_mole
    energy = state.getPotentialEnergy().value_in_unit(unit) + built.charge_energy
    forces = state.getForces(asNumpy=True).value_in_unit(unit / mm.unit.nanometer)
    return energy, np.asarray(forces)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_forces_and_energy_of_each_term_are_openmms(system, term):
    topology, x, box = SYSTEMS[system]()
    part = only(topology, term)
    energy, forces = by_openmm(part, x, box)
    engine = Mechanics(bare_mapping(part), rigid=False, cutoff=CUTOFF, epsilon=2.5)
    none = np.zeros((0, 3))
    found = engine.forces(x, none, box)
    if np.abs(forces).max() > 0.0:  # else the system has no such term, and neither have we
        assert np.sqrt(((found - forces) ** 2).mean() / (forces**2).mean()) < CLOSE
    np.testing.assert_allclose(found, forces, rtol=0, atol=CLOSE * np.abs(forces).max())
    energies = engine.energies(x, none, box)
    assert sum(e.sum() for e in energies.values()) == pytest.approx(energy, rel=CLOSE)


@pytest.mark.parametrize("stored", STORED["frames"], ids=identify)
def test_energies_of_whole_boxes_are_those_of_gromacs_in_double_precision(stored):
    defines = dict.fromkeys(stored["defines"], "")
    topology = read_topology(located(stored["system"], stored["topology"]), defines=defines)
    frame = read_frame(located(stored["system"], stored["trajectory"]), stored["frame"])
    x = make_whole(frame.positions, frame.box, topology)
    engine = Mechanics(bare_mapping(topology), rigid=False, cutoff=1.0, epsilon=2.5, skin=0.02)
    if min(np.diag(frame.box)) < 2 * engine.reach:
        pytest.skip("the cell is lower than twice cut-off and skin")
    found = {n: e.sum() for n, e in engine.energies(x, np.zeros((0, 3)), frame.box).items()}
    for name in ("lj", "coulomb"):
        found[name] = found.pop(f"{name} intra") + found.pop(f"{name} inter")
    expected = dict.fromkeys(found, 0.0)
    for name, energy in stored["energies"].items():
        if name != "Potential":
            expected[COUNTED_AS[name]] += energy
    # bonds of the reference data are at rest within the rounding of their files
    bond = found.pop("bond"), expected.pop("bond")
    assert bond[0] == pytest.approx(bond[1], rel=1e-4)
    assert found == pytest.approx(expected, rel=CLOSE)


def test_every_kind_of_term_in_one_box_is_that_of_openmm():
    """Curves and maps among them, which are compiled as the common kinds are."""
    from test_dynamics_kinds import with_sites
    from test_forcefield_kinds import BOX, positions, topology

    whole = dataclasses.replace(with_sites(topology(), ()), intermolecular={})
    x = make_whole(positions(), BOX, whole)
    left = dict.fromkeys(table.kind for m in Mechanics(bare_mapping(whole))._tables_for(
        np.zeros(0, dtype=bool))[1] for table in m)  # fmt: skip
    assert not {kind for kind in left if KINDS[kind].grids}
    for term in ("bond", "angle", "proper"):
        part = only(whole, term)
        energy, forces = by_openmm(part, x, BOX)
        engine = Mechanics(bare_mapping(part), rigid=False, cutoff=CUTOFF, epsilon=2.5)
        none = np.zeros((0, 3))
        found = engine.forces(x, none, BOX)
        np.testing.assert_allclose(found, forces, rtol=0, atol=CLOSE * np.abs(forces).max())
        energies = engine.energies(x, none, BOX)
        assert sum(e.sum() for e in energies.values()) == pytest.approx(energy, rel=CLOSE)


@pytest.mark.skipif(shutil.which("gmx") is None, reason="needs GROMACS")
def test_forces_of_a_box_are_those_of_gromacs_as_far_as_it_has_digits(tmp_path):
    topology, x, box = polystyrene()
    for path in (*MELT.glob("*.top"), *MELT.glob("*.itp"), MELT / "aa.gro"):
        shutil.copy(path, tmp_path)
    settings = STORED["settings"] | {
        "rlist": str(CUTOFF), "rcoulomb": str(CUTOFF), "rvdw": str(CUTOFF), "nstfout": "1",
        "nstxout": "1", "continuation": "yes",
    }  # fmt: skip
    (tmp_path / "run.mdp").write_text("\n".join(f"{k} = {v}" for k, v in settings.items()) + "\n")
    for command in (
        "grompp -f run.mdp -c aa.gro -p topol.top -o run.tpr -maxwarn 9",
        "mdrun -deffnm run -ntmpi 1 -ntomp 1",
    ):
        subprocess.run(["gmx", "-quiet", *command.split()], cwd=tmp_path, check=True,
                       capture_output=True)  # fmt: skip
    step = mda.coordinates.TRR.TRRReader(str(tmp_path / "run.trr"))[0]
    forces = step.forces.astype(float) * 10.0  # from 1/Angstrom
    engine = Mechanics(bare_mapping(topology), rigid=False, cutoff=CUTOFF, epsilon=2.5)
    found = engine.forces(x, np.zeros((0, 3)), box)
    np.testing.assert_allclose(found, forces, rtol=0, atol=SINGLE * np.abs(forces).max())
    assert np.sqrt(((found - forces) ** 2).mean() / (forces**2).mean()) < SINGLE


def test_a_large_box_costs_no_digits():
    """The same molecules far from the origin, in a box of 60 nm."""
    topology, x, _ = polystyrene()
    engine = Mechanics(bare_mapping(topology), rigid=False, cutoff=CUTOFF, epsilon=2.5)
    none, large = np.zeros((0, 3)), np.eye(3) * 60.0
    near = engine.forces(x, none, large)
    far = engine.forces(x + 40.0, none, large)
    np.testing.assert_allclose(far, near, rtol=0, atol=2e-6 * np.abs(near).max())
