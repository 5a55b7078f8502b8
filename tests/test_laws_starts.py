"""What stands before a run: tails of forces, starts, names for messages, bars, weights, data."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import openmm as mm
import pytest
from openmm import unit
from scipy import integrate

import small_polystyrene as ps
from cli_systems import write_system
from deepbackmap.api.bar import FrameBar
from deepbackmap.data.frames import read_systems
from deepbackmap.data.options import DataOptions
from deepbackmap.dynamics.containers import Dynamics, Hold, Minimisation, Segment
from deepbackmap.dynamics.dispersion import dispersion_coefficient
from deepbackmap.dynamics.naming import Atoms
from deepbackmap.dynamics.sited_engine import SitedEngine
from deepbackmap.dynamics.start import check_dynamics, held_beads, whole_start
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import wrap
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping.weights import FAILS, Sums, fit
from deepbackmap.system import Structure
from deepbackmap.system.lean import without_sites
from deepbackmap.system.whole import bond_trees
from evaluation_systems import SKEWED, molecule, topology
from sited_systems import write_sited

# --- attraction beyond the cut-off ----------------------------------------------------------------

SIGMA, EPSILON = 0.33, 0.7


def test_the_tail_of_a_gas_is_the_integral_of_its_attraction():
    """N^2 / 2 times the mean over the volume of -c6 / r^6 from the cut-off on."""
    n, cutoff = 50, 0.8
    gas = topology(molecule(["C"], []), counts=[n], sigma=SIGMA, epsilon=EPSILON)
    c6 = 4 * EPSILON * SIGMA**6
    r = np.exp(np.linspace(math.log(cutoff), math.log(400.0), 200_001))
    integral = integrate.trapezoid(-c6 / r**6 * 4 * np.pi * r**2, r)
    assert dispersion_coefficient(gas, cutoff) == pytest.approx(0.5 * n * n * integral, rel=1e-6)
    # of the third power of the cut-off, and of nothing where nothing attracts
    ratio = dispersion_coefficient(gas, cutoff) / dispersion_coefficient(gas, 2 * cutoff)
    assert ratio == pytest.approx(8.0)
    bare = replace(gas, c6=0 * gas.c6)
    assert dispersion_coefficient(bare, cutoff) == 0.0
    assert dispersion_coefficient(topology(molecule(["C"], []), counts=[1]), cutoff) == 0.0


def test_the_tail_is_openmms_but_for_its_repulsion():
    """Which OpenMM corrects too: 8 pi N^2 / V (eps sigma^12 / 9 rc^9 - eps sigma^6 / 3 rc^3)."""
    n, cutoff, edge = 30, 0.9, 2.5
    gas = topology(molecule(["C"], []), counts=[n], sigma=SIGMA, epsilon=EPSILON)
    energies = []
    for corrected in (True, False):
        system, force = mm.System(), mm.NonbondedForce()
        system.setDefaultPeriodicBoxVectors(*(edge * np.eye(3)))
        force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(cutoff)
        force.setUseDispersionCorrection(corrected)
        for _ in range(n):
            system.addParticle(12.0)
            force.addParticle(0.0, SIGMA, EPSILON)
        system.addForce(force)
        context = mm.Context(
            system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
        )
        context.setPositions(np.random.default_rng(0).uniform(0, edge, (n, 3)))
        found = context.getState(getEnergy=True).getPotentialEnergy()
        energies.append(found.value_in_unit(unit.kilojoule_per_mole))
    repulsion = 8 * np.pi * n * n / edge**3 * EPSILON * SIGMA**12 / (9 * cutoff**9)
    ours = dispersion_coefficient(gas, cutoff) / edge**3
    assert energies[0] - energies[1] == pytest.approx(ours + repulsion, rel=1e-4)


def test_the_tail_of_a_mixture_is_that_of_its_mean_pair():
    """Over all pairs that are not excluded, counted one by one."""
    one, two = molecule(["C", "O"], [(0, 1)], exclusions=[(0, 1)]), molecule(["N"], [])
    mixed = topology(one, two, counts=[3, 4])
    rng = np.random.default_rng(1)
    table = rng.uniform(0.5, 2.0, mixed.c6.shape) * 1e-3
    mixed = replace(mixed, c6=0.5 * (table + table.T))
    types = mixed.atom_type_index()
    pairs = [
        mixed.c6[types[a], types[b]]
        for a in range(10) for b in range(a)
        if not (a < 6 and a // 2 == b // 2)
    ]  # fmt: skip
    expected = -2 / 3 * np.pi * 100 * np.mean(pairs) / 0.7**3
    assert dispersion_coefficient(mixed, 0.7) == pytest.approx(expected)


# --- starts ---------------------------------------------------------------------------------------


def test_a_start_is_whole_has_its_sites_and_no_holes(tmp_path):
    top, gro, _ = write_sited(tmp_path, waters=6, chains=2)
    system = read_topology(top)
    with read_frames(gro) as source:
        frame = source[0]
    trees = bond_trees(system)
    # a site that a file has elsewhere does not take the atoms that it is made of with it
    off = -1.15 * np.array([0.787, 0.617, 0.0]) * system.virtual()[:, None]
    torn = replace(frame, positions=wrap(frame.positions + off + 1.1, frame.box))
    whole = whole_start(system, trees, torn)
    bonds = system.expand_terms("bond")
    d = whole[bonds.atoms[:, 0]] - whole[bonds.atoms[:, 1]]
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), 0.153, atol=2e-3)
    sites = replace(frame, positions=wrap(frame.positions + 1.1, frame.box))
    np.testing.assert_allclose(whole, whole_start(system, trees, sites), atol=1e-9)
    again = whole_start(system, trees, replace(frame, positions=whole))
    np.testing.assert_allclose(again, whole, atol=1e-9)
    bad = replace(frame, positions=frame.positions.copy())
    bad.positions[3, 1] = np.inf
    with pytest.raises(InputError, match=r"expected finite coordinates, found .* for atom 4"):
        whole_start(system, trees, bad)
    with pytest.raises(InputError, match="expected a periodic box, found none"):
        whole_start(system, trees, replace(frame, box=np.zeros((3, 3))))


def test_options_that_no_run_can_have_are_refused_by_name():
    good = Dynamics(steps=10, temperature=300.0)
    check_dynamics(good, ("langevin",), "any")
    for change in ({"temperature": 0.0}, {"timestep": -0.001}, {"friction": 0.0}, {"every": 0},
                   {"steps": -1}, {"frames_every": -5}, {"temperature": math.nan}):  # fmt: skip
        (name,) = change
        with pytest.raises(InputError, match=f"^{name}: expected a"):
            check_dynamics(replace(good, **change), ("langevin",), "any")
    with pytest.raises(InputError, match="thermostat: expected langevin with any, found 'nose'"):
        check_dynamics(replace(good, thermostat="nose"), ("langevin",), "any")
    check_dynamics(replace(good, thermostat="v-rescale"), ("langevin", "v-rescale"), "any")


def test_beads_are_held_in_the_image_nearest_to_where_they_are():
    frame, mapping = ps.atoms(), ps.mapping()
    beads = ps.beads(frame).positions
    goal = beads + 0.05 * np.random.default_rng(2).normal(size=beads.shape)
    lattice = np.random.default_rng(3).integers(-2, 3, beads.shape) @ frame.box
    found = held_beads(mapping, frame.positions, frame.box, Hold(goal + lattice, 1e3))
    np.testing.assert_allclose(found, goal, atol=1e-9)
    with pytest.raises(InputError, match="expected a mapping when the engine was opened"):
        held_beads(None, frame.positions, frame.box, Hold(goal, 1e3))
    with pytest.raises(InputError, match=f"expected {len(beads)} beads as in the mapping, found 2"):
        held_beads(mapping, frame.positions, frame.box, Hold(goal[:2], 1e3))


def test_atoms_have_names_molecules_and_contacts():
    kind = molecule(["C", "O", "H"], [(0, 1), (1, 2)], exclusions=[(0, 1), (1, 2), (0, 2)])
    names = Atoms(topology(kind, counts=[3]))
    assert names.describe(4) == "atom O2 of molecule 2 (MOL)"
    assert names.describe(3, 5) == "atoms C1 and H3 of molecule 2 (MOL)"
    assert names.describe(0, 4) == "atom C1 of molecule 1 (MOL) and atom O2 of molecule 2 (MOL)"
    shape = np.array([[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    up, near = np.array([0.0, 0.9, 0.0]), SKEWED[2] + np.array([0.0, 0.0, 0.12])
    x = np.concatenate([shape, shape + up, shape + near])
    said = names.closest_contact(Structure(x, SKEWED))
    assert "are 0.1200 nm apart" in said and "molecule 1" in said and "molecule 3" in said
    apart = np.array([0.0, 0.7, 0.3])
    far = Structure(np.concatenate([shape + k * apart for k in range(3)]), SKEWED)
    assert names.closest_contact(far) == ""  # what is bonded is no contact
    vectors = np.zeros((9, 3))
    vectors[7, 2] = -3.0
    assert names.largest(vectors) == "atom O2 of molecule 3 (MOL)"
    vectors[2, 0] = math.nan
    assert names.largest(vectors) == "atom H3 of molecule 1 (MOL)"


def test_an_engine_without_sites_sees_none_and_gives_them_back(tmp_path):
    top, gro, _ = write_sited(tmp_path, waters=3, chains=1)
    system = read_topology(top)
    lean = without_sites(system)
    with read_frames(gro) as source:
        frame = source[0]
    seen = []

    class Bare:
        name = "bare"

        def run(self, structure, options, velocities=None, hold=None):
            seen.append((structure.n, velocities))
            moved = replace(structure, positions=structure.positions + 0.25)
            return Segment(moved, np.ones((structure.n, 3)), np.array([0]), {}, (moved, moved), 1)

        def minimise(self, structure, options, hold=None):
            seen.append((structure.n, None))
            return Segment(structure, None, np.array([0]), {}, (structure,), 1)

    engine = SitedEngine(Bare(), lean)
    assert engine.name == "bare"
    v = np.random.default_rng(0).normal(size=frame.positions.shape)
    segment = engine.run(frame, Dynamics(1, 300.0), v)
    assert seen[0][0] == lean.topology.n_atoms
    np.testing.assert_array_equal(seen[0][1], v[lean.real])
    for structure in (segment.structure, *segment.frames):
        np.testing.assert_allclose(structure.positions, frame.positions + 0.25, atol=2e-3)
    assert not segment.velocities[~lean.real].any()
    assert (segment.velocities[lean.real] == 1.0).all()
    assert engine.minimise(frame, Minimisation(1)).velocities is None


def test_a_bar_counts_to_its_end_and_no_further(monkeypatch):
    """Whether what is done inside of a frame is told exactly, too much, or not at all."""
    shown = []

    def bar(total, unit, disable):
        made = SimpleNamespace(n=0, total=total, close=lambda: shown.append("closed"))

        def update(step):
            assert step >= 0
            made.n += step
            shown.append(made.n)

        made.update, made.set_description = update, lambda text, refresh=True: shown.append(text)
        return made

    monkeypatch.setattr("deepbackmap.api.bar.tqdm", bar)
    for told in ((3, 7), (4, 99), ()):
        shown.clear()
        with FrameBar(2, 10, "block", show=True) as found:
            for frame in range(2):
                for done in told:
                    found.count(done)
                    assert 10 * frame <= shown[-1] <= 10 * (frame + 1)
                found.next_frame()
        counts = [s for s in shown if isinstance(s, int)]
        assert counts == sorted(counts)
        assert counts[-1] == 20
        assert [s for s in shown if isinstance(s, str)] == [
            "frame 1/2", "frame 2/2", "frame 2/2", "closed"
        ]  # fmt: skip


# --- weights of a bead ----------------------------------------------------------------------------

MASSES = np.array([12.0, 12.0, 12.0, 16.0, 1.0, 1.0])
BONDS = ((0, 1), (1, 2), (2, 3), (0, 4), (1, 5))


def sums(weights, frames=400, noise=0.0, seed=0):
    """Products of the vectors from a bead of some weights to six atoms."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(0.0, 0.08, (frames, 6, 3)), axis=1)
    bead = np.einsum("a,fac->fc", weights, x) + noise * rng.normal(size=(frames, 3))
    y = x - bead[:, None]
    return Sums(tuple("ABCDHG"), MASSES, BONDS, frozenset(), np.einsum("fac,fbc->ab", y, y), frames)


@pytest.mark.parametrize(
    ("shares", "by_mass"),
    [
        ({"A": 1, "B": 1, "H": 1, "G": 1}, True),
        ({"B": 1, "C": 1}, True),
        ({"C": 1, "D": 1}, False),
        ({"C": 1}, False),
        ({"A": 0.5, "B": 1, "C": 0.5, "H": 0.5, "G": 1}, True),
        ({"A": 1, "B": 1, "C": 1, "D": 1, "H": 1, "G": 1}, True),
    ],
)
def test_weights_that_people_write_are_found(shares, by_mass):
    w = np.array([shares.get(name, 0.0) for name in "ABCDHG"])
    w = w * (MASSES if by_mass else 1.0)
    w /= w.sum()
    for noise in (0.0, 3e-4):
        found = fit(sums(w, noise=noise), "A", "cg.gro")
        assert found.shares == shares
        if len({MASSES["ABCDHG".index(name)] for name in shares}) > 1:  # else both are one
            assert found.mass_weighted == by_mass
        assert found.rms == pytest.approx(noise * math.sqrt(3), rel=0.2, abs=1e-6)


def test_weights_of_no_kind_are_free_and_a_bead_of_nothing_near_is_refused():
    w = np.array([0.41, 0.13, 0.0, 0.46, 0.0, 0.0])
    found = fit(sums(w), "A", "cg.gro")
    assert {n: pytest.approx(x, abs=0.01) for n, x in found.shares.items()} == {
        "A": 0.41, "B": 0.13, "D": 0.46
    }  # fmt: skip
    with pytest.raises(InputError, match=r"cg\.gro: expected beads that are means of atoms near"):
        fit(sums(w, noise=3 * FAILS), "bead A", "cg.gro")
    with pytest.raises(InputError, match="expected frames of atoms and beads, found none"):
        fit(replace(sums(w), count=0), "A", "cg.gro")


# --- frames to train on ---------------------------------------------------------------------------


def test_training_frames_are_read_chosen_and_checked(tmp_path):
    write_system(tmp_path)
    given = DataOptions(
        topology=str(tmp_path / "topol.top"), mapping="ps-two-bead", temperature=450.0,
        structure=str(tmp_path / "aa.gro"), trajectory=str(tmp_path / "aa.xtc"), train="0:2",
        validate="2:3",
    )  # fmt: skip
    (training,), (held_out,) = read_systems(given, 1.0)
    assert (len(training.structures), len(held_out.structures)) == (2, 1)
    assert training.temperatures == (450.0, 450.0)
    for structure, beads in zip(training.structures, training.beads, strict=True):
        assert beads.shape == (training.mapping.n_beads, 3)
        assert structure.n == training.mapping.topology.n_atoms
    assert read_systems(replace(given, validate=""), 1.0)[1] == []
    # beads from a file are those that atoms are mapped to, as far as the file has digits
    with_beads = replace(given, beads=str(tmp_path / "cg.gro"), train="0:1", validate="")
    ((from_file,), _) = read_systems(with_beads, 1.0)
    np.testing.assert_allclose(from_file.beads[0], training.beads[0], atol=1.1e-3)
    fewer = tmp_path / "twice.gro"  # frames 0:2 of it are one
    fewer.write_text((tmp_path / "cg.gro").read_text())
    with pytest.raises(InputError, match=r"twice\.gro: expected 2 frames as of the atoms \(frames"):
        read_systems(replace(with_beads, train="0:2", beads=str(fewer)), 1.0)
    with pytest.raises(InputError, match=r"frame 0: expected a box at least 9\.000 nm high"):
        read_systems(given, 9.0)
    for name in ("topology", "mapping", "structure"):
        with pytest.raises(InputError, match=f"data.{name}: expected a file, found nothing"):
            read_systems(replace(given, **{name: ""}), 1.0)
    with pytest.raises(InputError, match=r"data\.temperature: expected the frames' temperature"):
        read_systems(replace(given, temperature=0.0), 1.0)
