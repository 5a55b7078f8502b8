"""Virtual sites of all kinds in the verbs: never placed, always constructed."""

import numpy as np
import pytest

from cli_systems import command, refused
from deepbackmap.dynamics.engines import has_gromacs
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.system import Structure
from deepbackmap.system.lean import site_shares, without_sites
from deepbackmap.system.sites import place_sites
from sited_systems import MAPPING, TIP4P, TIP4P_DISTANCE, WATER_ATOMS, write_sited

BOX = np.eye(3) * 2.6


def read(path):
    with read_frames(path) as source:
        return source[0]


def named(topology, name):
    return next(m for m in topology.molecule_types if m.name == name)


def in_place(path, top):
    """How far the sites of a file are from where its atoms say, nm."""
    frame, topology = read(path), read_topology(top)
    off = place_sites(frame.positions, frame.box, topology) - frame.positions
    return np.abs(off)[topology.virtual()]


def test_map_needs_no_owner_of_a_site(tmp_path, monkeypatch):
    top, gro, mapping = write_sited(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert command("map", gro, "-p", top, "--mapping", mapping, "-o", "cg.gro").code == 0
    atoms, beads = read(gro).positions, read(tmp_path / "cg.gro").positions
    weights = np.array([15.035, 14.027, 14.027, 15.035])
    centre = weights @ atoms[:4] / weights.sum()
    apart = centre - beads[0]
    assert np.abs(apart - 2.6 * np.rint(apart / 2.6)).max() < 6e-4
    water = np.array([16.0, 1.008, 1.008])
    apart = water @ atoms[36:39] / water.sum() - beads[4]
    assert np.abs(apart - 2.6 * np.rint(apart / 2.6)).max() < 6e-4


@pytest.mark.parametrize("function", [TIP4P, TIP4P_DISTANCE])
def test_charge_and_dipole_of_water_stay_without_its_site(tmp_path, function):
    top, _, _ = write_sited(tmp_path, function=function)
    lean = without_sites(read_topology(top))
    full, bare = named(lean.full, "SOL"), named(lean.topology, "SOL")
    assert bare.n_atoms == 3 and not bare.sites
    positions = WATER_ATOMS.copy()
    # exactly the geometry of the topology
    half = 0.15139 / 2
    positions[1:3] = [
        [half, np.sqrt(0.09572**2 - half**2), 0],
        [-half, np.sqrt(0.09572**2 - half**2), 0],
    ]
    one = read_topology(top)
    water = place_sites(
        positions,
        np.zeros((3, 3)),
        type(one)("w", (full,), ((0, 1),), one.type_names, one.c6, one.c12),
    )
    assert np.linalg.norm(water[3]) == pytest.approx(0.015, abs=2e-5)
    assert bare.charges.sum() == pytest.approx(full.charges.sum(), abs=1e-12)
    assert bare.charges @ water[:3] == pytest.approx(full.charges @ water, abs=1e-7)


def test_terms_and_exclusions_keep_to_the_atoms(tmp_path):
    top, _, _ = write_sited(tmp_path)
    lean = without_sites(read_topology(top))
    bare = named(lean.topology, "MOL")
    assert bare.atom_names == ("C1", "C2", "C3", "C4")
    assert bare.exclusions.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert {k: len(t.atoms) for k, t in bare.terms.items()} == {"bond": 3, "angle": 2, "proper": 1}
    assert lean.sites == 4 * 5 + 40 and lean.topology.n_atoms == 4 * 4 + 40 * 3
    shares = site_shares(named(lean.full, "MOL"))
    assert all(sum(s for _, s in rows) == pytest.approx(1.0) for rows in shares.values())
    plain = without_sites(lean.topology)
    assert plain.topology is lean.topology and not plain.notes()


def test_strip_and_fill_are_each_others_inverse(tmp_path):
    top, gro, _ = write_sited(tmp_path)
    lean, frame = without_sites(read_topology(top)), read(gro)
    back = lean.fill(lean.strip(frame))
    assert np.abs(back.positions - frame.positions).max() < 2e-3  # three decimals of the file


def test_a_bead_on_a_site_is_a_mean_of_atoms_or_refused(tmp_path):
    top, gro, _ = write_sited(tmp_path)
    lean, frame = without_sites(read_topology(top)), read(gro)
    text = MAPPING.replace(
        "atoms: [OW, HW1, HW2, MW]", "weights: plain, atoms: [MW], owns: [OW, HW1, HW2]"
    )
    (tmp_path / "on.yaml").write_text(text)
    full = load_mapping(tmp_path / "on.yaml").resolve(lean.full)
    bare = lean_mapping(full, lean)
    filled = lean.fill(lean.strip(frame))
    there, here = (
        map_positions(full, filled.positions),
        map_positions(bare, lean.strip(frame).positions),
    )
    assert here == pytest.approx(there, abs=1e-9)
    text = MAPPING.replace("atoms: [C1, C2, C3, C4]",
                           "weights: plain, atoms: [V3], owns: [C1, C2, C3, C4]")  # fmt: skip
    (tmp_path / "out.yaml").write_text(text)
    with pytest.raises(InputError, match="virtual site V3, whose place is none"):
        lean_mapping(load_mapping(tmp_path / "out.yaml").resolve(lean.full), lean)


def test_beads_of_sites_alone_are_refused(tmp_path, monkeypatch):
    top, gro, mapping = write_sited(tmp_path)
    monkeypatch.chdir(tmp_path)
    mapping.write_text(MAPPING + "      - {name: X, type: X, atoms: [V1]}\n")
    said = refused("map", gro, "-p", top, "--mapping", mapping, "-o", "cg.gro")
    assert "bead X of molecule MOL to stand for atoms, found virtual sites alone" in said


def test_without_a_model_sites_are_constructed(tmp_path, monkeypatch):
    top, gro, mapping = write_sited(tmp_path)
    monkeypatch.chdir(tmp_path)
    command("map", gro, "-p", top, "--mapping", mapping, "-o", "cg.gro")
    done = command("backmap", "cg.gro", "-p", top, "--mapping", mapping, "--model", "none",
                   "--temperature", 300, "-o", "out.trr", "--option", "conformations=2400",
                   "--option", "pieces=600")  # fmt: skip
    assert done.code == 0, done
    assert "60 virtual sites are constructed from the atoms" in done.out
    topology = read_topology(top)
    with read_frames(gro, "out.trr") as source:
        made = source[0]
    off = np.abs(place_sites(made.positions, made.box, topology) - made.positions)
    assert off.max() < 1e-5
    first = made.positions[:9]
    assert np.linalg.norm(first[4] - first[0]) == pytest.approx(0.12, abs=1e-5)  # 3fd
    assert np.linalg.norm(first[6] - first[1]) == pytest.approx(0.1, abs=1e-5)  # 4fdn
    masses = np.array([15.035, 14.027, 14.027, 15.035])
    assert first[8] == pytest.approx(masses @ first[:4] / masses.sum(), abs=1e-5)  # n, by mass
    across = np.cross(first[0] - first[1], first[2] - first[1])
    out = first[5] - first[1] - 0.3 * (first[0] - first[1]) - 0.3 * (first[2] - first[1])
    assert out == pytest.approx(2.5 * across, abs=1e-5)  # 3out


@pytest.mark.parametrize("method", ["backward", "template"])
def test_baselines_construct_sites(tmp_path, monkeypatch, method):
    top, gro, mapping = write_sited(tmp_path)
    monkeypatch.chdir(tmp_path)
    command("map", gro, "-p", top, "--mapping", mapping, "-o", "cg.gro")
    more = ["--structure", gro, "--seed", 1] if method == "template" else ["--kick", 0.05]
    done = command("baseline", "cg.gro", "-p", top, "--mapping", mapping, "--method", method,
                   *more, "--engine", "openmm-cpu", "--keep-defects", "-o", "out.gro")  # fmt: skip
    assert done.code == 0, done
    assert "60 virtual sites are constructed from the atoms" in done.out
    assert in_place("out.gro", top).max() < 2e-3
    assert command("map", "out.gro", "-p", top, "--mapping", mapping, "-o", "again.gro").code == 0
    off = read("again.gro").positions - read("cg.gro").positions
    off -= 2.6 * np.rint(off / 2.6)
    assert np.sqrt((off**2).sum(axis=1).mean()) < 0.25  # minimised without holding beads
    assert np.abs(read("out.gro").positions - read(gro).positions).max() > 0.01


@pytest.mark.parametrize("engine", ["internal", "openmm-cpu", "gromacs"])
def test_finishing_keeps_sites_in_their_places(tmp_path, monkeypatch, engine):
    if engine == "gromacs" and not has_gromacs():
        pytest.skip("GROMACS is absent")
    # OpenMM has no sites at a distance
    top, gro, _ = write_sited(tmp_path, chains=0 if engine == "openmm-cpu" else 4)
    monkeypatch.chdir(tmp_path)
    done = command("finish", gro, "-p", top, "-o", "done.gro", "--temperature", 300,
                   "--steps", 20, "--engine", engine)  # fmt: skip
    assert done.code == 0, done
    assert in_place("done.gro", top).max() < 2e-3
    moved = read("done.gro").positions - read(gro).positions
    assert np.abs(moved).max() > 0.005


def test_openmm_says_which_engine_has_other_sites(tmp_path, monkeypatch):
    top, gro, _ = write_sited(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = refused("finish", gro, "-p", top, "-o", "x.gro", "--temperature", 300,
                   "--engine", "openmm-cpu")  # fmt: skip
    assert "use the engine gromacs or internal" in said


def test_energies_of_shared_charges_are_held_against_none(tmp_path, monkeypatch):
    top, gro, _ = write_sited(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = refused(
        "md",
        "--start",
        f"a={gro}",
        "-p",
        top,
        "--reference",
        gro,
        "-o",
        "runs",
        "--temperature",
        300,
        "--time",
        1,
        "--pressure",
        "none",
        "--engine",
        "internal",
    )
    assert "expected an engine with virtual sites where energies are held against" in said


def test_structures_come_back_without_sites_only_when_stripped(tmp_path):
    top, gro, _ = write_sited(tmp_path)
    lean, frame = without_sites(read_topology(top)), read(gro)
    bare = lean.strip(frame)
    assert bare.n == lean.topology.n_atoms and lean.fill(bare).n == frame.n
    assert lean.strip(Structure(frame.positions, BOX)).positions == pytest.approx(bare.positions)
