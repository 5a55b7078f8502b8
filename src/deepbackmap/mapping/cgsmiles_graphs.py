"""CGSmiles strings as mappings: for systems whose atoms have no telling names.

The package ``cgsmiles`` reads the string (Gruenewald et al., the CGsmiles notation); its atoms are
then found among those of a molecule by elements and bonds. Hydrogens go with the atom that they are
bonded to; a force field of united atoms has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepbackmap.errors import InputError
from deepbackmap.mapping.assemble import ResolvedBead
from deepbackmap.system import MoleculeType
from deepbackmap.system.elements import element_symbols

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class CgsmilesAtom:
    """A heavy atom of the string."""

    element: str
    beads: tuple[int, ...]
    weight: float
    hydrogens: tuple[tuple[tuple[int, ...], float], ...]
    """Beads and weight of each."""


@dataclass(frozen=True)
class CgsmilesMolecule:
    """What a string says of one molecule."""

    bead_names: tuple[str, ...]
    """The fragments, in the order of the string; they are the types as well."""
    atoms: tuple[CgsmilesAtom, ...]
    bonds: tuple[tuple[int, int], ...]
    """Between heavy atoms."""

    @property
    def covers(self) -> str:
        """What to call its molecule: the beads in a row."""
        return "-".join(self.bead_names)

    def claims(self, molecule: MoleculeType) -> bool:
        """Whether the molecule has these atoms and bonds."""
        return self._match(molecule) is not None

    def resolve(self, molecule: MoleculeType, source: str) -> list[ResolvedBead]:
        """The beads with atoms as indices of a molecule type that it ``claims``.

        Args:
            molecule: the molecule type.
            source: the string or its file, for errors.

        Returns:
            Beads in the order of the string, called by fragment and number.

        Raises:
            InputError: the molecule has other atoms or bonds.
        """
        found = self._match(molecule)
        if found is None:
            raise InputError(
                f"{source}: expected a string of molecule {molecule.name}, found other elements "
                f"or bonds"
            )
        weights: list[dict[int, float]] = [{} for _ in self.bead_names]
        owned: list[list[int]] = [[] for _ in self.bead_names]
        for atom, (heavy, light) in zip(self.atoms, found, strict=True):
            rows = [(heavy, atom.beads, atom.weight)]
            rows += [(h, *row) for h, row in zip(light, atom.hydrogens, strict=False)]
            for index, beads, weight in rows:
                owned[beads[0]].append(index)
                for bead in beads:
                    if weight > 0:
                        weights[bead][index] = weight * float(molecule.masses[index])
        return [self._bead(k, molecule, weights[k], sorted(owned[k])) for k in range(len(weights))]

    def _bead(
        self, k: int, molecule: MoleculeType, weights: dict[int, float], owned: list[int]
    ) -> ResolvedBead:
        first = min(weights)
        return ResolvedBead(
            f"{self.bead_names[k]}{k + 1}", self.bead_names[k], molecule.residue_names[first],
            int(molecule.residue_numbers[first]), tuple(weights), tuple(weights.values()),
            tuple(owned),
        )  # fmt: skip

    def _match(self, molecule: MoleculeType) -> list[tuple[int, list[int]]] | None:
        """For each heavy atom of the string that of the molecule, and its hydrogens.

        Of equivalent ways the one that begins with the lowest atom is taken, so that a chain whose
        ends are alike is read in the order of its atoms.
        """
        import networkx as nx  # here, and below: few mappings need it

        graph, light = _heavy_graph(molecule)
        wanted: nx.Graph[Any] = nx.Graph()
        for k, atom in enumerate(self.atoms):
            wanted.add_node(k, element=atom.element, light=len(atom.hydrogens), pinned=k == 0)
        wanted.add_edges_from(self.bonds)
        if len(graph) != len(wanted) or graph.number_of_edges() != wanted.number_of_edges():
            return None
        for start in sorted(graph):
            if not _alike(graph.nodes[start] | {"pinned": True}, wanted.nodes[0]):
                continue
            nx.set_node_attributes(graph, {n: n == start for n in graph}, "pinned")
            matcher = nx.algorithms.isomorphism.GraphMatcher(graph, wanted, node_match=_alike)
            if matcher.is_isomorphic():
                there = {b: a for a, b in matcher.mapping.items()}
                return [(there[k], light[there[k]]) for k in range(len(self.atoms))]
        return None


def parse_cgsmiles(text: str, source: str) -> CgsmilesMolecule:
    """Reads a CGSmiles string with atoms, ``{beads}.{fragments}``.

    Args:
        text: the string.
        source: what to call it in errors.

    Returns:
        Its molecule.

    Raises:
        InputError: the package ``cgsmiles`` is not there, or does not read the string.
    """
    try:
        from cgsmiles import MoleculeResolver
    except ImportError as error:
        raise InputError(
            f"{source}: expected the package cgsmiles to read it, found none; "
            f"pip install 'deepbackmap[cgsmiles]'"
        ) from error
    try:
        beads, atoms = MoleculeResolver.from_string(text.strip()).resolve_all()
    except Exception as error:  # whatever a parser of its own raises
        raise InputError(
            f"{source}: expected a CGSmiles string {{beads}}.{{fragments}}, which cgsmiles reads, "
            f"found: {error}"
        ) from error
    return _from_graphs(beads, atoms, source)


def _from_graphs(beads: Any, atoms: Any, source: str) -> CgsmilesMolecule:
    order = {bead: k for k, bead in enumerate(beads)}
    of = {
        n: (tuple(order[b] for b in d["fragid"]), float(d.get("weight", 1)))
        for n, d in atoms.nodes(data=True)
    }
    if any("element" not in d for _, d in atoms.nodes(data=True)):
        raise InputError(f"{source}: expected fragments of atoms, found beads only")
    heavy = [n for n, d in atoms.nodes(data=True) if d["element"] != "H" or _lone(atoms, n)]
    place = {n: k for k, n in enumerate(heavy)}
    found = tuple(
        CgsmilesAtom(
            atoms.nodes[n]["element"], *of[n],
            tuple(of[h] for h in atoms[n] if h not in place),
        )
        for n in heavy
    )  # fmt: skip
    for k, bead in enumerate(beads):
        if not any(k in a.beads and a.weight > 0 for a in found):
            name = beads.nodes[bead]["fragname"]
            raise InputError(f"{source}: expected atoms with weights in bead {name}, found none")
    bonds = tuple((place[a], place[b]) for a, b in atoms.edges if a in place and b in place)
    names = tuple(str(d["fragname"]) for _, d in beads.nodes(data=True))
    return CgsmilesMolecule(names, found, bonds)


def _lone(atoms: Any, node: Any) -> bool:
    """Whether a hydrogen is bonded to no heavy atom."""
    return all(atoms.nodes[o]["element"] == "H" for o in atoms[node])


def _heavy_graph(molecule: MoleculeType) -> tuple[nx.Graph, dict[int, list[int]]]:
    """Heavy atoms with elements and bonds, and the hydrogens of each."""
    import networkx as nx

    elements = element_symbols(molecule.masses)
    graph: nx.Graph[Any] = nx.Graph()
    bonded: dict[int, list[int]] = {k: [] for k in range(molecule.n_atoms)}
    for i, j in molecule.bonds.tolist():
        bonded[i].append(j)
        bonded[j].append(i)
    light: dict[int, list[int]] = {}
    for k, element in enumerate(elements):
        if element != "H" or all(elements[o] == "H" for o in bonded[k]):
            graph.add_node(k, element=element)
            light[k] = []
    for k in bonded:
        if k not in light:
            light[min(o for o in bonded[k] if o in light)].append(k)
    for k in light:
        graph.nodes[k]["light"] = len(light[k])
    pairs = molecule.bonds.tolist()
    graph.add_edges_from((i, j) for i, j in pairs if i in light and j in light)
    return graph, light


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """A molecule's atom and the string's; without hydrogens it is a united atom."""
    same = a["element"] == b["element"] and a["pinned"] == b["pinned"]
    return same and a["light"] in (0, b["light"])
