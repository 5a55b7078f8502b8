"""Applies the rules of a mapping file to a molecule type, monomer by monomer."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from deepbackmap.errors import InputError, together
from deepbackmap.mapping.assemble import ResolvedBead
from deepbackmap.mapping.draft import residue_runs, stub
from deepbackmap.mapping.rules import BeadForm, BeadRule, RepeatRule, ResidueRule
from deepbackmap.system import MoleculeType

_MISTAKES = "{}: expected a mapping that fits, found {} mistakes"


@dataclass(frozen=True)
class Monomer:
    """A residue, or a piece of one that a ``repeat`` rule has cut out."""

    rule: ResidueRule
    residue_name: str
    residue_number: int
    atoms: dict[str, int]
    """Index in the molecule by the name that the mapping file uses."""


def resolve_beads(
    molecule: MoleculeType, rules: tuple[ResidueRule, ...], source: str
) -> list[ResolvedBead]:
    """The beads of one molecule type in file order: monomer after monomer.

    A monomer is the ``first`` one if no bond joins it to a monomer before it in the list of
    atoms, and the ``last`` one if none joins it to one behind it, so that several chains in one
    molecule type, and the branches of one, each have their own ends.

    Args:
        molecule: the molecule type.
        rules: of the mapping file.
        source: the mapping file, for errors.

    Returns:
        Beads, with atoms as indices in the molecule.

    Raises:
        InputError: a residue has no rule (with a stub to fill in), its atoms do not fit the rule,
            or a rule names atoms or beads that are not there.
    """
    monomers = cut_monomers(molecule, rules, source)
    bonded = bonded_monomers(molecule, monomers)
    forms: list[list[tuple[BeadRule, BeadForm]]] = []
    for k, monomer in enumerate(monomers):
        place = place_of(k, bonded[k])
        found = [(b, _form(b, place, monomer, molecule, source)) for b in monomer.rule.beads]
        forms.append([(b, form) for b, form in found if form is not None])
    resolver = _Resolver(molecule, monomers, bonded, forms, source)
    beads, errors, wrong = [], [], set()
    pieces = [(k, form) for k, found in enumerate(forms) for _, form in found]
    for k, form in pieces:
        try:
            beads.append(resolver.bead(k, form))
        except InputError as error:  # of one bead that is wrong everywhere the first is said
            if id(form) not in wrong:
                errors.append(error)
            wrong.add(id(form))
    if errors:
        raise together(_MISTAKES.format(source, "{}"), errors)
    return beads


def name_monomers(
    molecule: MoleculeType, rules: tuple[ResidueRule, ...], source: str
) -> tuple[list[tuple[str, dict[str, int]]], list[bool]]:
    """The atoms of a molecule by the names that a mapping knows them by.

    Args:
        molecule: the molecule type.
        rules: of the mapping file; without any for the molecule, residues and names are the
            topology's.
        source: the mapping file, for errors.

    Returns:
        For each monomer its residue name and its atoms by name, and whether a bond joins it to the
        next one.

    Raises:
        InputError: a residue has no rule or does not fit it, or a name occurs twice in a residue.
    """
    names = dict.fromkeys(molecule.residue_names)
    if any(fnmatchcase(n, r.pattern) for n in names for r in rules):
        monomers = cut_monomers(molecule, rules, source)
    else:
        rule = ResidueRule("*", None, ())
        monomers = [
            Monomer(rule, molecule.residue_names[a], int(molecule.residue_numbers[a]),
                    _named(molecule, a, b, source))
            for a, b in residue_runs(molecule)
        ]  # fmt: skip
    return [(m.residue_name, m.atoms) for m in monomers], _joined(molecule, monomers)


def place_of(k: int, bonded: list[int]) -> str:
    """``inner``, ``first``, ``last`` or ``alone``, of a monomer that is bonded to others."""
    before, after = any(o < k for o in bonded), any(o > k for o in bonded)
    return {(True, True): "inner", (False, True): "first", (True, False): "last"}.get(
        (before, after), "alone"
    )


def _form(
    bead: BeadRule, place: str, monomer: Monomer, molecule: MoleculeType, source: str
) -> BeadForm | None:
    """The form that a bead has in its place; None if it does not exist there."""
    if place == "alone" and place not in bead.variants:
        ends = [v for v in ("first", "last") if v in bead.variants]
        if len(ends) == 2:
            raise InputError(
                f"{monomer.rule.source or source} line {bead.base.line}: expected bead "
                f"{bead.base.name} to have a variant 'alone' for residue {monomer.residue_name} "
                f"{monomer.residue_number} of molecule {molecule.name}, which is bonded to no "
                f"other, found only 'first' and 'last'"
            )
        place = ends[0] if ends else "inner"
    return bead.variants.get(place, bead.base)


@dataclass(frozen=True)
class _Resolver:
    """Names of atoms and beads, with their prefixes, as indices."""

    molecule: MoleculeType
    monomers: list[Monomer]
    bonded: list[list[int]]
    """The monomers that each one is bonded to, in order."""
    forms: list[list[tuple[BeadRule, BeadForm]]]
    source: str

    def bead(self, k: int, form: BeadForm) -> ResolvedBead:
        monomer = self.monomers[k]
        atoms = tuple(self.atom(k, name, form) for name in form.weights)
        weights = np.array(list(form.weights.values()))
        if form.mass_weighted:
            weights = weights * self.molecule.masses[list(atoms)]
        if not (weights[~self.molecule.virtual[list(atoms)]] > 0).all():
            raise self.error(form, k, "atoms with masses", "one of mass zero")
        align = None
        if form.align is not None:
            low, high = (self.bead_index(k, name, form) for name in form.align)
            align = (low, high)
            if low == high:
                raise self.error(form, k, "align to name two different beads", f"{form.align[0]}")
        return ResolvedBead(
            name=form.name.replace("{n}", str(k + 1)),
            type=form.type,
            residue_name=monomer.residue_name,
            residue_number=monomer.residue_number,
            atoms=atoms,
            weights=tuple(weights.tolist()),
            owns=tuple(self.atom(k, name, form) for name in form.owns),
            align=align,
        )

    def atom(self, k: int, name: str, form: BeadForm) -> int:
        at, bare = self.neighbour(k, name, form)
        if bare not in self.monomers[at].atoms:
            known = " ".join(self.monomers[at].atoms)
            raise self.error(form, k, f"an atom {name}", f"only {known}")
        return self.monomers[at].atoms[bare]

    def bead_index(self, k: int, name: str, form: BeadForm) -> int:
        at, bare = self.neighbour(k, name, form)
        names = [f.name for _, f in self.forms[at]]
        if bare not in names:
            raise self.error(form, k, f"a bead {name} to align with", f"only {' '.join(names)}")
        return sum(len(f) for f in self.forms[:at]) + names.index(bare)

    def neighbour(self, k: int, name: str, form: BeadForm) -> tuple[int, str]:
        """The monomer that a prefix points to, and the name without it.

        ``+`` is the bonded monomer behind this one and ``-`` the one before it; where there are
        several, ``+2:`` and ``-2:`` count them from the nearest in the list.
        """
        if name[0] not in "+-" or len(name) == 1:
            return k, name
        after = name[0] == "+"
        there = [o for o in self.bonded[k] if (o > k) == after]
        there = there if after else there[::-1]
        side, variant = ("after", "last") if after else ("before", "first")
        number, colon, bare = name[1:].partition(":")
        if not (colon and number.isdigit() and bare):
            number, bare = "", name[1:]
        if len(there) < int(number or 1):
            missing = f"only {len(there)}" if there else "that no bond leads to one"
            raise self.error(
                form,
                k,
                f"{'a monomer' if len(number) == 0 else f'{number} monomers'} {side} it for "
                f"'{name}'",
                f"{missing}; give the bead a variant '{variant}'",
            )
        if len(there) > 1 and not number:
            raise self._asks(k, name, there, form)
        return there[int(number or 1) - 1], bare

    def _asks(self, k: int, name: str, there: list[int], form: BeadForm) -> InputError:
        """Which of several monomers is meant."""
        choices = ", ".join(
            f"{name[0]}{n}:{name[1:]} ({self.monomers[o].residue_name} "
            f"{self.monomers[o].residue_number})"
            for n, o in enumerate(there, 1)
        )
        return self.error(form, k, f"one monomer for '{name}'", f"bonds to {len(there)}: {choices}")

    def error(self, form: BeadForm, k: int, expected: str, found: str) -> InputError:
        monomer = self.monomers[k]
        return InputError(
            f"{monomer.rule.source or self.source} line {form.line}: bead "
            f"{form.name.replace('{n}', str(k + 1))} of residue {monomer.residue_name} "
            f"{monomer.residue_number} in molecule {self.molecule.name} expected {expected}, "
            f"found {found}"
        )


def cut_monomers(
    molecule: MoleculeType, rules: tuple[ResidueRule, ...], source: str
) -> list[Monomer]:
    """The monomers of a molecule in the order of its atoms."""
    _check_rules(molecule, rules, source)
    monomers: list[Monomer] = []
    for start, stop in residue_runs(molecule):
        rule = _rule(molecule, rules, start, stop, source)
        if rule.repeat is None:
            pieces = [_named(molecule, start, stop, source)]
        else:
            pieces = _repeat(molecule, rule.repeat, start, stop, rule.source or source)
        name, number = molecule.residue_names[start], int(molecule.residue_numbers[start])
        monomers += [Monomer(rule, name, number, atoms) for atoms in pieces]
    return monomers


def _check_rules(molecule: MoleculeType, rules: tuple[ResidueRule, ...], source: str) -> None:
    """Refuses a molecule with residues that have no rule, all of them at once."""
    first: dict[str, tuple[int, int]] = {}
    for start, stop in residue_runs(molecule):
        first.setdefault(molecule.residue_names[start], (start, stop))
    errors = []
    for start, stop in first.values():
        try:
            _rule(molecule, rules, start, stop, source)
        except InputError as error:
            errors.append(error)
    if errors:
        raise together(_MISTAKES.format(source, "{}"), errors)


def _rule(
    molecule: MoleculeType, rules: tuple[ResidueRule, ...], start: int, stop: int, source: str
) -> ResidueRule:
    name = molecule.residue_names[start]
    exact = [r for r in rules if r.pattern == name]
    found = exact or [r for r in rules if fnmatchcase(name, r.pattern)]
    if len(found) == 1:
        return found[0]
    if found:
        patterns = " and ".join(r.pattern for r in found)
        raise InputError(
            f"{source}: expected one entry for residue {name} of molecule {molecule.name}, "
            f"found {patterns}"
        )
    known = ", ".join(r.pattern for r in rules)
    raise InputError(
        f"{source}: expected an entry for residue {name} of molecule {molecule.name} "
        f"({stop - start} atoms), found only {known}; leave it out with '--drop {name}', or put "
        f"this under 'residues':\n{stub(molecule, start, stop)}"
    )


def _named(molecule: MoleculeType, start: int, stop: int, source: str) -> dict[str, int]:
    atoms: dict[str, int] = {}
    for atom in range(start, stop):
        name = molecule.atom_names[atom]
        if name in atoms:
            raise InputError(
                f"{source}: expected the atoms of residue {molecule.residue_names[atom]} "
                f"{molecule.residue_numbers[atom]} in molecule {molecule.name} to have names that "
                f"differ, found {name} twice; a 'repeat' rule can name them by position"
            )
        atoms[name] = atom
    return atoms


def _repeat(
    molecule: MoleculeType, rule: RepeatRule, start: int, stop: int, source: str
) -> list[dict[str, int]]:
    length = len(rule.names)
    extra = len(rule.before) + len(rule.after)
    count, rest = divmod(stop - start - extra, length)
    if count < 1 or rest:
        raise InputError(
            f"{source} line {rule.line}: expected residue {molecule.residue_names[start]} "
            f"{molecule.residue_numbers[start]} of molecule {molecule.name} to have a multiple of "
            f"{length} atoms and {extra} extra ones, found {stop - start}"
        )
    first = start + len(rule.before)
    pieces = [
        {name: first + k * length + m for m, name in enumerate(rule.names)} for k in range(count)
    ]
    if rule.bonds is not None:
        _check_bonds(molecule, rule, rule.bonds, pieces, source)
    for atom, (name, place) in enumerate(rule.before, start):
        pieces[0 if place == "first" else -1][name] = atom
    for atom, (name, place) in enumerate(rule.after, first + count * length):
        pieces[0 if place == "first" else -1][name] = atom
    return pieces


def _check_bonds(
    molecule: MoleculeType,
    rule: RepeatRule,
    bonds: tuple[tuple[str, str], ...],
    pieces: list[dict[str, int]],
    source: str,
) -> None:
    """Refuses a residue whose bonds are not those of its monomers: its atoms are ordered otherwise.

    Bonds of extra atoms and to other residues are left alone.
    """
    labels = {
        atom: f"{name} of monomer {k}"
        for k, piece in enumerate(pieces, 1)
        for name, atom in piece.items()
    }
    expected: set[tuple[int, int]] = set()
    for k, piece in enumerate(pieces):
        for a, b in bonds:
            # A bond to the next monomer does not exist at the end.
            for other in pieces[k + 1 : k + 2] if b.startswith("+") else [piece]:
                i, j = piece[a], other[b.removeprefix("+")]
                expected.add((min(i, j), max(i, j)))
    found = {(i, j) for i, j in molecule.bonds.tolist() if i in labels and j in labels}
    if expected != found:
        i, j = min(expected ^ found)
        wanted, got = ("a", "none") if (i, j) in expected else ("no", "one")
        raise InputError(
            f"{source} line {rule.line}: expected {wanted} bond between {labels[i]} (atom "
            f"{molecule.atom_names[i]}) and {labels[j]} (atom {molecule.atom_names[j]}) in "
            f"molecule {molecule.name}, found {got}: are the atoms in the order of the names?"
        )


def bonded_monomers(molecule: MoleculeType, monomers: list[Monomer]) -> list[list[int]]:
    """The monomers that bonds join each monomer to, in order."""
    index = np.zeros(molecule.n_atoms, dtype=np.int64)
    for k, monomer in enumerate(monomers):
        index[list(monomer.atoms.values())] = k
    pairs = np.unique(np.sort(index[molecule.bonds].reshape(-1, 2), axis=1), axis=0)
    found: list[list[int]] = [[] for _ in monomers]
    for i, j in pairs.tolist():
        if i != j:
            found[i].append(j)
            found[j].append(i)
    return [sorted(f) for f in found]


def _joined(molecule: MoleculeType, monomers: list[Monomer]) -> list[bool]:
    """Whether a bond joins each monomer to the next one."""
    return [k + 1 in others for k, others in enumerate(bonded_monomers(molecule, monomers))]
