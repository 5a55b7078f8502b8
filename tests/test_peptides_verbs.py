"""A tripeptide in water of GROMACS' own force fields: draft, check, map, and back without a model.

One bead a residue, one a water; ``tools/gromacs_peptides.py`` makes the files.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from cli_systems import command
from deepbackmap.io.topology import read_topology
from deepbackmap.io.topology.gromacs_lines import gromacs_include_dirs
from deepbackmap.io.trajectory import read_frames
from deepbackmap.system.sites import place_sites

HERE = Path(__file__).parent / "data" / "peptides"
NAMES = list(json.loads((HERE / "energies.json").read_text())["energies"])


@pytest.fixture(params=NAMES)
def drafted(request, tmp_path, monkeypatch):
    """Topology and coordinates of a force field, and the first mapping that is drafted for it."""
    name = request.param
    force_field = name.rsplit("-", 1)[0]
    if not any((folder / f"{force_field}.ff").is_dir() for folder in gromacs_include_dirs()):
        pytest.skip(f"GROMACS' {force_field}.ff is absent")
    monkeypatch.chdir(tmp_path)
    top = HERE / f"{name}.top"
    assert command("mapping", "draft", "-p", top, "-o", "map.yaml").code == 0
    return name, top, HERE / f"{name}.gro"


def test_drafted_checked_and_mapped(drafted):
    _, top, gro = drafted
    done = command("map", gro, "-p", top, "--mapping", "map.yaml", "-o", "cg.gro")
    assert done.code == 0, done
    topology = read_topology(top)
    with read_frames(gro) as atoms, read_frames("cg.gro") as beads:
        fine, coarse = atoms[0], beads[0]
        assert beads.table.names[:4] == ("ALA", "TRP", "GLY", "SOL")
    water = next(m for m in topology.molecule_types if m.name == "SOL")
    last = fine.positions[-water.n_atoms :]
    centre = last[0] + water.masses @ (last - last[0]) / water.masses.sum()
    apart = centre - coarse.positions[-1]
    apart -= np.diag(fine.box) * np.rint(apart / np.diag(fine.box))
    assert np.abs(apart).max() < 1.1e-3
    done = command("check", "-p", top, "--mapping", "map.yaml", "--beads", "cg.gro", "--model",
                   "none", "--temperature", 300)  # fmt: skip
    assert done.code == 0, done.out


@pytest.mark.parametrize(
    "drafted", ["charmm27-tip3p", "amber99sb-ildn-tip4p", "gromos54a7-spc"], indirect=True
)
def test_and_back_without_a_model(drafted):
    name, top, gro = drafted
    command("map", gro, "-p", top, "--mapping", "map.yaml", "-o", "cg.gro")
    done = command("backmap", "cg.gro", "-p", top, "--mapping", "map.yaml", "--model", "none",
                   "--temperature", 300, "-o", "aa.gro", "--option", "conformations=2400",
                   "--option", "pieces=600")  # fmt: skip
    assert done.code == 0, done
    topology = read_topology(top)
    with read_frames("aa.gro") as source:
        made = source[0]
    assert made.n == topology.n_atoms
    placed = place_sites(made.positions, made.box, topology)
    assert np.abs(placed - made.positions).max() < 2e-3
    assert topology.virtual().any() == name.endswith("tip4p")
    summary = json.loads(Path("aa.gro.json").read_text())["summary"]
    assert summary["figures"]["rings"]["pierced"] == 0
    assert summary["figures"]["beads"]["rms"] < 0.1
