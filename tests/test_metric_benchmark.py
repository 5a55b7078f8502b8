"""The benchmark of the metric factor: hand values, turned molecules, its smoke mode."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import small_polystyrene as ps
from test_mechanics_constraints import beads_at, molecule


@pytest.fixture(scope="module")
def metric():
    path = Path(__file__).parents[1] / "benchmarks" / "metric_factor.py"
    found = importlib.util.spec_from_file_location("metric_factor", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_a_bead_at_the_centre_of_mass_does_not_see_the_bonds(metric):
    """Z is then block diagonal, and the bead's block is 1/M in each direction."""
    rod = molecule("rod", [12.0, 16.0], [(0, 1, 0.15)])
    beads = beads_at(2, {0: 12.0, 1: 16.0})
    x = np.array([[0.0, 0.0, 0.0], [0.15, 0.0, 0.0]])
    assert metric.factor(rod, beads, x) == pytest.approx(-1.5 * np.log(28.0))


def test_a_bead_on_an_atom_moves_as_much_as_the_bond_lets_it(metric):
    """Along the bond as heavy as both atoms, across it as its own atom."""
    rod = molecule("rod", [12.0, 16.0], [(0, 1, 0.15)])
    x = np.array([[0.0, 0.0, 0.0], [0.0, 0.15, 0.0]])
    expected = -0.5 * np.log(28.0) - np.log(12.0)
    assert metric.factor(rod, beads_at(2, {0: 1.0}), x) == pytest.approx(expected)


def test_turned_molecules_have_the_same(metric):
    mapping, x = ps.mapping(), ps.atoms().positions[: ps.ATOMS]
    kind, beads = mapping.topology.molecule_types[0], mapping.molecules[0]
    one = metric.factor(kind, beads, x)
    other = metric.factor(kind, beads, x @ ps.rotation(3).T + 1.0)
    assert one == pytest.approx(other, abs=1e-8)
    # lighter hydrogens in Z alone change it by a constant, nearly
    assert metric.factor(kind, beads, x, 3.0) < one


def test_divergence_on_hand_values(metric):
    assert metric.divergence(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == 0.0
    apart = metric.divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert apart == pytest.approx(np.log(2.0))


def test_smoke_run(metric, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["metric_factor", "--smoke", "--frames", "1", "--steps", "200"]
    )
    metric.main()
    said = capsys.readouterr().out
    assert "melt, 568 K: 12 chains of 17 torsions" in said
    assert said.count("divergence with and without 0.0000") == 4
