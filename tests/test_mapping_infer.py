"""Mappings found from atoms and beads of the same frames, and drafts of a topology."""

import dataclasses

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_systems import command, refused
from deepbackmap.api.mappings import draft_mapping, infer_mapping
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.mapping import MappingFile, load_mapping, map_positions
from deepbackmap.mapping.draft import draft, find_cut, split
from deepbackmap.mapping.infer import infer
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole
from test_io_trajectory import reference
from test_mapping import butane, by_residue, polystyrene
from test_mapping_formats import water
from test_system_whole import molecule, topology

BOX = np.eye(3) * 6.0


def forward(mapping, bead):
    chosen = mapping.weight_beads == bead
    return dict(zip(mapping.weight_atoms[chosen].tolist(), mapping.weights[chosen], strict=True))


def same(a, b, tolerance=1e-6):
    """Two mappings of a molecule: beads, weights and owners."""
    assert a.n_beads == b.n_beads
    assert np.array_equal(a.owner, b.owner)
    for k in range(a.n_beads):
        assert forward(a, k) == pytest.approx(forward(b, k), abs=tolerance)


def pairs(mapping, frames, seed=0, noise=0.0):
    """Random shapes of molecules with bonds of 0.15 nm, and their beads."""
    rng = np.random.default_rng(seed)
    system = mapping.topology
    for _ in range(frames):
        rows = []
        for index, count in system.blocks:
            m = system.molecule_types[index]
            rows += [walk(m, rng) for _ in range(count)]
        x = np.concatenate(rows)
        beads = map_positions(mapping, x) + rng.normal(scale=noise, size=(mapping.n_beads, 3))
        yield Structure(x, BOX), Structure(beads, BOX)


def walk(m, rng):
    x = np.zeros((m.n_atoms, 3))
    placed = {0}
    bonds = m.bonds.tolist()
    x[0] = rng.uniform(0, 6, size=3)
    while len(placed) < m.n_atoms:
        i, j = next(p for p in bonds if (p[0] in placed) != (p[1] in placed))
        i, j = (i, j) if i in placed else (j, i)
        step = rng.normal(size=3)
        x[j] = x[i] + 0.15 * step / np.linalg.norm(step)
        placed.add(j)
    return x


def test_published_polystyrene_beads_give_the_packaged_mapping_from_one_frame(tmp_path):
    out = tmp_path / "found.yaml"
    found = infer_mapping(
        reference("aa.gro"), reference("cg.gro"), topology=reference("topol.top"), output=out,
        progress=False,
    )  # fmt: skip
    system = read_topology(reference("topol.top"))
    again = load_mapping(out).resolve(system)
    packaged = load_mapping("ps-two-bead").resolve(system)
    same(again.molecules[0], packaged.molecules[0])
    assert again.molecules[0].bead_names == packaged.molecules[0].bead_names
    # Positions are rounded to 0.001 nm: a bead 0.0005 nm (rms) from its own place.
    assert max(rms for _, rms in found.rows) < 0.0006
    assert "B{n}" in found.text
    with pytest.raises(InputError, match=r"found\.yaml: expected no file of that name"):
        infer_mapping(reference("aa.gro"), reference("cg.gro"), topology=reference("topol.top"),
                      output=out, progress=False)  # fmt: skip


def atb(path):
    """A molecule of a topology of the Automated Topology Builder: names, masses and bonds."""
    section, atoms, bonds = "", [], []
    for line in path.read_text(errors="replace").splitlines():
        words = line.split(";")[0].split()
        if words and words[0].startswith("["):
            section = line.strip(" []\t")
        elif words and section == "atoms":
            atoms.append(words)
        elif words and section == "bonds":
            bonds.append((int(words[0]) - 1, int(words[1]) - 1))
    return dataclasses.replace(
        molecule(atoms[0][3], len(atoms), bonds), atom_names=tuple(a[4] for a in atoms),
        residue_names=tuple(a[3] for a in atoms), masses=np.array([float(a[7]) for a in atoms]),
    )  # fmt: skip


def test_published_octane_beads(tmp_path):
    """B1 is a carbon alone, B2 to B4 a CH2 and halves of the groups beside it."""
    folder = reference("topol.top").parents[1] / "liquids" / "octane"
    chain = atb(folder / "L49C.itp")
    fine, coarse = read_frames(folder / "aa.gro"), read_frames(folder / "cg.gro")
    system = topology((chain, fine.table.n // chain.n_atoms))
    frames = [
        (Structure(make_whole(a.positions, a.box, system), a.box), b)
        for a, b in zip(fine, coarse, strict=True)
    ]
    found = infer(system, coarse.table, frames, "cg.gro")
    shares = {
        b["name"]: {n: float(x) for n, x in b["atoms"].items() if n[0] == "C"}
        for b in yaml.safe_load(found.text)["residues"]["L49C"]["beads"]
    }
    assert shares == {
        "B1": {"C8": 1.0},
        "B2": {"C7": 0.5, "C6": 1.0, "C5": 0.5},
        "B3": {"C5": 0.5, "C4": 1.0, "C3": 0.5},
        "B4": {"C3": 0.5, "C2": 1.0, "C1": 0.5},
    }
    assert max(rms for _, rms in found.rows) < 0.0006
    mapping = MappingFile.from_text(found.text).resolve(system)
    off = map_positions(mapping, frames[0][0].positions) - frames[0][1].positions
    edges = np.diag(frames[0][1].box)
    assert np.abs(off - np.rint(off / edges) * edges).max() < 0.0016


@pytest.mark.parametrize("preset", ["ps-one-bead", "ps-two-bead"])
@pytest.mark.parametrize("n", [3, 6])
def test_packaged_mappings_come_back_from_random_shapes(preset, n):
    mapping = load_mapping(preset).resolve(topology((polystyrene(n), 4)))
    found = infer(mapping.topology, bead_table(mapping), pairs(mapping, 8, noise=3e-4), "cg.gro")
    again = MappingFile.from_text(found.text).resolve(mapping.topology)
    same(again.molecules[0], mapping.molecules[0])
    assert again.molecules[0].bead_names == mapping.molecules[0].bead_names


def test_residues_that_are_monomers_keep_their_names():
    chain, _ = by_residue(4)
    text = (
        "residues:\n  STY:\n    beads:\n"
        '      - {name: "T{n}", type: T, atoms: [HA, CA, HB, HC, CB]}\n'
        '      - {name: "P{n}", type: P, atoms: [C1, C2, H2, C3, H3, C4, H4, C5, H5, C6, H6]}\n'
    ).replace(
        "[HA, CA, HB, HC, CB]}",
        "[HA, CA, HB, HC, CB], first: {atoms: [HA, CA, HB, HC, CB, HX]},"
        " last: {atoms: [HA, CA, HB, HC, CB, HY]}}",
    )
    mapping = MappingFile.from_text(text).resolve(topology((chain, 6)))
    found = infer(mapping.topology, bead_table(mapping), pairs(mapping, 8), "cg.gro")
    again = MappingFile.from_text(found.text).resolve(mapping.topology)
    same(again.molecules[0], mapping.molecules[0])
    assert "STY" in yaml.safe_load(found.text)["residues"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_simple_weights_of_a_small_molecule_come_back(seed):
    """Connected atoms, by mass or alike, a half at an end: whatever was chosen is found."""
    rng = np.random.default_rng(seed)
    chain = dataclasses.replace(
        molecule("OCT", 8, [(k, k + 1) for k in range(7)]), residue_names=("OCT",) * 8,
        masses=np.array([15.035, *[14.027] * 6, 15.035]),
    )  # fmt: skip
    cut = int(rng.integers(2, 6))
    half = f"{chain.atom_names[cut]}: 0.5"
    left = ", ".join(f"{n}: 1" for n in chain.atom_names[:cut])
    right = ", ".join(f"{n}: 1" for n in chain.atom_names[cut + 1 :])
    weights = ["mass", "plain"][int(rng.integers(2))]
    owns = "[" + ", ".join(chain.atom_names[: cut + 1]) + "]"
    text = (
        f"weights: {weights}\nresidues:\n  OCT:\n    beads:\n"
        f"      - {{name: L, type: L, atoms: {{{left}, {half}}}, owns: {owns}}}\n"
        f"      - {{name: R, type: R, atoms: {{{half}, {right}}},"
        f" owns: [{', '.join(chain.atom_names[cut + 1 :])}]}}\n"
    )
    mapping = MappingFile.from_text(text).resolve(topology((chain, 20)))
    found = infer(mapping.topology, bead_table(mapping), pairs(mapping, 3, seed), "cg.gro")
    again = MappingFile.from_text(found.text).resolve(mapping.topology)
    same(again.molecules[0], mapping.molecules[0])


def test_weights_of_no_kind_are_found_by_least_squares():
    chain = dataclasses.replace(butane(), masses=np.array([15.035, 14.027, 14.027, 15.035]))
    text = (
        "weights: plain\nresidues:\n  BUT:\n    beads:\n"
        "      - {name: B, type: B, atoms: {C1: 0.13, C2: 0.47, C3: 0.11, C4: 0.29}}\n"
    )
    mapping = MappingFile.from_text(text).resolve(topology((chain, 30)))
    found = infer(mapping.topology, bead_table(mapping), pairs(mapping, 4), "cg.gro")
    again = MappingFile.from_text(found.text).resolve(mapping.topology).molecules[0]
    assert forward(again, 0) == pytest.approx({0: 0.13, 1: 0.47, 2: 0.11, 3: 0.29}, abs=2e-4)


def test_two_kinds_of_molecule_are_told_by_residues():
    text = (
        "residues:\n  BUT:\n    beads: [{name: L, type: L, atoms: [C1, C2]},"
        " {name: R, type: R, atoms: [C3, C4]}]\n"
        "  SOL:\n    beads: [{name: W, type: W, atoms: [OW], owns: [OW, HW1, HW2]}]\n"
    )
    system = topology((butane(), 12), (water(), 9))
    mapping = MappingFile.from_text(text).resolve(system)
    table = bead_table(mapping)
    found = infer(system, table, pairs(mapping, 4), "cg.gro")
    again = MappingFile.from_text(found.text).resolve(system)
    for a, b in zip(again.molecules, mapping.molecules, strict=True):
        same(a, b)
    other = dataclasses.replace(table, resnames=("X",) * table.n)
    with pytest.raises(InputError, match=r"shared out to the molecules \(12 BUT, 9 SOL\)"):
        infer(system, other, pairs(mapping, 1), "cg.gro")


def test_beads_that_cannot_own_the_atoms_are_shown_to_be_edited():
    """Two beads in one place, on the same atom: only one of them can put it back."""
    text = (
        "residues:\n  BUT:\n    beads: [{name: L, type: L, atoms: [C1, C2, C3, C4]},"
        " {name: R, type: R, atoms: [C2], owns: []}]\n"
    ).replace("owns: []", "owns: [C2]").replace("[C1, C2, C3, C4]}", "[C1, C2, C3, C4],"
                                                " owns: [C1, C3, C4]}")  # fmt: skip
    mapping = MappingFile.from_text(text).resolve(topology((butane(), 20)))
    table = bead_table(mapping)
    with pytest.raises(InputError, match=r"own every atom once, .* bead R .* found none.*; edit"):
        infer(mapping.topology, table, pairs(mapping, 3), "cg.gro")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    mapping = load_mapping("ps-one-bead").resolve(topology((polystyrene(4), 5)))
    shuffled = [
        (a, dataclasses.replace(b, positions=b.positions[::-1].copy()))
        for a, b in pairs(mapping, 2)
    ]
    table = bead_table(mapping)
    with pytest.raises(InputError, match=r"cg\.gro: expected beads that are means of atoms near"):
        infer(mapping.topology, table, shuffled, "cg.gro")
    with pytest.raises(InputError, match="expected frames of atoms and beads, found none"):
        infer(mapping.topology, table, [], "cg.gro")
    with pytest.raises(InputError, match="expected 1 frames as in"):
        infer_mapping(reference("aa.gro"), reference("cg.gro"), topology=reference("topol.top"),
                      beads_trajectory=reference("test_568K_cg.xtc"), progress=False)  # fmt: skip
    wide = tmp_path / "wide.gro"
    with read_frames(reference("cg.gro")) as source, open_writer(wide, source.table) as writer:
        writer.write(dataclasses.replace(source[0], box=source[0].box * 1.1))
    with pytest.raises(InputError, match=r"wide\.gro frame 0: expected the box of .*aa\.gro frame"):
        infer_mapping(reference("aa.gro"), wide, topology=reference("topol.top"), progress=False)


def test_draft_by_graph_keeps_rings_and_is_a_mapping(tmp_path):
    out = tmp_path / "draft.yaml"
    text = draft_mapping(reference("topol.top"), way="graph", output=out)
    assert out.read_text() == text
    system = read_topology(reference("topol.top"))
    found = load_mapping(out).resolve(system).molecules[0]
    packaged = load_mapping("ps-two-bead").resolve(system).molecules[0]
    assert np.array_equal(found.owner, packaged.owner)
    assert found.bead_types[:2] == ("C2H3", "C6H5")
    for way, match in (("atoms", "by: expected one of residue, graph"),):
        with pytest.raises(InputError, match=match):
            draft(system, way=way)
    with pytest.raises(InputError, match="size: expected a number of heavy atoms above 0"):
        draft(system, way="graph", size=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_pieces_are_connected_and_hold_every_atom_once(n, size, seed):
    rng = np.random.default_rng(seed)
    bonds = [(int(rng.integers(k)), k) for k in range(1, n)]
    tree = dataclasses.replace(
        molecule("T", n, bonds), masses=np.where(rng.random(n) < 0.3, 1.008, 12.011)
    )
    groups = split(tree, list(range(n)), size)
    assert sorted(a for g in groups for a in g) == list(range(n))
    heavy = {k for k in range(n) if tree.heavy[k]}
    for group in groups:
        inside = set(group) & heavy
        reached, todo = set(), [min(inside)] if inside else []
        while todo:
            a = todo.pop()
            if a not in reached:
                reached.add(a)
                todo += [x + y - a for x, y in bonds if a in (x, y) and x + y - a in inside]
        assert reached == inside


@pytest.mark.parametrize("n", [3, 4, 25])
def test_the_repeat_unit_of_a_chain(n):
    cut = find_cut(polystyrene(n), 0, 16 * n + 2)
    assert [len(m) for m in cut.monomers] == [16] * n
    assert cut.before == ()
    assert cut.after == ((16 * n, 0), (16 * n + 1, n - 1))
    assert ((4, 1, 1) in cut.bonds) and len(cut.bonds) == 17


def test_end_groups_may_be_larger_than_a_monomer():
    """Poly(ethylene oxide) between CH3 and O-CH3: nine atoms at the ends, seven in a monomer."""
    unit = [(0, 1), (1, 2), (1, 3), (1, 4), (4, 5), (4, 6)]  # O C H H C H H
    count = 6
    bonds = [(0, 1), (0, 2), (0, 3), (0, 4)]
    for k in range(count):
        bonds += [(4 + 7 * k + a, 4 + 7 * k + b) for a, b in unit]
        bonds.append((4 + 7 * k + 4, 4 + 7 * (k + 1)))
    end = 4 + 7 * count
    bonds += [(end, end + 1), *((end + 1, end + 2 + k) for k in range(3))]
    o, c, h = 15.999, 12.011, 1.008
    masses = np.array([c, h, h, h, *([o, c, h, h, c, h, h] * count), o, c, h, h, h])
    chain = dataclasses.replace(molecule("PEO", len(masses), bonds), masses=masses)
    cut = find_cut(chain, 0, len(masses))
    assert [m[0] for m in cut.monomers] == [4 + 7 * k for k in range(count)]
    assert len(cut.before) == 4
    assert len(cut.after) == 5
    assert {m for _, m in cut.before} == {0}
    assert {m for _, m in cut.after} == {count - 1}


def test_no_repeat_unit_in_a_small_or_broken_chain():
    assert find_cut(butane(), 0, 4) is None
    chain = polystyrene(5)
    masses = chain.masses.copy()
    masses[40] = 18.998  # one hydrogen is fluorine
    assert find_cut(dataclasses.replace(chain, masses=masses), 0, 82) is None
    more = dataclasses.replace(
        molecule("PS1", 82, [*chain.bonds.tolist(), (2, 70)]), masses=chain.masses
    )
    assert find_cut(more, 0, 82) is None


def test_verbs_show_or_write(tmp_path):
    top, out = reference("topol.top"), tmp_path / "m.yaml"
    shown = command("mapping", "draft", "-p", top, "--by", "graph")
    assert (shown.code, shown.out) == (0, draft_mapping(top, way="graph"))
    assert command("mapping", "draft", "-p", top, "--by", "graph", "-o", out).out == ""
    assert out.read_text() == shown.out
    assert "by: expected one of residue, graph" in refused(
        "mapping", "draft", "-p", top, "--by", "x"
    )
    pair = ("mapping", "infer", reference("aa.gro"), reference("cg.gro"), "-p", top)
    assert "m.yaml: expected no file of that name" in refused(*pair, "-o", out)
    found = command(*pair, "-q")
    assert found.code == 0
    out.write_text(found.out)
    one, two = tmp_path / "one.gro", tmp_path / "two.gro"
    for mapping, path in ((out, one), ("ps-two-bead", two)):
        done = command("map", reference("aa.gro"), "-p", top, "--mapping", mapping, "-o", path)
        assert (done.code, done.out) == (0, f"{path}: 1 frames of beads\n")
    assert one.read_text() == two.read_text()


def test_a_missing_residue_is_shown_as_lines_to_copy(tmp_path):
    (tmp_path / "m.yaml").write_text(
        "residues:\n  X:\n    beads: [{name: X, type: X, atoms: [X]}]\n"
    )
    found = command("map", reference("aa.gro"), "-p", reference("topol.top"), "--mapping",
                    tmp_path / "m.yaml", "-o", tmp_path / "cg.gro")  # fmt: skip
    assert (found.code, found.out) == (2, "")
    sentence, entry = found.err.split("\n", 1)
    assert sentence.startswith("deepbackmap: ")
    assert list(yaml.safe_load(entry)["PS1"]) == ["repeat", "beads"]
    assert not (tmp_path / "cg.gro").exists()
