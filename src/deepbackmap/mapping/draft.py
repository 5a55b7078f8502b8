"""A first mapping of a molecule, to be edited: a bead a monomer, or beads of a few heavy atoms."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.system import MoleculeType, Topology
from deepbackmap.system.elements import element_symbols

if TYPE_CHECKING:
    import networkx as nx

WAYS = ("residue", "graph")
_FEWEST_MONOMERS = 3
_FEWEST_ATOMS = 40
"""A residue of fewer atoms is not cut: it is a molecule or monomer itself."""


@dataclass(frozen=True)
class Cut:
    """How a residue that holds a chain falls into monomers; atoms as indices in the molecule."""

    monomers: tuple[tuple[int, ...], ...]
    """Atoms of each by position."""
    before: tuple[tuple[int, int], ...]
    """Extra atoms ahead of them, and the monomer (from 0) that each is bonded to."""
    after: tuple[tuple[int, int], ...]
    """Extra atoms behind them, likewise."""
    bonds: tuple[tuple[int, int, int], ...]
    """(position, position, 0 within a monomer or 1 to the next one)."""


LARGEST_ENDS = 0.2
"""Of a residue's atoms: end groups of more atoms than a monomer are not more of it than that."""


def find_cut(molecule: MoleculeType, start: int, stop: int) -> Cut | None:
    """The repeat unit of a residue: the shortest run of atoms whose masses and bonds recur.

    Args:
        molecule: the molecule type.
        start: first atom of the residue.
        stop: the one behind its last.

    Returns:
        The cut, with fewer extra atoms at the ends than two monomers have; None if nothing recurs.
    """
    total = stop - start
    if total < _FEWEST_ATOMS:
        return None
    masses = np.round(molecule.masses[start:stop], 3)
    heavy = molecule.heavy[start:stop]
    inside = [(i - start, j - start) for i, j in molecule.bonds.tolist()
              if start <= i and j < stop]  # fmt: skip
    for length in range(2, total // _FEWEST_MONOMERS + 1):
        # End groups may be larger than a monomer where most of the chain is monomers.
        extras = [total % length, total % length + length]
        for extra in extras if extras[1] <= LARGEST_ENDS * total else extras[:1]:
            for ahead in range(extra + 1):
                found = _try_cut(masses, inside, length, ahead, extra)
                # A monomer has two heavy atoms at least: polyethylene's is not CH2.
                if found is not None and heavy[list(found.monomers[0])].sum() > 1:
                    return _shifted(found, start)
    return None


def _try_cut(
    masses: np.ndarray, bonds: list[tuple[int, int]], length: int, ahead: int, extra: int
) -> Cut | None:
    count = (len(masses) - extra) // length
    stop = ahead + count * length
    rows = masses[ahead:stop].reshape(count, length)
    if count < _FEWEST_MONOMERS or not (rows == rows[0]).all():
        return None
    times: Counter[tuple[int, int, int]] = Counter()
    outside: dict[int, list[int]] = {k: [] for k in range(len(masses)) if not ahead <= k < stop}
    for i, j in bonds:
        if i in outside or j in outside:
            for a, b in ((i, j), (j, i)):
                if a in outside:
                    outside[a].append(b)
            continue
        (m, p), (n, q) = divmod(i - ahead, length), divmod(j - ahead, length)
        if n - m > 1:
            return None
        times[p, q, n - m] += 1
    if any(t != count - step for (_, _, step), t in times.items()):
        return None
    if not any(step for _, _, step in times) or not _connected(length, times):
        return None
    ends = {}
    for atom in outside:
        monomer = _attached(atom, outside, ahead, length)
        if monomer not in (0, count - 1):
            return None
        ends[atom] = monomer
    monomers = tuple(tuple(range(ahead + k * length, ahead + (k + 1) * length))
                     for k in range(count))  # fmt: skip
    return Cut(
        monomers,
        tuple((a, m) for a, m in ends.items() if a < ahead),
        tuple((a, m) for a, m in ends.items() if a >= stop),
        tuple(sorted(times)),
    )


def _connected(length: int, bonds: Counter[tuple[int, int, int]]) -> bool:
    """Whether the atoms of a monomer hang together."""
    import networkx as nx  # here, and below: mappings are drafted now and then

    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(length))
    graph.add_edges_from((p, q) for p, q, step in bonds if not step)
    return bool(nx.is_connected(graph))


def _attached(atom: int, outside: dict[int, list[int]], ahead: int, length: int) -> int:
    """The monomer that an extra atom is bonded to, through others of them; -1 if to none."""
    queue, seen = [atom], {atom}
    for place in queue:
        for other in outside.get(place, []):
            if other not in outside:
                return (other - ahead) // length
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return -1


def _shifted(cut: Cut, start: int) -> Cut:
    return Cut(
        tuple(tuple(a + start for a in m) for m in cut.monomers),
        tuple((a + start, m) for a, m in cut.before),
        tuple((a + start, m) for a, m in cut.after),
        cut.bonds,
    )


def entry(
    molecule: MoleculeType,
    start: int,
    stop: int,
    *,
    way: str = "residue",
    size: int = 4,
    whole: bool = False,
) -> str:
    """The entry of a residue as YAML, cut into monomers where something recurs.

    Args:
        molecule: the molecule type.
        start: first atom of the residue.
        stop: the one behind its last.
        way: ``residue`` for one bead a monomer, ``graph`` for beads of rings and of about ``size``
            heavy atoms.
        size: heavy atoms of a bead.
        whole: whether to leave residues uncut.
    """
    residue = molecule.residue_names[start]
    cut = None if whole else find_cut(molecule, start, stop)
    unit = list(range(start, stop)) if cut is None else list(cut.monomers[0])
    names = list(molecule.atom_names[start:stop])
    ends: tuple[list[str], list[str]] = ([], [])
    if cut is None and len(set(names)) == len(names) and not any(n[0] in "+-" for n in names):
        lines = [f"  {quoted(residue)}:"]
    else:
        names = _position_names(molecule, unit)
        lines, ends = _repeat_lines(molecule, residue, cut, names)
    many = cut is not None
    lines.append("    beads:")
    parts = [list(range(len(unit)))]
    if way == "graph":
        parts = split(molecule, unit, size)
    for k, part in enumerate(parts):
        letter = chr(ord("A") + k % 26) + (str(k // 26) if k > 25 else "")
        name = letter if way == "graph" else ("M" if many else residue)
        kind = _formula(molecule, [unit[p] for p in part]) if way == "graph" else name
        lines.append(f"      - name: {quoted(name + '{n}' if many else name)}")
        lines.append(f"        type: {quoted(kind)}")
        lines.append(f"        atoms: {_listed([names[p] for p in part])}")
        lines += _end_lines(molecule, unit, cut, names, part, ends)
    return "\n".join(lines)


def _repeat_lines(
    molecule: MoleculeType, residue: str, cut: Cut | None, names: list[str]
) -> tuple[list[str], tuple[list[str], list[str]]]:
    """The ``repeat`` rule, and the names of extra atoms of the first and of the last monomer."""
    lines = [f"  {quoted(residue)}:", "    repeat:", f"      length: {len(names)}",
             f"      names: {_listed(names)}"]  # fmt: skip
    ends: tuple[list[str], list[str]] = ([], [])
    if cut is None:
        return lines, ends
    elements = element_symbols(molecule.masses)
    number = 0
    for key, rows in (("before", cut.before), ("after", cut.after)):
        lines += [f"      {key}:"] if rows else []
        for atom, monomer in rows:
            number += 1
            name = f"{elements[atom]}X{number}"
            ends[min(monomer, 1)].append(name)
            place = "last" if monomer else "first"
            lines.append(f"        - {{name: {quoted(name)}, monomer: {place}}}")
    pairs = [f"[{quoted(names[p])}, {quoted('+' * step + names[q])}]" for p, q, step in cut.bonds]
    rows_of = [", ".join(pairs[k : k + 6]) for k in range(0, len(pairs), 6)]
    lines.append("      bonds: [" + ",\n              ".join(rows_of) + "]")
    return lines, ends


def _end_lines(
    molecule: MoleculeType,
    unit: list[int],
    cut: Cut | None,
    names: list[str],
    part: list[int],
    ends: tuple[list[str], list[str]],
) -> list[str]:
    """The variants of a bead that takes extra atoms: those bonded to its own."""
    if cut is None or not (ends[0] or ends[1]):
        return []
    bonds = molecule.bonds.tolist()
    rows = [*cut.before, *cut.after]
    extra: tuple[list[str], list[str]] = ([], [])
    left = (list(ends[0]), list(ends[1]))
    for atom, monomer in rows:
        side = min(monomer, 1)
        name = left[side].pop(0)
        near = _nearest_position(atom, cut.monomers[monomer], bonds, {a for a, _ in rows})
        if near in part:
            extra[side].append(name)
    own = [names[p] for p in part]
    lines = []
    for variant, more in (("first", extra[0]), ("last", extra[1])):
        if more:
            lines.append(f"        {variant}: {{atoms: {_listed([*own, *more])}}}")
    if extra[0] or extra[1]:
        lines.append(f"        alone: {{atoms: {_listed([*own, *extra[0], *extra[1]])}}}")
    return lines


def _nearest_position(
    atom: int, monomer: tuple[int, ...], bonds: list[list[int]], extras: set[int]
) -> int:
    """The atom of a monomer, by position, that an extra atom is bonded to."""
    queue, seen = [atom], {atom}
    for place in queue:
        for pair in bonds:
            if place in pair:
                other = pair[0] if pair[1] == place else pair[1]
                if other in monomer:
                    return monomer.index(other)
                if other in extras and other not in seen:
                    seen.add(other)
                    queue.append(other)
    return 0


def split(molecule: MoleculeType, atoms: list[int], size: int) -> list[list[int]]:
    """Atoms in groups: every ring system, and of the rest pieces of about ``size`` heavy atoms.

    Args:
        molecule: the molecule type.
        atoms: of a residue or monomer.
        size: heavy atoms of a piece.

    Returns:
        Positions in ``atoms``, group by group in the order of their first atoms; hydrogens go with
        the atom that they are bonded to.
    """
    import networkx as nx

    place = {a: k for k, a in enumerate(atoms)}
    pairs = [(place[i], place[j]) for i, j in molecule.bonds.tolist() if i in place and j in place]
    heavy = [k for k, a in enumerate(atoms) if molecule.heavy[a]]
    if not heavy:
        return [list(range(len(atoms)))]
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(heavy)
    graph.add_edges_from((i, j) for i, j in pairs if i in graph and j in graph)
    ring_bonds: nx.Graph[int] = nx.Graph(graph)
    ring_bonds.remove_edges_from(list(nx.bridges(graph)))
    groups = [sorted(c) for c in nx.connected_components(ring_bonds) if len(c) > 1]
    rest = graph.subgraph(set(heavy) - {a for g in groups for a in g})
    for component in nx.connected_components(rest):
        groups += _pieces(rest.subgraph(component), size)
    of = {a: k for k, g in enumerate(groups) for a in g}
    for k in range(len(atoms)):
        if k not in of:
            partners = [j if i == k else i for i, j in pairs if k in (i, j)]
            groups[of[next((p for p in partners if p in of), heavy[0])]].append(k)
    return sorted((sorted(g) for g in groups), key=lambda g: g[0])


def _pieces(tree: Any, size: int) -> list[list[int]]:
    """A tree of heavy atoms in connected pieces of about a size, the ends first."""
    import networkx as nx

    root = min(tree)
    size = -(-len(tree) // max(1, round(len(tree) / size)))  # alike, as far as they can be
    order = list(nx.dfs_postorder_nodes(tree, root))
    parent = {b: a for a, b in nx.dfs_edges(tree, root)}
    open_: dict[int, list[int]] = {}
    pieces: list[list[int]] = []
    for node in order:
        group = open_.setdefault(node, [])
        group.append(node)
        if len(group) >= size:
            pieces.append(sorted(group))
        elif node in parent:
            open_.setdefault(parent[node], []).extend(group)
        elif 2 * len(group) < size and pieces:
            # What is left at the root joins the piece that it is bonded to.
            touching = [p for p in pieces if any(tree.has_edge(a, b) for a in p for b in group)]
            (touching or pieces)[0].extend(group)
        else:
            pieces.append(sorted(group))
    return pieces


def draft(topology: Topology, *, way: str = "residue", size: int = 4, whole: bool = False) -> str:
    """A mapping file of every residue of a system.

    Args:
        topology: the system.
        way: ``residue`` or ``graph``, as ``entry``.
        size: heavy atoms of a bead, by graph.
        whole: whether to leave residues uncut.

    Returns:
        The YAML.

    Raises:
        InputError: the way is unknown, or two residues of one name differ.
    """
    if way not in WAYS:
        raise InputError(f"by: expected one of {', '.join(WAYS)}, found '{way}'")
    if size < 1:
        raise InputError(f"size: expected a number of heavy atoms above 0, found {size}")
    entries: dict[str, str] = {}
    used = dict.fromkeys(t for t, count in topology.blocks if count)
    for index in used:
        molecule = topology.molecule_types[index]
        for start, stop in residue_runs(molecule):
            name = molecule.residue_names[start]
            # The first residue of a chain may have atoms more; the longest one shows them all.
            found = entry(molecule, start, stop, way=way, size=size, whole=whole)
            entries[name] = max(entries.get(name, ""), found, key=len)
    head = (
        "# A draft: edit beads, types, weights and owners (docs/mapping.md says how).\n"
        "weights: mass\nresidues:\n"
    )
    return head + "\n".join(entries.values()) + "\n"


def stub(molecule: MoleculeType, start: int, stop: int) -> str:
    """The entry that a missing residue wants, short enough for a message."""
    return entry(molecule, start, stop)


def residue_runs(molecule: MoleculeType) -> list[tuple[int, int]]:
    """First atom and the one behind the last of each residue: a run of one number and name."""
    keys = list(zip(molecule.residue_numbers.tolist(), molecule.residue_names, strict=True))
    starts = [k for k in range(len(keys)) if k == 0 or keys[k] != keys[k - 1]]
    return list(zip(starts, [*starts[1:], len(keys)], strict=True))


def _position_names(molecule: MoleculeType, atoms: list[int]) -> list[str]:
    """Element and running number."""
    elements = element_symbols(molecule.masses)
    seen: Counter[str] = Counter()
    names = []
    for atom in atoms:
        seen[elements[atom]] += 1
        names.append(f"{elements[atom]}{seen[elements[atom]]}")
    return names


def _formula(molecule: MoleculeType, atoms: list[int]) -> str:
    """Elements and their numbers, carbon and hydrogen first."""
    elements = element_symbols(molecule.masses)
    times = Counter(elements[a] for a in atoms)
    order = sorted(times, key=lambda e: (e != "C", e != "H", e))
    return "".join(f"{e}{times[e] if times[e] > 1 else ''}" for e in order)


def _listed(names: list[str]) -> str:
    rows = [", ".join(quoted(n) for n in names[k : k + 12]) for k in range(0, len(names), 12)]
    return "[" + ",\n                ".join(rows) + "]"


def quoted(word: str) -> str:
    """A word as YAML takes it for a word whatever it is."""
    plain = word.replace("_", "a").isalnum() and not word[0].isdigit()
    return word if plain else "'" + word.replace("'", "''") + "'"
