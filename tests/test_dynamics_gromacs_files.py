"""The files for GROMACS: read back by our own reader, and taken by GROMACS without a warning."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.dynamics.containers import Dynamics, Interactions, Minimisation
from deepbackmap.dynamics.gromacs_engine import _lost_bond, read_g96
from deepbackmap.dynamics.gromacs_files import write_gromacs_inputs
from deepbackmap.dynamics.gromacs_topology import TopologyVariant, topology_text
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.io.tables import atom_table
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.system import BondedTerms
from test_dynamics_engines import GROMACS, RULES, relaxed, system

OPTIONS = {
    "langevin": Dynamics(20, 300.0),
    "v-rescale": Dynamics(20, 300.0, thermostat="v-rescale"),
    "barostat": Dynamics(20, 300.0, pressure=1.0),
    "v-rescale with barostat": Dynamics(20, 300.0, thermostat="v-rescale", pressure=1.0),
    "unconstrained": Dynamics(20, 300.0, timestep=0.0005, constrain=False),
    "minimisation": Minimisation(20, 3e5),
}


@RULES
def test_a_written_topology_reads_back_as_the_same_force_field(rule, tmp_path):
    topology, start = system("mixed", rule)
    (tmp_path / "topol.top").write_text(topology_text(topology))
    found = read_topology(tmp_path / "topol.top")
    assert found.blocks == topology.blocks
    for ours, theirs in zip(topology.molecule_types, found.molecule_types, strict=True):
        assert theirs.atom_names == ours.atom_names
        assert theirs.exclusions.tolist() == ours.exclusions.tolist()
        np.testing.assert_allclose(theirs.masses, ours.masses)
    expected = ForceField.from_topology(topology).energies_by_term(start)
    assert ForceField.from_topology(found).energies_by_term(start) == pytest.approx(
        expected, rel=1e-9
    )


def test_pairs_with_charge_factors_of_their_own():
    topology, _ = system("mixed")
    kinds = []
    for molecule in topology.molecule_types:
        factors = 0.5 + 0.1 * np.arange(len(molecule.pairs.atoms))
        parameters = np.column_stack([molecule.pairs.parameters[:, :2], factors])
        pairs = BondedTerms(molecule.pairs.atoms, parameters)
        kinds.append(replace(molecule, pairs=pairs))
    topology = replace(topology, molecule_types=tuple(kinds))
    text = topology_text(topology)
    lines = text.split("[ pairs ]\n")[1].split("\n\n")[0].splitlines()
    assert {line.split()[2] for line in lines} == {"2"}
    assert [float(line.split()[3]) for line in lines] == pytest.approx(
        kinds[0].pairs.parameters[:, 2]
    )


def test_variants_of_a_topology(tmp_path):
    topology, _ = system("mixed")
    (tmp_path / "stiff.top").write_text(topology_text(topology, TopologyVariant(3e5)))
    stiff = read_topology(tmp_path / "stiff.top")
    for ours, theirs in zip(topology.molecule_types, stiff.molecule_types, strict=True):
        assert theirs.bonds.tolist() == ours.bonds.tolist()
        assert "constraint" not in theirs.terms
        assert set(theirs.terms["bond"].parameters[:, 1]) == {3e5}
    variant = TopologyVariant(nonbonded=False)
    (tmp_path / "bonded.top").write_text(topology_text(topology, variant))
    bonded = read_topology(tmp_path / "bonded.top")
    assert not bonded.c6.any()
    assert not bonded.c12.any()
    assert not bonded.charges().any()
    assert not any(len(m.pairs.atoms) for m in bonded.molecule_types)


def test_coordinates_keep_nine_decimals(tmp_path):
    topology, _ = system("mixed")
    start = relaxed("mixed")
    options = Dynamics(5, 300.0, seed=3)
    written = write_gromacs_inputs(tmp_path / "run", topology, atom_table(topology), start, options)
    found = read_frames(written.coordinates)[0]
    fixed = Constraints.of(topology, bonds=True)
    assert np.abs(fixed.deviations(found.positions)).max() < 5e-9
    lattice = found.box @ np.linalg.inv(start.box)
    np.testing.assert_allclose(lattice, np.rint(lattice), atol=1e-7)


@pytest.mark.parametrize("name", [GROMACS])
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("system_name", ["mixed", "melt"])
def test_grompp_and_mdrun_take_what_is_written(name, kind, system_name, tmp_path):
    topology, _ = system(system_name)
    options = OPTIONS[kind]
    folder = tmp_path / "run"
    start = relaxed(system_name)
    write_gromacs_inputs(folder, topology, atom_table(topology), start, options)
    prepare = ["grompp", "-f", "run.mdp", "-c", "conf.gro", "-p", "topol.top", "-o", "run.tpr"]
    said = _gmx(folder, *prepare)
    assert "WARNING" not in said
    if system_name == "melt":
        _gmx(folder, "mdrun", "-deffnm", "run", "-ntmpi", "1", "-ntomp", "1")
        assert (folder / "run.gro").exists()


def _gmx(folder, *words):
    done = subprocess.run(["gmx", "-quiet", *words], cwd=folder, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_existing_files_are_replaced_only_if_asked_for(tmp_path):
    topology, _ = system("mixed")
    start = relaxed("mixed")
    arguments = (tmp_path, topology, atom_table(topology), start, Dynamics(5, 300.0))
    (tmp_path / "topol.top").write_text("mine")
    with pytest.raises(InputError, match=r"topol.top: expected no file of that name"):
        write_gromacs_inputs(*arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["topol.top"]
    written = write_gromacs_inputs(*arguments, force=True)
    assert written.topology.read_text() != "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["conf.gro", "run.mdp", "topol.top"]
    with pytest.raises(InputError, match=r"absent/run: expected a folder that can be written to"):
        write_gromacs_inputs(tmp_path / "absent" / "run", *arguments[1:])


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [
        (2.5, {"coulombtype": "reaction-field", "epsilon-rf": "2.5"}),
        (float("inf"), {"coulombtype": "reaction-field", "epsilon-rf": "0"}),
        (None, {"coulombtype": "cut-off", "coulomb-modifier": "none"}),
    ],
)
def test_settings_say_what_was_asked_for(epsilon, expected, tmp_path):
    topology, _ = system("mixed")
    options = Dynamics(7, 313.0, timestep=0.0005, friction=4.0, seed=41, every=5)
    interactions = Interactions(cutoff=0.9, reaction_field_epsilon=epsilon)
    table = atom_table(topology)
    written = write_gromacs_inputs(
        tmp_path, topology, table, relaxed("mixed"), options, interactions=interactions
    )
    lines = written.settings.read_text().splitlines()
    found = dict(map(str.strip, line.split("=")) for line in lines if "=" in line)
    expected |= {"rvdw": "0.9", "rcoulomb": "0.9", "nsteps": "7", "dt": "0.0005"}
    expected |= {"integrator": "sd", "tau-t": "0.25", "ref-t": "313", "nstenergy": "5"}
    assert expected.items() <= found.items()


def test_g96_blocks(tmp_path):
    rows = [(1.0, -2.5, 1e-9), (0.1, 0.2, 0.3)]
    lines = [
        f"{k:5d} {'A B':<5s} {'C':<5s}{k:7d}" + "".join(f"{x:15.9f}" for x in row)
        for k, row in enumerate(rows, start=1)
    ]
    box = "    3.0 2.0 1.0 0.0 0.0\n 0.5 0.0 -0.4 0.6"
    blocks = ["TITLE\nx", "\n".join(["POSITION", *lines]), f"BOX\n{box}"]
    text = "\nEND\n".join([*blocks, ""])
    (tmp_path / "x.g96").write_text(text)
    found = read_g96(tmp_path / "x.g96")
    assert found["POSITION"].tolist() == [[1.0, -2.5, 1e-9], [0.1, 0.2, 0.3]]
    assert found["BOX"].tolist() == [[3, 0, 0], [0.5, 2, 0], [-0.4, 0.6, 1]]
    assert "VELOCITY" not in found


def test_the_bond_that_was_lost_first_is_found_in_what_lincs_says():
    said = """
Step 0, time 0 (ps)  LINCS WARNING
relative constraint deviation after LINCS:
rms 0.2, max 3.1 (between atoms 7 and 8)
bonds that rotated more than 60 degrees:
 atom 1 atom 2  angle  previous, current, constraint length
     12     13   90.0    0.1531   0.6053      0.1530
      7      8  100.1    0.1531   0.8053      0.1530

Step 1, time 0.001 (ps)  LINCS WARNING
     20     21  100.1    0.1531   9.8053      0.1530
"""
    assert _lost_bond(said) == (7, 8)
    assert _lost_bond("all is well") is None
