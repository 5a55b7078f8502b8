"""One cut of a random molecule, written down as every program writes it, is one cut."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from deepbackmap.errors import InputError
from deepbackmap.mapping import MappingFile, map_positions
from deepbackmap.mapping.match import bead_table
from evaluation_systems import molecule, rotation, topology
from laws import permutation, random_tree, renumbered

SEEDS = range(5)
COPIES = 2


def named(seed):
    """A molecule of one residue, with atom names that no other program stumbles over."""
    kind = molecule(*random_tree(6, seed))
    n = kind.n_atoms
    names = tuple(f"{t[0]}{k + 1}" for k, t in enumerate(kind.atom_types))
    return replace(kind, name="MOL", atom_names=names, residue_names=("MOL",) * n)


def random_cut(kind, seed):
    """Atoms of every bead, by bead; heavy atoms drag their hydrogens along."""
    rng = np.random.default_rng(seed)
    heavy = np.flatnonzero(kind.masses > 3)
    count = min(3, len(heavy))
    bead = dict(zip(heavy.tolist(), [*range(count), *rng.integers(0, count, len(heavy) - count)],
                    strict=True))  # fmt: skip
    neighbours = {k: [] for k in range(kind.n_atoms)}
    for a, b in kind.bonds.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    found = {}
    for atom in range(kind.n_atoms):
        owner = atom if atom in bead else next(b for b in neighbours[atom] if b in bead)
        found.setdefault(f"B{int(bead[owner]) + 1}", []).append(atom)
    return {name: found[name] for name in sorted(found)}


def as_yaml(kind, cut):
    beads = [{"name": name, "type": f"T{name}", "atoms": [kind.atom_names[a] for a in atoms]}
             for name, atoms in cut.items()]  # fmt: skip
    return yaml.safe_dump({"weights": "mass", "residues": {"MOL": {"beads": beads}}})


def as_votca(kind, cut):
    beads = "".join(
        f"<cg_bead><name>{name}</name><type>T{name}</type><mapping>m{name}</mapping><beads>"
        f"{' '.join(f'1:MOL:{kind.atom_names[a]}' for a in atoms)}</beads></cg_bead>"
        for name, atoms in cut.items()
    )
    maps = "".join(
        f"<map><name>m{name}</name><weights>{' '.join(f'{kind.masses[a]}' for a in atoms)}"
        "</weights></map>" for name, atoms in cut.items()
    )  # fmt: skip
    return (
        f"<cg_molecule><name>m</name><ident>MOL</ident><topology><cg_beads>{beads}</cg_beads>"
        f"</topology><maps>{maps}</maps></cg_molecule>"
    )


def as_index(kind, cut):
    return "".join(
        f"[ {name} ]\n{' '.join(str(a + 1) for a in atoms)}\n" for name, atoms in cut.items()
    )


def as_backward(kind, cut):
    rows = [(a, name) for name, atoms in cut.items() for a in atoms]
    lines = (f"{k} {kind.atom_names[a]} {name}\n" for k, (a, name) in enumerate(sorted(rows), 1))
    return f"[ molecule ]\nMOL\n[ martini ]\n{' '.join(cut)}\n[ atoms ]\n{''.join(lines)}"


def as_vermouth(kind, cut):
    lines = (f"{kind.atom_names[a]} {name}\n" for name, atoms in cut.items() for a in atoms)
    return (
        "[ block ]\n[ from ]\na\n[ to ]\nb\n[ from blocks ]\nMOL\n[ to blocks ]\nMOL\n"
        f"[ mapping ]\n{''.join(lines)}"
    )


def as_pycgtool(kind, cut):
    rows = (f"{name} T{name} {' '.join(kind.atom_names[a] for a in atoms)}\n"
            for name, atoms in cut.items())  # fmt: skip
    return f"[ MOL ]\n{''.join(rows)}"


WRITERS = {
    "yaml": as_yaml, "votca": as_votca, "index": as_index, "backward": as_backward,
    "vermouth": as_vermouth, "pycgtool": as_pycgtool,
}  # fmt: skip
BY_MASS = ("yaml", "votca", "index", "backward")
"""Formats whose beads are centres of mass; the others take the geometric centre."""


def centres(kind, cut, x, by_mass):
    """Where the beads of one molecule are, by hand."""
    weights = kind.masses if by_mass else np.ones(kind.n_atoms)
    return np.array(
        [np.average(x[atoms], axis=0, weights=weights[atoms]) for atoms in cut.values()]
    )


def resolved(way, kind, cut):
    text = WRITERS[way](kind, cut)
    return MappingFile.from_text(text, f"m.{way}").resolve(topology(kind, counts=[COPIES]))


def owners(found):
    one = found.molecules[0]
    return [one.bead_names[k] for k in one.owner]


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_beads_are_where_they_are_by_hand(way, seed):
    kind = named(seed)
    cut = random_cut(kind, seed)
    found = resolved(way, kind, cut)
    x = np.random.default_rng(seed).normal(size=(COPIES * kind.n_atoms, 3))
    by_mass = way in BY_MASS
    if way == "vermouth":  # equal weights are masses' or not, as the file's own header says
        by_mass = not np.allclose(map_positions(found, x)[: len(cut)],
                                  centres(kind, cut, x[: kind.n_atoms], False))  # fmt: skip
    order = [list(cut).index(name) for name in found.molecules[0].bead_names]
    expected = [centres(kind, cut, part, by_mass)[order] for part in np.split(x, COPIES)]
    np.testing.assert_allclose(map_positions(found, x), np.concatenate(expected), atol=1e-12)
    right = {a: name for name, atoms in cut.items() for a in atoms}
    assert owners(found) == [right[a] for a in range(kind.n_atoms)]


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_weights_of_a_bead_add_up_to_one_and_every_atom_has_an_owner(way, seed):
    kind = named(seed)
    found = resolved(way, kind, random_cut(kind, seed)).molecules[0]
    totals = np.zeros(found.n_beads)
    np.add.at(totals, found.weight_beads, found.weights)
    np.testing.assert_allclose(totals, 1.0)
    assert (found.weights > 0).all()
    assert set(found.owner.tolist()) == set(range(found.n_beads))


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_mapping_can_be_carried_as_text(way, seed):
    kind = named(seed)
    text = WRITERS[way](kind, random_cut(kind, seed))
    file = MappingFile.from_text(text, "m")
    again = MappingFile.from_text(file.to_text(), "m")
    assert again == file
    top = topology(kind, counts=[COPIES])
    one, other = file.resolve(top).molecules[0], again.resolve(top).molecules[0]
    assert np.array_equal(one.owner, other.owner)
    assert np.array_equal(one.weights, other.weights)


@pytest.mark.parametrize("way", [w for w in WRITERS if w != "index"])
@pytest.mark.parametrize("seed", SEEDS)
def test_atoms_go_by_their_names_and_not_by_their_order(way, seed):
    kind = named(seed)
    cut = random_cut(kind, seed)
    order = permutation(kind.n_atoms, seed)
    other = renumbered(kind, order)
    file = MappingFile.from_text(WRITERS[way](kind, cut), "m")
    one = file.resolve(topology(kind))
    two = file.resolve(topology(other))
    x = np.random.default_rng(seed).normal(size=(kind.n_atoms, 3))
    ours = dict(zip(two.molecules[0].bead_names, map_positions(two, x[order]), strict=True))
    for name, place in zip(one.molecules[0].bead_names, map_positions(one, x), strict=True):
        np.testing.assert_allclose(ours[name], place, atol=1e-12)


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("seed", range(3))
def test_beads_move_and_turn_with_their_atoms(way, seed):
    kind = named(seed)
    found = resolved(way, kind, random_cut(kind, seed))
    x = np.random.default_rng(seed).normal(size=(COPIES * kind.n_atoms, 3))
    turn = rotation(seed)
    right = map_positions(found, x)
    np.testing.assert_allclose(map_positions(found, x @ turn + 2.0), right @ turn + 2.0, atol=1e-12)


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("seed", range(3))
def test_an_atom_that_nobody_has_is_named(way, seed):
    if way == "index":
        return  # numbers stand for atoms there
    kind = named(seed)
    cut = random_cut(kind, seed)
    text = WRITERS[way](kind, cut)
    last = kind.atom_names[cut["B1"][-1]]
    with pytest.raises(InputError, match="ZZ9"):
        MappingFile.from_text(text.replace(f"{last}", "ZZ9"), "m").resolve(topology(kind))


@pytest.mark.parametrize("seed", SEEDS)
def test_beads_that_are_bonded_hold_atoms_that_are(seed):
    kind = named(seed)
    cut = random_cut(kind, seed)
    found = resolved("yaml", kind, cut).molecules[0]
    crossing = {tuple(sorted((int(found.owner[a]), int(found.owner[b]))))
                for a, b in kind.bonds.tolist() if found.owner[a] != found.owner[b]}  # fmt: skip
    assert {tuple(sorted(pair)) for pair in found.bead_bonds.tolist()} == crossing


@pytest.mark.parametrize("seed", SEEDS)
def test_the_table_of_beads_names_them_molecule_by_molecule(seed):
    kind = named(seed)
    found = resolved("yaml", kind, random_cut(kind, seed))
    table = bead_table(found)
    one = found.molecules[0]
    assert table.names == one.bead_names * COPIES
    assert len(table.names) == found.n_beads
    assert set(table.resnames) == {"MOL"}


@pytest.mark.parametrize("way", ["yaml", "pycgtool", "vermouth", "backward"])
@pytest.mark.parametrize("seed", range(3))
def test_comments_and_empty_lines_mean_nothing(way, seed):
    kind = named(seed)
    text = WRITERS[way](kind, random_cut(kind, seed))
    mark = "#" if way == "yaml" else ";"
    lines = [part for line in text.splitlines() for part in (line, "", f"{mark} nothing")]
    right = MappingFile.from_text(text, "m").resolve(topology(kind)).molecules[0]
    found = MappingFile.from_text("\n".join(lines) + "\n", "m").resolve(topology(kind)).molecules[0]
    assert np.array_equal(found.owner, right.owner)
    np.testing.assert_allclose(found.weights, right.weights)
