"""Engines against the energies and forces of ``forcefield``, and against the laws of mechanics."""

import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm as mm
import pytest
import torch

import deepbackmap
from deepbackmap.dynamics.boxes import reduced
from deepbackmap.dynamics.constraints import Constraints, thermal_velocities
from deepbackmap.dynamics.containers import (
    Dynamics,
    Engine,
    EngineError,
    Hold,
    Interactions,
    Minimisation,
)
from deepbackmap.dynamics.engines import choose, has_gromacs, open_engine
from deepbackmap.dynamics.openmm_system import Recipe, build_system, sigma_epsilon
from deepbackmap.errors import InputError
from deepbackmap.forcefield import TERMS, ForceField
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping.file import load_mapping
from deepbackmap.mapping.forward import map_positions
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system.whole import make_whole

HERE = Path(__file__).parent
MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
SHARED = Path(os.environ.get("DEEPBACKMAP_DATA", HERE.parents[1] / "shared" / "data"))
GROMACS = pytest.param(
    "gromacs", marks=pytest.mark.skipif(not has_gromacs(), reason="gmx is not installed")
)
BOTH = pytest.mark.parametrize("name", ["openmm-cpu", GROMACS])
ALL = pytest.mark.parametrize("name", ["internal", "openmm-cpu", GROMACS])
RULES = pytest.mark.parametrize("rule", ["", "RULE1", "RULE2"])
"""Of the mixed system: all kinds of term, a table of parameters that no rule gives."""


@functools.cache
def system(name, rule=""):
    """Topology and one frame of a test system."""
    if name == "mixed":
        defines = {rule: ""} if rule else {}
        topology = read_topology(HERE / "data" / "mixed" / "mixed.top", defines=defines)
        return topology, read_frames(HERE / "data" / "mixed" / "mixed.gro")[0]
    folder = MELT if name == "melt" else SHARED / "sps"
    if not (folder / "topol.top").exists():
        pytest.skip(f"{folder} is absent")
    return read_topology(folder / "topol.top"), read_frames(folder / "aa.gro")[0]


@functools.cache
def opened(name, kind, rule="", interactions=Interactions(), held=False):
    topology, _ = system(kind, rule)
    mapping = load_mapping("ps-two-bead").resolve(topology) if held else None
    return open_engine(topology, name=name, interactions=interactions, threads=1, mapping=mapping)


@functools.cache
def relaxed(kind):
    """A start that dynamics can leave from."""
    _, start = system(kind)
    return opened("openmm-cpu", kind).minimise(start, Minimisation(30, 3e5)).structure


def single_point(engine, start):
    """Energies of a structure, on the constraints that its topology has anyway."""
    return engine.run(start, Dynamics(0, 300.0, constrain=False))


def check_terms(topology, segment, interactions=Interactions(), relative=1e-4):
    field = ForceField.from_topology(
        topology,
        cutoff=interactions.cutoff,
        reaction_field_epsilon=interactions.reaction_field_epsilon,
    )
    expected = field.energies_by_term(segment.structure)
    found = {term: float(segment.energies[term][0]) for term in TERMS}
    assert found == pytest.approx(expected, rel=relative)


# --- energies and forces ----------------------------------------------------------------------


@ALL
@RULES
def test_every_term_equals_the_force_field(name, rule):
    topology, start = system("mixed", rule)
    check_terms(topology, single_point(opened(name, "mixed", rule), start), relative=1e-5)


@ALL
@pytest.mark.parametrize("epsilon", [None, float("inf"), 1.0])
def test_every_reaction_field(name, epsilon):
    topology, start = system("mixed")
    interactions = Interactions(cutoff=0.9, reaction_field_epsilon=epsilon)
    engine = opened(name, "mixed", "", interactions)
    check_terms(topology, single_point(engine, start), interactions, relative=1e-5)


@ALL
@pytest.mark.parametrize("kind", ["melt", "sps"])
def test_polymer_melts(name, kind):
    topology, start = system(kind)
    segment = single_point(opened(name, kind), start)
    check_terms(topology, segment)
    # each engine has its own way to the correction; the parts add up in both
    parts = sum(segment.energies[term][0] for term in TERMS)
    tail = segment.energies["potential"][0] - parts
    other = single_point(opened("openmm-cpu", kind), start).energies
    expected = other["potential"][0] - sum(other[term][0] for term in TERMS)
    assert tail == pytest.approx(expected, rel=1e-5)
    assert tail < 0.0


@pytest.mark.parametrize(("kind", "rule"), [("mixed", ""), ("mixed", "RULE1"), ("melt", "")])
def test_forces_are_the_gradient_of_the_force_field(kind, rule):
    topology, start = system(kind, rule)
    field = ForceField.from_topology(topology)
    box = reduced(start.box)
    positions = torch.tensor(make_whole(start.positions, box, topology), requires_grad=True)
    # springs for constraints, which have no energy of their own
    energies = field.energies(positions, torch.tensor(start.box))
    gradient = torch.autograd.grad(sum(energies.values()), positions)[0].numpy()
    built = build_system(topology, Interactions(), Recipe(constrain=False), None, box)
    context = mm.Context(
        built.system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CPU")
    )
    context.setPositions(positions.detach().numpy())
    state = context.getState(getForces=True, groups=built.acting)
    forces = state.getForces(asNumpy=True)._value
    assert np.abs(forces + gradient).max() < 2e-5 * np.abs(gradient).max()


def test_the_fast_force_is_used_exactly_where_it_holds():
    assert sigma_epsilon(system("melt")[0]) is not None
    assert sigma_epsilon(system("mixed")[0]) is None
    topology = system("melt")[0]
    other = replace(topology, c6=topology.c6 * (1.0 + 1e-4 * np.eye(len(topology.c6))))
    assert sigma_epsilon(other) is None


# --- minimisation -----------------------------------------------------------------------------


@ALL
def test_minimisation_goes_down_and_counts_its_evaluations(name):
    topology, start = system("mixed")
    engine = opened(name, "mixed")
    assert isinstance(engine, Engine)
    assert engine.name == name
    found = engine.minimise(start, Minimisation(40, 3e5))
    # the engine of this process goes on, 20 steps at a time, where a start is rough
    more = found.force_evaluations - 41
    assert more == 0 or (name == "internal" and more > 0 and more % 20 == 0)
    assert found.energies["potential"][-1] < 0.2 * found.energies["potential"][0]
    assert found.velocities is None
    assert found.structure.time == start.time
    stiff = Constraints.of(topology, bonds=True)
    assert np.abs(stiff.deviations(found.structure.positions)).max() < 0.01
    further = engine.minimise(found.structure, Minimisation(40, 3e5))
    assert further.energies["potential"][-1] < found.energies["potential"][-1]


@ALL
def test_minimisation_with_the_topology_s_bonds_holds_its_constraints(name):
    topology, start = system("mixed")
    found = opened(name, "mixed").minimise(start, Minimisation(30))
    fixed = Constraints.of(topology, bonds=False)
    assert len(fixed.atoms)
    assert np.abs(fixed.deviations(found.structure.positions)).max() < 1e-6


@BOTH
def test_bonded_terms_alone_let_chains_pass(name):
    topology, start = system("melt")
    n = topology.molecule_types[0].n_atoms
    placed = make_whole(start.positions, start.box, topology)
    placed[n : 2 * n] = placed[:n]
    start = replace(start, positions=placed + 0.005 * np.sin(np.arange(placed.size)).reshape(-1, 3))
    found = opened(name, "melt").minimise(start, Minimisation(20, 3e5, nonbonded=False))
    assert found.energies["lj"].tolist() == [0.0] * len(found.step)
    assert found.energies["potential"][-1] < 0.5 * found.energies["potential"][0]


@BOTH
def test_a_tolerance_ends_it(name):
    _, start = system("mixed")
    found = opened(name, "mixed").minimise(start, Minimisation(500, 3e5, tolerance=2e4))
    assert 2 < found.force_evaluations < 100


# --- dynamics ---------------------------------------------------------------------------------


@ALL
def test_constraints_and_records_of_a_run(name):
    topology, _ = system("mixed")
    start = relaxed("mixed")
    fixed = Constraints.of(topology, bonds=True)
    options = Dynamics(45, 300.0, every=10, frames_every=20, seed=2)
    found = opened(name, "mixed").run(start, options)
    assert found.step.tolist() == [0, 10, 20, 30, 40, 45]
    assert {*TERMS, "potential", "kinetic", "temperature", "volume"} <= set(found.energies)
    np.testing.assert_allclose(found.energies["bond"], 0.0, atol=1e-5)
    assert [f.time - start.time for f in found.frames] == pytest.approx([0.02, 0.04], abs=1e-6)
    assert found.structure.time - start.time == pytest.approx(0.045, abs=1e-6)
    for frame in (*found.frames, found.structure):
        assert np.abs(fixed.deviations(frame.positions)).max() < 1e-5
    assert found.force_evaluations == 46
    freedom = 3 * topology.n_atoms - len(fixed.atoms)
    expected = 2 * found.energies["kinetic"] / (BOLTZMANN * freedom)
    np.testing.assert_allclose(found.energies["temperature"], expected, rtol=1e-4)


@ALL
def test_the_seed_decides_and_nothing_else_does(name):
    start = relaxed("mixed")
    engine = opened(name, "mixed")
    runs = [engine.run(start, Dynamics(30, 300.0, seed=s)) for s in (0, 1, 0)]
    first, other, again = (r.structure.positions for r in runs)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@ALL
def test_a_run_goes_on_from_given_velocities(name):
    start = relaxed("mixed")
    engine = opened(name, "mixed")
    first = engine.run(start, Dynamics(40, 300.0, seed=1))
    second = engine.run(first.structure, Dynamics(10, 300.0, seed=2), first.velocities)
    for term in ("potential", "kinetic"):
        # GROMACS' velocities are half a step old
        assert second.energies[term][0] == pytest.approx(first.energies[term][-1], rel=0.05)
    cold = engine.run(first.structure, Dynamics(0, 300.0), np.zeros_like(first.velocities))
    assert cold.energies["kinetic"][0] < 0.05 * first.energies["kinetic"][-1]


@pytest.mark.skipif(not has_gromacs(), reason="gmx is not installed")
def test_velocities_of_a_start_are_those_of_its_time():
    """Where they are independent of the positions, energies do not change to first order in time.
    Taken for those of half a step before, they lower that of the angles by 4 % in one step."""
    _, start = system("melt")
    options = Dynamics(2, 568.0, thermostat="v-rescale", every=1)
    angle = opened("gromacs", "melt").run(start, options).energies["angle"]
    assert angle[1:] == pytest.approx(angle[0], rel=0.015)


@ALL
def test_langevin_dynamics_has_its_temperature(name):
    topology, _ = system("mixed")
    options = Dynamics(1500, 300.0, friction=50.0, seed=4)
    found = opened(name, "mixed").run(relaxed("mixed"), options).energies["temperature"][30:]
    # the slowest the kinetic energy can be is a memory of 1/friction, two records long
    freedom = 3 * topology.n_atoms - len(Constraints.of(topology, bonds=True).atoms)
    error = 300.0 * np.sqrt(2.0 / freedom) / np.sqrt(len(found) / 4.0)
    assert abs(found.mean() - 300.0) < 4.0 * error < 25.0


def test_energy_is_conserved_without_a_thermostat():
    topology, _ = system("melt")
    start = relaxed("melt")
    built = build_system(topology, Interactions(), Recipe(constrain=True), None, reduced(start.box))
    fixed = Constraints.of(topology, bonds=True)
    positions = fixed.project(start.positions)
    velocities = thermal_velocities(fixed.masses, 300.0, 1)
    integrator = mm.VerletIntegrator(0.0005)
    integrator.setConstraintTolerance(1e-6)
    integrator.setIntegrationForceGroups(built.acting)
    platform = mm.Platform.getPlatformByName("CPU")
    context = mm.Context(built.system, integrator, platform, {"Threads": "1"})
    context.setPositions(positions)
    context.setVelocities(fixed.project_velocities(positions, velocities))
    total, moving = [], []
    for _ in range(8):
        integrator.step(20)
        state = context.getState(getEnergy=True, groups=built.acting)
        kinetic = state.getKineticEnergy()._value
        total.append(kinetic + state.getPotentialEnergy()._value)
        moving.append(kinetic)
    assert np.ptp(total[1:]) < 0.02 * np.ptp(moving[1:])


@ALL
def test_held_beads_stay_and_free_ones_leave(name):
    topology, start = system("melt")
    mapping = load_mapping("ps-two-bead").resolve(topology)
    whole = make_whole(start.positions, start.box, topology)
    beads = map_positions(mapping, whole)
    constant, temperature = 2e5, 568.0
    # any image will do
    hold = Hold(beads + np.array([2.0, -1.0, 1.0]) @ start.box, constant)
    engine = opened(name, "melt", held=True)

    def left(**options):
        found = engine.run(start, Dynamics(60, temperature, seed=3), **options)
        off = minimum_image(map_positions(mapping, found.structure.positions) - beads, start.box)
        return np.sqrt((off**2).sum(axis=1).mean()), found

    held, segment = left(hold=hold)
    free, _ = left()
    spread = np.sqrt(3.0 * BOLTZMANN * temperature / constant)
    assert held < 1.3 * spread < 0.6 * free
    springs = segment.energies["hold"]
    # half kT a degree of freedom, at most, and surely not nothing
    assert 0.3 < springs[-1] / (0.5 * BOLTZMANN * temperature * beads.size) < 1.3
    assert segment.structure.n == topology.n_atoms == len(segment.velocities)


@BOTH
def test_a_barostat_changes_the_volume_and_keeps_the_shape(name):
    _, start = system("melt")
    found = opened(name, "melt").run(start, Dynamics(200, 568.0, pressure=2e4, seed=1))
    volume = found.energies["volume"]
    assert volume[-1] < volume[0]
    ratio = found.structure.box / np.where(start.box == 0.0, 1.0, start.box)
    factors = ratio[start.box != 0.0]
    np.testing.assert_allclose(factors, np.cbrt(volume[-1] / volume[0]), rtol=1e-4)


# --- what cannot be carried out ---------------------------------------------------------------


@BOTH
def test_atoms_on_top_of_each_other_are_named(name):
    topology, start = system("melt")
    n = topology.molecule_types[0].n_atoms
    placed = make_whole(start.positions, start.box, topology)
    placed[n : 2 * n] = placed[:n] + 1e-4
    start = replace(start, positions=placed)
    names = r"atom \w+ of molecule 1 \(\w+\) and atom \w+ of molecule 2 \(\w+\) are 0.000"
    with pytest.raises(EngineError, match=names):
        opened(name, "melt").minimise(start, Minimisation(5, 3e5))
    with pytest.raises(EngineError, match=names):
        opened(name, "melt").run(start, Dynamics(50, 300.0))


@BOTH
def test_bad_arguments_are_named(name):
    _, start = system("mixed")
    engine = opened(name, "mixed")
    for options, match in (
        (Dynamics(5, -1.0), "temperature: expected .* found -1"),
        (Dynamics(-5, 300.0), "steps: expected .* found -5"),
        (Dynamics(5, 300.0, timestep=0.0), "timestep: expected .* found 0"),
        (Dynamics(5, 300.0, thermostat="none"), "thermostat: expected langevin.* found 'none'"),
    ):
        with pytest.raises(InputError, match=match):
            engine.run(start, options)
    with pytest.raises(InputError, match="hold: expected a mapping"):
        engine.run(start, Dynamics(5, 300.0), hold=Hold(np.zeros((1, 3)), 1.0))
    with pytest.raises(InputError, match="hold: expected 240 beads as in the mapping, found 1"):
        opened(name, "melt", held=True).run(
            system("melt")[1], Dynamics(5, 300.0), hold=Hold(np.zeros((1, 3)), 1.0)
        )
    with pytest.raises(EngineError, match="expected a box of at least 2 nm"):
        engine.minimise(replace(start, box=0.6 * start.box), Minimisation(5))
    with pytest.raises(InputError, match="finite coordinates"):
        engine.run(replace(start, positions=start.positions * np.nan), Dynamics(5, 300.0))
    with pytest.raises(InputError, match="periodic box"):
        engine.run(replace(start, box=0.0 * start.box), Dynamics(5, 300.0))


def test_names_of_engines(monkeypatch):
    with pytest.raises(InputError, match=r"engine: expected one of auto, .* found 'lammps'"):
        choose("lammps")
    assert choose("openmm-cpu") == ("openmm", "CPU")
    topology, _ = system("mixed")
    with pytest.raises(InputError, match="threads: expected a whole number above 0, found 0"):
        open_engine(topology, threads=0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="expected GROMACS"):
        choose("gromacs")
    assert choose("auto")[0] == "openmm"


@pytest.mark.skipif(not has_gromacs(), reason="gmx is not installed")
def test_an_interrupted_run_leaves_no_process_and_no_file(tmp_path):
    code = f"""
import signal
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
from deepbackmap.dynamics.containers import Dynamics
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
folder = Path({str(HERE / "data" / "mixed")!r})
engine = open_engine(read_topology(folder / "mixed.top"), name="gromacs", threads=1,
                     scratch=Path({str(tmp_path)!r}))
engine.run(read_frames(folder / "mixed.gro")[0], Dynamics(10**8, 300.0, timestep=1e-5))
"""
    # its own session, so that the signal reaches Python alone and it must see to its child
    python = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=-1)
    deadline = time.monotonic() + 60.0
    while not list(tmp_path.glob("*/run.edr")):
        assert python.poll() is None, python.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    python.send_signal(signal.SIGINT)
    _, said = python.communicate(timeout=30.0)
    assert b"KeyboardInterrupt" in said
    assert list(tmp_path.iterdir()) == []
    session = str(python.pid)
    left = [p for p in Path("/proc").glob("[0-9]*/stat") if _session(p) == session]
    assert left == []


def _session(stat):
    """Session of a process, or nothing if it has just ended."""
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[3]
    except (OSError, IndexError):
        return ""


@pytest.mark.skipif(not has_gromacs(), reason="gmx is not installed")
def test_no_scratch_file_is_left(tmp_path):
    topology, start = system("mixed")
    engine = open_engine(topology, name="gromacs", threads=1, scratch=tmp_path)
    engine.run(relaxed("mixed"), Dynamics(5, 300.0))
    with pytest.raises(EngineError):
        engine.run(start, Dynamics(2000, 3e5, timestep=0.01, friction=0.1))
    assert list(tmp_path.iterdir()) == []
