"""Every kind of term through OpenMM and through the topology that we write for GROMACS."""

from dataclasses import replace

import numpy as np
import openmm as mm
import pytest
import torch
from openmm import unit

from deepbackmap.dynamics.containers import EngineError, Interactions
from deepbackmap.dynamics.gromacs_topology import TopologyVariant, topology_text
from deepbackmap.dynamics.openmm_system import FORMULAS, GROUPS, OWN, Recipe, build_system
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.system import Structure
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.whole import make_whole
from test_forcefield_kinds import BOX, STORED, positions, stored, topology, with_couplings

INTERACTIONS = Interactions(cutoff=1.0, reaction_field_epsilon=2.5)
PLACED_BY_OPENMM = ("site2", "site3", "site3_out")


def with_sites(system, kinds):
    molecules = tuple(
        replace(m, sites={k: v for k, v in m.sites.items() if k in kinds})
        for m in system.molecule_types
    )
    return replace(system, molecule_types=molecules)


def context(system, recipe=Recipe(constrain=False)):
    built = build_system(system, INTERACTIONS, recipe, None, BOX)
    made = mm.Context(
        built.system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    return built, made


def test_every_kind_has_a_force():
    known = {name for name, kind in KINDS.items() if kind.counted}
    assert known == set(FORMULAS) | set(OWN) | {"cmap"}


@pytest.mark.parametrize("rule", STORED["energies"])
def test_openmm_computes_every_kind(rule):
    system = topology(rule)
    x = make_whole(positions(), BOX, system)
    built, made = context(with_sites(system, PLACED_BY_OPENMM))
    made.setPositions(x)
    found = {}
    for name in built.groups:
        state = made.getState(getEnergy=True, groups={GROUPS[name]})
        found[name] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    found["coulomb"] += found.pop("excluded") + built.charge_energy
    assert sum(found.values()) == pytest.approx(stored(rule, "Potential"), rel=1e-8)
    field = ForceField.from_topology(system, cutoff=1.0, reaction_field_epsilon=2.5)
    assert found == pytest.approx(field.energies_by_term(Structure(x, BOX)), rel=1e-8)


def test_openmm_has_our_forces():
    system = with_sites(with_couplings(topology()), ())
    x = make_whole(positions(), BOX, system)
    # without sites there are atoms without mass, on which forces act all the same
    built, made = context(system)
    made.setPositions(x)
    forces = made.getState(getForces=True).getForces(asNumpy=True)
    theirs = forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    field = ForceField.from_topology(system, cutoff=1.0, reaction_field_epsilon=2.5)
    energy = made.getState(getEnergy=True).getPotentialEnergy()
    total = field.energies_by_term(Structure(x, BOX))
    parts = energy.value_in_unit(unit.kilojoule_per_mole) + built.charge_energy
    assert parts == pytest.approx(sum(total.values()), rel=1e-8)
    at = torch.tensor(x, requires_grad=True)
    torch.stack(list(field.energies(at, torch.tensor(BOX)).values())).sum().backward()
    np.testing.assert_allclose(theirs, -at.grad.numpy(), rtol=1e-6, atol=1e-5)


def test_openmm_places_sites_as_we_do():
    from deepbackmap.system.sites import place_sites

    system = with_sites(topology(), PLACED_BY_OPENMM)
    x = make_whole(positions(), BOX, system)
    _, made = context(system)
    made.setPositions(x)
    made.computeVirtualSites()
    theirs = made.getState(getPositions=True).getPositions(asNumpy=True)
    ours = place_sites(x, BOX, system)
    np.testing.assert_allclose(theirs.value_in_unit(unit.nanometer), ours, atol=1e-9)


def test_sites_that_openmm_has_not_are_named():
    with pytest.raises(EngineError, match=r"virtual_sites1.*use the engine gromacs"):
        context(with_sites(topology(), ("site1",)))
    with pytest.raises(EngineError, match=r"means of 2 or 3 atoms .* found one of 4"):
        context(with_sites(topology(), ("site_mean",)))


def without_tables(system):
    molecules = tuple(
        replace(m, terms={k: v for k, v in m.terms.items() if KINDS[k].grids != 1})
        for m in system.molecule_types
    )
    return replace(system, molecule_types=molecules)


@pytest.mark.parametrize("rule", ["", "RULE1"])
def test_what_is_written_for_gromacs_means_the_same(tmp_path, rule):
    system = without_tables(topology(rule))
    (tmp_path / "a.top").write_text(topology_text(system))
    again = read_topology(tmp_path / "a.top")
    structure = Structure(positions(), BOX)

    def energies(of):
        field = ForceField.from_topology(of, cutoff=1.0, reaction_field_epsilon=2.5)
        return field.energies_by_term(structure)

    assert energies(again) == pytest.approx(energies(system), rel=1e-9)
    for ours, theirs in zip(system.molecule_types, again.molecule_types, strict=True):
        assert (ours.masses == theirs.masses).all() and (ours.virtual == theirs.virtual).all()
        assert set(theirs.sites) == set(ours.sites)
        for kind, listed in ours.sites.items():
            np.testing.assert_allclose(theirs.sites[kind].parameters, listed.parameters, rtol=1e-9)
        assert (ours.exclusions == theirs.exclusions).all()
    bare = topology_text(system, TopologyVariant(bond_constant=5.0, nonbonded=False))
    (tmp_path / "b.top").write_text(bare)
    chain = read_topology(tmp_path / "b.top").molecule_types[0]
    assert not {"lj14_powers", "coulomb14", "morse", "bond_g96", "bond_cubic"} & set(chain.terms)
    assert set(chain.terms["bond"].parameters[:, 1]) == {5.0}


def test_tables_cannot_be_written():
    with pytest.raises(InputError, match="found 1 tabulated ones"):
        topology_text(topology())


def test_what_gromacs_has_no_function_for_cannot_be_written():
    system = with_couplings(without_tables(topology()))
    with pytest.raises(InputError, match=r"found 1 of bond_bend, \(k ij .* use the engine openmm"):
        topology_text(system)
