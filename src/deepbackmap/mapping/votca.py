"""VOTCA's mapping files (XML, one molecule a file).

Read are the beads with their atoms and the weights of their maps. VOTCA has no owners: each
atom is placed by the bead in which it weighs most after normalisation, the first of them if
several do; an atom of weight zero everywhere by the first bead that names it. Bonded interactions,
symmetry and force weights (``d``) play no part here.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from deepbackmap.errors import InputError
from deepbackmap.mapping.assemble import ResolvedBead
from deepbackmap.system import MoleculeType


@dataclass(frozen=True)
class VotcaBead:
    """One ``cg_bead``."""

    name: str
    type: str
    atoms: tuple[tuple[int, str, str], ...]
    """(residue number, residue name, atom name)."""
    weights: tuple[float, ...]
    """One an atom; zero for an atom that the bead only names."""


@dataclass(frozen=True)
class VotcaMolecule:
    """One ``cg_molecule``."""

    ident: str
    """Name of the molecule type that it maps."""
    beads: tuple[VotcaBead, ...]

    @property
    def covers(self) -> str:
        """The molecule type that it maps."""
        return self.ident

    def claims(self, molecule: MoleculeType) -> bool:
        """Whether this is the molecule that it maps."""
        return molecule.name == self.ident

    def resolve(self, molecule: MoleculeType, source: str) -> list[ResolvedBead]:
        """The beads with atoms as indices of a molecule type.

        Args:
            molecule: of the name ``ident``.
            source: the file, for errors.

        Returns:
            Beads in file order.

        Raises:
            InputError: the file names atoms that this molecule has not.
        """
        index: dict[tuple[int, str, str], int] = {}
        numbers = molecule.residue_numbers.tolist()
        for k, key in enumerate(
            zip(numbers, molecule.residue_names, molecule.atom_names, strict=True)
        ):
            if index.setdefault(key, k) != k:
                raise InputError(
                    f"{source}: expected atom names of molecule {molecule.name} that differ within "
                    f"a residue, found {_address(key)} twice"
                )
        atoms = [tuple(self._atom(index, b, a, source) for a in b.atoms) for b in self.beads]
        owned = self._owned(atoms)
        return [
            ResolvedBead(
                name=bead.name,
                type=bead.type,
                residue_name=bead.atoms[0][1],
                residue_number=bead.atoms[0][0],
                atoms=tuple(a for a, w in zip(atoms[k], bead.weights, strict=True) if w > 0),
                weights=tuple(w for w in bead.weights if w > 0),
                owns=tuple(owned[k]),
            )
            for k, bead in enumerate(self.beads)
        ]

    def _atom(
        self,
        index: dict[tuple[int, str, str], int],
        bead: VotcaBead,
        atom: tuple[int, str, str],
        source: str,
    ) -> int:
        if atom not in index:
            raise InputError(
                f"{source}: expected the atoms of bead {bead.name} in molecule {self.ident} of the "
                f"topology, found no {_address(atom)} there"
            )
        return index[atom]

    def _owned(self, atoms: list[tuple[int, ...]]) -> list[list[int]]:
        best: dict[int, tuple[float, int]] = {}
        for k, bead in enumerate(self.beads):
            total = sum(bead.weights)
            for atom, weight in zip(atoms[k], bead.weights, strict=True):
                # The margin keeps rounding from deciding between equal shares.
                if atom not in best or weight / total > best[atom][0] * (1 + 1e-9):
                    best[atom] = (weight / total, k)
        owned: list[list[int]] = [[] for _ in self.beads]
        for atom, (_, k) in sorted(best.items()):
            owned[k].append(atom)
        return owned


def parse_votca(text: str, source: str) -> VotcaMolecule:
    """Reads a VOTCA mapping.

    Args:
        text: the XML.
        source: what to call it in errors.

    Returns:
        Its molecule.

    Raises:
        InputError: the text is not XML, or a bead lacks its atoms, map or weights.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{source}: expected XML, found: {error}") from error
    if root.tag != "cg_molecule":
        raise InputError(f"{source}: expected a VOTCA <cg_molecule>, found <{root.tag}>")
    maps = {
        _text(m, "name", "a map", source): _text(m, "weights", "a map", source)
        for m in root.findall("maps/map")
    }
    beads = tuple(_bead(b, maps, source) for b in root.findall("topology/cg_beads/cg_bead"))
    if not beads:
        raise InputError(f"{source}: expected beads under <topology><cg_beads>, found none")
    return VotcaMolecule(_text(root, "ident", "the molecule", source), beads)


def _bead(node: ElementTree.Element, maps: dict[str, str], source: str) -> VotcaBead:
    name = _text(node, "name", "a bead", source)
    what = f"bead {name}"
    map_name = _text(node, "mapping", what, source)
    if map_name not in maps:
        raise InputError(f"{source}: expected a map {map_name} for {what}, found none")
    atoms = tuple(
        _parse_address(w, what, source) for w in _text(node, "beads", what, source).split()
    )
    try:
        weights = tuple(float(w) for w in maps[map_name].split())
    except ValueError:
        raise InputError(
            f"{source}: expected numbers as weights of map {map_name}, found '{maps[map_name]}'"
        ) from None
    if len(weights) != len(atoms):
        raise InputError(
            f"{source}: expected {len(atoms)} weights in map {map_name}, one an atom of {what}, "
            f"found {len(weights)}"
        )
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise InputError(
            f"{source}: expected weights of map {map_name} above zero, found {maps[map_name]}"
        )
    if len(set(atoms)) != len(atoms):
        raise InputError(f"{source}: expected {what} to name each atom once, found one twice")
    return VotcaBead(
        name=name,
        type=_text(node, "type", what, source),
        atoms=atoms,
        weights=weights,
    )


def _text(node: ElementTree.Element, tag: str, what: str, source: str) -> str:
    found = node.findtext(tag)
    if found is None or not found.strip():
        raise InputError(f"{source}: expected <{tag}> in {what}, found none")
    return found.strip()


def _parse_address(word: str, what: str, source: str) -> tuple[int, str, str]:
    parts = word.split(":")
    if len(parts) != 3 or not parts[0].isdigit():
        raise InputError(
            f"{source}: expected atoms of {what} as number:residue:atom, found '{word}'"
        )
    return int(parts[0]), parts[1], parts[2]


def _address(key: tuple[int, str, str]) -> str:
    return f"{key[0]}:{key[1]}:{key[2]}"
