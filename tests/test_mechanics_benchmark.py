"""The benchmark's network: a melt whose chains are linked to one molecule, also across the box."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mechanics import constraints
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole, spanning_molecules

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
LINKS = 40


@pytest.fixture(scope="module")
def network():
    """Mapping and frame of the packaged melt, linked."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "mechanics.py"
    spec = importlib.util.spec_from_file_location("mechanics_benchmark", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    topology = read_topology(MELT / "topol.top")
    with read_frames(MELT / "aa.gro") as source:
        frame = source[0]
    whole = Structure(make_whole(frame.positions, frame.box, topology), frame.box)
    return benchmark.linked(load_mapping("ps-two-bead").resolve(topology), whole, LINKS)


def lengths_off(mapping, x, box):
    atoms, lengths = constraints.rigid_bonds(mapping.topology.molecule_types[0], bonds=True)
    d = minimum_image(x[atoms[:, 0]] - x[atoms[:, 1]], box)
    return np.abs(np.linalg.norm(d, axis=1) - lengths)


def test_it_is_one_molecule_bonded_to_its_own_images(network):
    mapping, frame = network
    assert mapping.topology.n_molecules == 1
    assert spanning_molecules(frame.positions, frame.box, mapping.topology).all()
    links = mapping.topology.molecule_types[0].terms["constraint"].atoms[-LINKS:]
    assert len(np.unique(links)) == 2 * LINKS
    assert lengths_off(mapping, frame.positions, frame.box)[-1] < 0.01


@pytest.mark.parametrize("dense", [1000, 0], ids=["full factor", "iteration"])
def test_bonds_links_and_beads_converge(network, dense, monkeypatch):
    monkeypatch.setattr(constraints, "DENSE", dense)
    mapping, frame = network
    x, box = frame.positions, frame.box
    beads = map_positions(mapping, x, box)
    run = Mechanics(mapping).run(x, beads, box, Langevin(6, 568.0), np.arange(len(x)))
    assert not len(run.broken) and not len(run.strained)
    assert lengths_off(mapping, run.positions, box).max() < 1e-6
    off = minimum_image(map_positions(mapping, run.positions, box) - beads, box)
    assert np.abs(off).max() < 1e-6
    assert np.linalg.norm(run.positions - x, axis=1).max() > 0.01
