"""The mapping that leads from atoms to beads of the same frames, by least squares.

A bead is a weighted mean of atoms, so its vectors to them, y, add up to nothing: the weights w are
those for which the mean of ``|sum w y|^2 = w G w`` is smallest, where G holds the means of the
products of the vectors. Rigid groups such as rings leave many such w. What people write is simpler:
connected atoms, some of them at the ends by half, weighted by mass or alike. All such weights are
tried; only where none fits are free ones taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.optimize import nnls

from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.tables import ParticleTable
from deepbackmap.mapping.draft import draft, quoted
from deepbackmap.mapping.file import MappingFile
from deepbackmap.mapping.resolve import Monomer, bonded_monomers, cut_monomers, place_of
from deepbackmap.system import MoleculeType, Structure, Topology

REACH = 0.8
"""nm: atoms farther from a bead than this (rms) have no part in it."""
MOST_HEAVY = 14
"""Heavy atoms near a bead that are tried, the nearest ones."""
MOST_SETS = 20_000
FITS = 0.003
"""nm: rms below which simple weights are taken; files of 0.001 nm leave 0.0005 nm."""
FAILS = 0.02
"""nm: rms above which no weights fit, and the two files do not belong together."""
PLACES = ("inner", "first", "last", "alone")


@dataclass(frozen=True)
class Form:
    """What a bead is made of in one place of a chain; atoms by label, prefix and name."""

    shares: dict[str, float]
    mass_weighted: bool
    rms: float
    """nm, of the bead that these weights give from the file's."""


@dataclass(frozen=True)
class Inferred:
    """A mapping that was found."""

    text: str
    """As YAML."""
    rows: tuple[tuple[str, float], ...]
    """For every bead of every residue and place what to call it, and its rms in nm."""


class _Kind(NamedTuple):
    """Beads that have one form: of a residue, a place and a bead of it."""

    residue: str
    place: str
    bead: str


@dataclass
class _Sums:
    """Products of the vectors from the beads of a kind to the atoms around them."""

    labels: tuple[str, ...]
    masses: Float64[np.ndarray, " l"]
    bonds: tuple[tuple[int, int], ...]
    extra: frozenset[str]
    """Labels of atoms that not every monomer has."""
    products: Float64[np.ndarray, "l l"]
    count: int = 0


@dataclass(frozen=True)
class _Member:
    """One bead of a molecule type."""

    kind: _Kind
    index: int
    monomer: int
    atoms: dict[str, int]
    """Atom by label."""


def infer(
    topology: Topology,
    table: ParticleTable,
    frames: Iterable[tuple[Structure, Structure]],
    source: str,
) -> Inferred:
    """Finds weights and owners from atoms and beads of the same frames.

    Args:
        topology: of the atoms.
        table: names and residues of the beads.
        frames: atoms, whole molecules, and beads of each frame, in nm.
        source: the file of the beads, for errors.

    Returns:
        The mapping.

    Raises:
        InputError: the beads cannot be shared out to the molecules, or no weights fit.
    """  # fmt: skip
    used = list(dict.fromkeys(t for t, count in topology.blocks if count))
    sizes = _beads_each(topology, table, source)
    head = draft(topology)
    rules = MappingFile.from_text(head, "draft").rules
    counts = {t: len(cut_monomers(topology.molecule_types[t], rules, "draft")) for t in used}
    if any(sizes[t] < counts[t] for t in used):  # beads larger than what recurs
        head = draft(topology, whole=True)
        rules = MappingFile.from_text(head, "draft").rules
    members: dict[int, list[_Member]] = {}
    start = 0
    for index, count in topology.blocks:
        if count and index not in members:
            molecule = topology.molecule_types[index]
            monomers = cut_monomers(molecule, rules, "draft")
            members[index] = _members(molecule, monomers, table, start, sizes[index], source)
        start += sizes[index] * count
    sums: dict[_Kind, _Sums] = {}
    for index in used:
        _prepare(topology.molecule_types[index], members[index], sums)
    for atoms, beads in frames:
        _add(topology, members, sizes, atoms, beads, sums)
    forms = {kind: _fit(kind, s, source) for kind, s in sums.items()}
    owners: dict[_Kind, tuple[str, ...]] = {}
    for index in used:
        owners |= _owners(topology.molecule_types[index], members[index], forms)
    rows = tuple((f"{k.residue} {k.bead} ({k.place})", f.rms) for k, f in forms.items())
    return Inferred(_text(head, forms, owners), rows)


def _beads_each(topology: Topology, table: ParticleTable, source: str) -> dict[int, int]:
    """Beads of a molecule of every type."""
    copies: Counter[int] = Counter()
    for index, count in topology.blocks:
        copies[index] += count
    used = [t for t, count in copies.items() if count]
    if len(used) == 1:
        found = {used[0]: table.n}
    else:
        found = {
            t: sum(table.resnames.count(r) for r in set(topology.molecule_types[t].residue_names))
            for t in used
        }
    each = {t: n // copies[t] for t, n in found.items()}
    if sum(each[t] * copies[t] for t in used) != table.n or 0 in each.values():
        told = ", ".join(f"{copies[t]} {topology.molecule_types[t].name}" for t in used)
        raise InputError(
            f"{source}: expected beads that can be shared out to the molecules ({told}), alike by "
            f"number or else by residue names as in {topology.source}, found {table.n}"
        )
    return each | {t: 0 for t in copies if t not in each}


def _members(
    molecule: MoleculeType,
    monomers: list[Monomer],
    table: ParticleTable,
    start: int,
    size: int,
    source: str,
) -> list[_Member]:
    """The beads of a molecule type with the atoms that may be in them."""
    bonded = bonded_monomers(molecule, monomers)
    found: list[_Member] = []
    index = 0
    for k, count in enumerate(_shared_out(molecule, monomers, table, start, size, source)):
        around = {"": k} | {
            prefix: near[0]
            for prefix, near in (
                ("-", [o for o in bonded[k] if o < k]), ("+", [o for o in bonded[k] if o > k])
            )
            if len(near) == 1
        }  # fmt: skip
        atoms = {p + n: a for p, m in around.items() for n, a in monomers[m].atoms.items()}
        for _ in range(count):
            name = table.names[start + index]
            number = str(k + 1)
            if len(monomers) > 1 and name.endswith(number) and name != number:
                name = name.removesuffix(number) + "{n}"
            kind = _Kind(monomers[k].residue_name, place_of(k, bonded[k]), name)
            found.append(_Member(kind, index, k, atoms))
            index += 1
    return found


def _shared_out(
    molecule: MoleculeType,
    monomers: list[Monomer],
    table: ParticleTable,
    start: int,
    size: int,
    source: str,
) -> list[int]:
    """Beads of each monomer: by residue numbers of the file, or alike."""
    numbers = table.resids[start : start + size].tolist()
    runs = [0]
    for k, number in enumerate(numbers):
        runs.append(1) if k and number != numbers[k - 1] else runs.append(runs.pop() + 1)
    if len(runs) == len(monomers):
        return runs
    if size % len(monomers):
        raise InputError(
            f"{source}: expected a multiple of {len(monomers)} beads, the residues or monomers of "
            f"molecule {molecule.name}, or residues numbered like them, found {size} beads in "
            f"{len(runs)} residues"
        )
    return [size // len(monomers)] * len(monomers)


def _prepare(molecule: MoleculeType, members: list[_Member], sums: dict[_Kind, _Sums]) -> None:
    """Labels that all beads of a kind have, and what is bonded there."""
    kinds: dict[_Kind, list[_Member]] = {}
    for member in members:
        kinds.setdefault(member.kind, []).append(member)
    inner = [set(m.atoms) for m in members if m.kind.place == "inner"]
    for kind, those in kinds.items():
        if kind in sums:
            continue
        labels = tuple(n for n in those[0].atoms if all(n in m.atoms for m in those))
        place = {those[0].atoms[n]: k for k, n in enumerate(labels)}
        bonds = tuple(
            (place[i], place[j]) for i, j in molecule.bonds.tolist() if i in place and j in place
        )
        usual = set.union(*inner) if inner else set(labels)
        masses = molecule.masses[[those[0].atoms[n] for n in labels]]
        sums[kind] = _Sums(
            labels, masses, bonds, frozenset(set(labels) - usual),
            np.zeros((len(labels), len(labels))),
        )  # fmt: skip


def _add(
    topology: Topology,
    members: dict[int, list[_Member]],
    sizes: dict[int, int],
    atoms: Structure,
    beads: Structure,
    sums: dict[_Kind, _Sums],
) -> None:
    atom = bead = 0
    for index, count in topology.blocks:
        n, b = topology.molecule_types[index].n_atoms, sizes[index]
        x = atoms.positions[atom : atom + n * count].reshape(count, n, 3)
        centres = beads.positions[bead : bead + b * count].reshape(count, b, 3)
        atom, bead = atom + n * count, bead + b * count
        for member in members.get(index, []) if count else []:
            s = sums[member.kind]
            near = x[:, [member.atoms[label] for label in s.labels]]
            y = minimum_image((near - centres[:, member.index, None]).reshape(-1, 3), atoms.box)
            y = y.reshape(count, -1, 3)
            s.products += np.einsum("cax,cbx->ab", y, y)
            s.count += count


class _Units(NamedTuple):
    """Heavy atoms near a bead with their hydrogens."""

    heavy: list[int]
    light: dict[int, list[int]]
    bonds: dict[int, set[int]]


def _fit(kind: _Kind, s: _Sums, source: str) -> Form:
    """The simplest weights that fit, or else the best free ones."""
    if not s.count:
        raise InputError(f"{source}: expected frames of atoms and beads, found none")
    s = replace(s, products=s.products / s.count)
    units = _units(s)
    found = _simple(s, units)
    if found is None or found.rms > FITS:
        free = _free(s)
        found = free if found is None or free.rms < found.rms / 3 else found
    if found.rms > FAILS:
        raise InputError(
            f"{source}: expected beads that are means of atoms near them, found bead {kind.bead} "
            f"of residue {kind.residue} {found.rms:.3f} nm (rms) from the best one; are these the "
            f"same frames, and the beads in the order of the molecules?"
        )
    return found


def _units(s: _Sums) -> _Units:
    distance = np.sqrt(np.diag(s.products))
    is_heavy = s.masses > 3.0
    if not is_heavy.any():
        is_heavy = np.ones(len(s.masses), dtype=bool)
    heavy = [int(k) for k in np.argsort(distance) if is_heavy[k] and distance[k] < REACH]
    heavy = heavy[:MOST_HEAVY]
    light: dict[int, list[int]] = {k: [] for k in heavy}
    bonds: dict[int, set[int]] = {k: set() for k in heavy}
    for i, j in s.bonds:
        if i in bonds and j in bonds:
            bonds[i].add(j)
            bonds[j].add(i)
        elif i in light and not is_heavy[j]:
            light[i].append(j)
        elif j in light and not is_heavy[i]:
            light[j].append(i)
    return _Units(heavy, light, bonds)


def _connected_sets(units: _Units) -> list[tuple[int, ...]]:
    """Sets of heavy atoms that hang together, small ones first."""
    found: dict[frozenset[int], None] = {frozenset((k,)): None for k in units.heavy}
    layer = list(found)
    while layer and len(found) < MOST_SETS:
        grown: dict[frozenset[int], None] = {}
        for group in layer:
            for other in set().union(*(units.bonds[k] for k in group)) - group:
                grown[group | {other}] = None
        layer = [g for g in grown if g not in found]
        found.update(dict.fromkeys(layer))
    return [tuple(sorted(g)) for g in found]


def _simple(s: _Sums, units: _Units) -> Form | None:
    """The best of all weights of the kinds that people write."""
    tried: list[tuple[Float64[np.ndarray, " l"], dict[str, float], bool, tuple[int, int, int]]] = []
    for group in _connected_sets(units):
        ends = [k for k in group if len(units.bonds[k] & set(group)) == 1]
        halves = [c for n in range(min(len(ends), 4) + 1) for c in combinations(ends, n)]
        for half in halves if len(group) > 1 else [()]:
            if len(half) == len(group):
                continue
            tried += _families(s, units, group, half)
    if not tried:
        return None
    w = np.array([t[0] for t in tried])
    rms = np.sqrt(np.maximum(np.einsum("ha,ab,hb->h", w, s.products, w, optimize=True), 0.0))
    # As good as the best within what the rounding of the files decides: then the simplest.
    good = np.flatnonzero(rms <= 1.15 * rms.min() + 2e-5)
    best = min(good, key=lambda k: (tried[k][3], rms[k]))
    return Form(tried[best][1], tried[best][2], float(rms[best]))


def _families(
    s: _Sums, units: _Units, group: tuple[int, ...], half: tuple[int, ...]
) -> list[tuple[Float64[np.ndarray, " l"], dict[str, float], bool, tuple[int, int, int]]]:
    """By mass or alike; with all hydrogens, those that every monomer has, or none."""
    found = []
    chosen: list[list[int]] = []
    for hydrogens in ("all", "usual", "none"):
        atoms = list(group)
        for k in group if hydrogens != "none" else ():
            atoms += [h for h in units.light[k] if hydrogens == "all" or s.labels[h] not in s.extra]
        if sorted(atoms) not in chosen:
            chosen.append(sorted(atoms))
    of = {h: k for k, those in units.light.items() for h in those}
    for rank, atoms in enumerate(chosen):
        for by_mass in (True, False):
            w = np.zeros(len(s.labels))
            shares = {}
            for a in atoms:
                share = 0.5 if of.get(a, a) in half else 1.0
                shares[s.labels[a]] = share
                w[a] = share * (s.masses[a] if by_mass else 1.0)
            if w.sum() > 0:
                order = (len(half), rank + (not by_mass), len(group))
                found.append((w / w.sum(), shares, by_mass, order))
    return found


def _free(s: _Sums) -> Form:
    """Weights of no kind: the least squares above zero that add to one."""
    near = np.flatnonzero(np.sqrt(np.diag(s.products)) < REACH)
    products = s.products[np.ix_(near, near)]
    values, vectors = np.linalg.eigh(products)
    rows = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    stiff = 1e3  # adds the condition that weights add to one
    w, _ = nnls(np.vstack([rows, np.full(len(near), stiff)]), np.r_[np.zeros(len(near)), stiff])
    w = np.where(w < 0.005, 0.0, w)
    w = w / w.sum()
    rms = float(np.sqrt(max(w @ products @ w, 0.0)))
    halves = _halves(s.masses[near], w)
    if halves is not None:
        by_mass = halves * s.masses[near] / (halves @ s.masses[near])
        simple = float(np.sqrt(max(by_mass @ products @ by_mass, 0.0)))
        if simple <= 1.15 * rms + 2e-5:
            parts = {s.labels[a]: float(c) for a, c in zip(near, halves, strict=True) if c}
            return Form(parts, True, simple)
    return Form({s.labels[a]: round(float(x), 4) for a, x in zip(near, w, strict=True) if x > 0},
                False, rms)  # fmt: skip


def _halves(
    masses: Float64[np.ndarray, " n"], w: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"] | None:
    """Weights for a mass as 0, 1/2 and 1 of the heavy atoms' largest; None without masses."""
    if not (masses > 0).all():
        return None
    ratio = w / masses
    largest = ratio[masses > 3.0].max(initial=0.0)
    return None if largest == 0.0 else np.minimum(np.rint(2 * ratio / largest) / 2, 1.0)


def _owners(
    molecule: MoleculeType, members: list[_Member], forms: dict[_Kind, Form]
) -> dict[_Kind, tuple[str, ...]]:
    """Every atom to the bead that has most of it, alike in every monomer.

    Where several have the same share, the first one; an atom of no bead goes with the atom that it
    is bonded to. What inner monomers do, the ends do as well.
    """
    best: dict[int, tuple[float, int]] = {}
    for k, member in enumerate(members):
        for label, share in forms[member.kind].shares.items():
            atom = member.atoms[label]
            if atom not in best or share > best[atom][0] + 1e-6:
                best[atom] = share, k
    own = {m.monomer: {n: a for n, a in m.atoms.items() if n[0] not in "+-" or len(n) == 1}
           for m in members}  # fmt: skip
    votes: dict[tuple[str, str], Counter[tuple[str, int]]] = {}
    for k, member in enumerate(members):
        if member.kind.place == "inner":
            for name, atom in own[member.monomer].items():
                if best.get(atom, (0, -1))[1] == k:
                    key = (member.kind.residue, name)
                    votes.setdefault(key, Counter())[member.kind.bead, 0] += 1
    owner: dict[int, int] = {}
    by_place = {(m.monomer, m.kind.bead): k for k, m in enumerate(members)}
    residues = {m.monomer: m.kind.residue for m in members}
    for monomer, atoms in own.items():
        for name, atom in atoms.items():
            vote = votes.get((residues[monomer], name))
            bead = vote.most_common(1)[0][0][0] if vote else ""
            if (monomer, bead) in by_place:
                owner[atom] = by_place[monomer, bead]
            elif atom in best and not vote:
                owner[atom] = best[atom][1]
    _spread(molecule, owner)
    found: dict[_Kind, tuple[str, ...]] = {}
    for k, member in enumerate(members):
        name_of = {a: n for n, a in reversed(member.atoms.items())}
        mine = tuple(name_of[a] for a in sorted(owner) if owner[a] == k and a in name_of)
        found.setdefault(member.kind, mine)
    return found


def _spread(molecule: MoleculeType, owner: dict[int, int]) -> None:
    """Gives atoms without an owner that of an atom they are bonded to."""
    bonds = molecule.bonds.tolist()
    while len(owner) < molecule.n_atoms:
        before = len(owner)
        for pair in bonds:
            for a, b in (pair, pair[::-1]):
                if a not in owner and b in owner:
                    owner[a] = owner[b]
        if len(owner) == before:
            for atom in range(molecule.n_atoms):
                owner.setdefault(atom, 0)


def _text(head: str, forms: dict[_Kind, Form], owners: dict[_Kind, tuple[str, ...]]) -> str:
    """The YAML: the draft's residues with the beads that were found."""
    lines = ["# Found from atoms and beads of the same frames by least squares.",
             "weights: mass", "residues:"]  # fmt: skip
    residue, skip = "", False
    for line in head.splitlines()[3:]:
        if line.startswith("  ") and not line.startswith("   "):
            residue, skip = line.strip().removesuffix(":").strip("'"), False
        if not skip:
            lines.append(line)
        if line == "    beads:":
            skip = True
            lines += _bead_lines(residue, forms, owners)
    return "\n".join(lines) + "\n"


def _bead_lines(
    residue: str, forms: dict[_Kind, Form], owners: dict[_Kind, tuple[str, ...]]
) -> list[str]:
    lines = []
    kinds = [k for k in forms if k.residue == residue]
    places = [p for p in PLACES if any(k.place == p for k in kinds)]
    for bead in dict.fromkeys(k.bead for k in sorted(kinds, key=lambda k: k.place != places[0])):
        of = {p: _Kind(residue, p, bead) for p in places}
        base = next(of[p] for p in places if of[p] in forms)
        lines.append(f"      - name: {quoted(bead)}")
        lines.append(
            f"        type: {quoted(bead.removesuffix('{n}').rstrip('0123456789') or bead)}"
        )
        if not bead.endswith("{n}"):
            lines[-1] = f"        type: {quoted(bead)}"
        usual = _form_lines(forms[base], owners[base])
        lines += [f"        {row}" for row in usual]
        for place in places:
            if place == base.place:
                continue
            if of[place] not in forms:
                lines.append(f"        {place}: none")
                continue
            own = [r for r in _form_lines(forms[of[place]], owners[of[place]]) if r not in usual]
            if own:
                lines.append(f"        {place}:")
                lines += [f"          {row}" for row in own]
    return lines


def _form_lines(form: Form, owns: tuple[str, ...]) -> list[str]:
    pairs = ", ".join(f"{quoted(n)}: {x:g}" for n, x in form.shares.items())
    rows = [f"atoms: {{{pairs}}}", f"owns: [{', '.join(quoted(n) for n in owns)}]"]
    return rows if form.mass_weighted else [*rows, "weights: plain"]
