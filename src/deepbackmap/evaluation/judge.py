"""Looks at frames of one system: the one piece of code that finds the figures of a frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64

from deepbackmap.chemistry import double_bonds, rings, stereo
from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.chemistry.tacticity import KnownHands
from deepbackmap.chemistry.warmth import AngleFreedom, angle_energies
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import (
    CLOSE,
    NAMED,
    Block,
    Blocks,
    Contacts,
    Deviation,
    DoubleBonds,
    Figures,
    Hands,
    Rings,
    bin_of,
)
from deepbackmap.evaluation.plan import Outline, atom_name, expand, particle_name
from deepbackmap.forcefield import contacts as close
from deepbackmap.forcefield.pairs import PairEnergies
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import bond_trees, make_whole

AGREEMENT = 0.8
"""Share of the molecules of a type that must agree on the hand of a stereocentre for the others to
count as inverted; below it (atactic chains) nothing is known of what is right."""
FEWEST = 3
"""Molecules of a type without which they cannot be a majority."""
RARE = 1e-4
"""Share of the blocks of a structure in equilibrium that are beyond what counts as allowed."""


@dataclass(frozen=True)
class Look:
    """What one frame shows, with its atoms; ``Judge`` makes its figures."""

    near: close.NearPairs
    """Pairs nearer than their sigma."""
    by_order: Int64[np.ndarray, " c"]
    """1 or -1 for every stereocentre by the order of its branches; 0 where it is flat."""
    by_side: Int64[np.ndarray, " c"]
    """The same by the side of its heavy branches."""
    right: Int64[np.ndarray, " c"]
    """What is right; 0 where that is not known."""
    cis: Int64[np.ndarray, " d"]
    """1 or -1 for every double bond."""
    cis_right: Int64[np.ndarray, " d"]
    """What is right; 0 where that is not known."""
    pierced: tuple[tuple[int, int, int, int], ...]
    """First atom of a ring, molecule of the bond that passes through it, and the bond's atoms."""

    @property
    def wrong(self) -> list[int]:
        """Stereocentres that are not as they should be, by either test."""
        off = (self.by_order != self.right) | (self.by_side != self.right)
        return np.flatnonzero((self.right != 0) & off).tolist()

    @property
    def wrong_bonds(self) -> list[int]:
        """Double bonds that are not as they should be."""
        return np.flatnonzero((self.cis_right != 0) & (self.cis != self.cis_right)).tolist()

    def newly_wrong(self, before: Look) -> list[int]:
        """Stereocentres that have turned over and were right, or not known to be wrong."""
        turned = (before.by_order != 0) & (self.by_order != before.by_order)
        wrong = (before.right != 0) & (before.by_order != before.right)
        return np.flatnonzero(turned & ~wrong).tolist()

    def newly_wrong_bonds(self, before: Look) -> list[int]:
        """Double bonds that have turned over and were right, or not known to be wrong."""
        turned = (before.cis != 0) & (self.cis != before.cis)
        wrong = (before.cis_right != 0) & (before.cis != before.cis_right)
        return np.flatnonzero(turned & ~wrong).tolist()

    def newly_pierced(self, before: Look) -> tuple[tuple[int, int, int, int], ...]:
        """Rings that a molecule passes through that did not before.

        A molecule that is caught in a ring slides along, so that it is another of its bonds
        after a while.
        """
        there = {entry[:2] for entry in before.pierced}
        return tuple(entry for entry in self.pierced if entry[:2] not in there)


class Judge:
    """Finds the figures of frames of one system."""

    def __init__(
        self,
        topology: Topology,
        mapping: SystemMapping | None = None,
        *,
        hands: KnownHands | None = None,
        sides: WantedSides | None = None,
        reference: Structure | None = None,
        plan: Outline | None = None,
    ) -> None:
        """Finds what there is to look at.

        Args:
            topology: of the system.
            mapping: whose beads own the blocks of atoms and are compared with those given.
            hands: of the stereocentres, as they should be.
            sides: of double bonds, as they should be.
            reference: a structure of the system whose stereocentres and double bonds are right;
                without it and ``hands``, what most molecules of a type have in the frame at hand
                counts as right.
            plan: the outline or plan of the topology, where it is at hand.
        """
        self.topology = topology
        self._mapping = mapping
        self._plan = Outline.from_topology(topology) if plan is None else plan
        self.contacts = close.Contacts(topology, self._plan.forcefield.exclusions)
        self._molecule = self._plan.molecule
        self._trees = bond_trees(topology)
        self._pairs = PairEnergies(self._plan.forcefield)
        self._centres = self._plan.centres if hands is None else hands.centres
        self._seen = stereo.seen_from_the_centre(self._centres, topology.masses())
        self._double = expand(
            topology, [double_bonds.double_bonds(m) for m in topology.molecule_types]
        ).reshape(-1, 4)
        self._hands = None if hands is None else hands.signs
        self._cis = None
        if sides is not None and len(sides.atoms):
            wanted = sides.among(self._double)
            self._double, self._cis = wanted.atoms, wanted.side
        if reference is not None:
            self._cis = double_bonds.sides(reference, self._double)
            if hands is None:
                self._hands = stereo.handedness(reference, self._centres)
        self._alike = _alike(topology, self._molecule, self._centres[:, 0])
        self._alike_bonds = _alike(topology, self._molecule, self._double[:, 1])
        self._prepare_blocks()

    def frame(
        self, structure: Structure, beads: Structure | None = None, number: int = 0
    ) -> Figures:
        """The figures of one frame.

        Args:
            structure: molecules need not be whole.
            beads: what it was made from, where there is a mapping.
            number: of the frame in its file, for names.
        """
        return self.figures(self.look(structure), structure, beads, number)

    def look(self, structure: Structure, right: Look | None = None) -> Look:
        """What can be compared atom by atom with another look at the system.

        Args:
            structure: molecules need not be whole.
            right: a look at it before, which says what is right where nothing else does.
        """
        by_order = stereo.handedness(structure, self._centres)
        cis = double_bonds.sides(structure, self._double)
        known = (None, None) if right is None else (right.right, right.cis_right)
        return Look(
            near=self.contacts.near(structure),
            by_order=by_order,
            by_side=stereo.handedness(structure, self._seen),
            right=_right(by_order, self._hands, self._alike, known[0]),
            cis=cis,
            cis_right=_right(cis, self._cis, self._alike_bonds, known[1]),
            pierced=self._pierced(structure),
        )

    def figures(
        self,
        look: Look,
        structure: Structure,
        beads: Structure | None = None,
        number: int = 0,
        energies: Mapping[str, float] | None = None,
    ) -> Figures:
        """The figures of a frame that was looked at.

        Args:
            look: at it.
            structure: the frame.
            beads: as of ``frame``.
            number: as of ``frame``.
            energies: by term, where they are at hand.
        """
        return Figures(
            frames=1,
            atoms=structure.n,
            contacts=self._contacts_of(look, number),
            hands=self._hands_of(look, number),
            double_bonds=self._double_bonds_of(look, number),
            rings=Rings(
                len(look.pierced),
                tuple(f"{self.name_pierced(e)}, frame {number}" for e in look.pierced[:NAMED]),
            ),
            bonds=self._bonds_of(structure, number),
            beads=self._beads_of(structure, beads, number),
            energies=self.energies(structure) if energies is None else energies,
            blocks=self._blocks_of(structure, number),
        )

    def energies(self, structure: Structure) -> dict[str, float]:
        """Energies by term in kJ/mol, as ``ForceField.energies_by_term``.

        Those of neighbour pairs are left out where the cell is too small for their cut-off.
        """
        field = self._plan.forcefield
        positions, box = torch.tensor(structure.positions), torch.tensor(structure.box)
        found: dict[str, float] = {}
        with torch.no_grad():
            for _, tables, molecules in field.molecules(positions):
                for table in tables:
                    values = table.energies(molecules, box)
                    found[table.term] = found.get(table.term, 0.0) + float(values.sum())
        return found | self._pairs(structure)

    def beads_moved(self, structure: Structure, beads: Structure) -> Float64[np.ndarray, "b 3"]:
        """Way of every re-mapped bead from where it was given, nm.

        Raises:
            ValueError: there is no mapping.
        """
        if self._mapping is None:
            raise ValueError("mapping: expected one to map beads with, got None")
        whole = make_whole(
            structure.positions, structure.box, self.topology, trees=self._trees, strict=False
        )
        mapped = map_positions(self._mapping, whole, structure.box)
        return minimum_image(mapped - beads.positions, structure.box)

    def check_beads(self, beads: Structure, number: int) -> None:
        """Refuses beads that are not those of the mapping.

        Args:
            beads: of a frame.
            number: of the frame, for errors.

        Raises:
            InputError: there are too many or too few.
        """
        if self._mapping is not None and beads.n != self._mapping.n_beads:
            raise InputError(
                f"beads, frame {number}: expected {self._mapping.n_beads} beads, found {beads.n}."
            )

    def block_energies(self, structure: Structure) -> Float64[np.ndarray, " b"]:
        """Angle energy of every block, kJ/mol."""
        found = angle_energies(self._plan.forcefield, structure.positions, structure.box)
        return np.bincount(self._owner, found, minlength=len(self._degrees))

    def name_contact(self, contact: close.Contact) -> str:
        """The two atoms with their molecules, and how far apart they are."""
        pair = " and ".join(atom_name(self.topology, a) for a in (contact.first, contact.second))
        if math.isnan(contact.relative):
            return f"{pair} at {contact.distance:.4f} nm"
        return f"{pair} at {contact.relative:.3f} sigma ({contact.distance:.4f} nm)"

    def name_centre(self, centre: int) -> str:
        """The atom with its molecule."""
        return atom_name(self.topology, int(self._centres[centre, 0]))

    def name_double_bond(self, bond: int) -> str:
        """The two atoms with their molecules."""
        a, b = (atom_name(self.topology, int(x)) for x in self._double[bond, 1:3])
        return f"{a} = {b}"

    def name_pierced(self, entry: tuple[int, int, int, int]) -> str:
        """The bond and the ring with their molecules."""
        ring, _, *bond = entry
        a, b = (atom_name(self.topology, x) for x in bond)
        return f"bond {a} - {b} through the ring of {atom_name(self.topology, ring)}"

    def new_defects(self, after: Look, before: Look) -> list[str]:
        """What is wrong now and was not before, by name."""
        found = [f"stereocentre {self.name_centre(k)}" for k in after.newly_wrong(before)]
        found += [
            f"double bond {self.name_double_bond(k)}" for k in after.newly_wrong_bonds(before)
        ]
        return found + [self.name_pierced(entry) for entry in after.newly_pierced(before)]

    def defects(self, look: Look) -> list[str]:
        """What is wrong, by name."""
        found = [f"stereocentre {self.name_centre(k)}" for k in look.wrong]
        found += [f"double bond {self.name_double_bond(k)}" for k in look.wrong_bonds]
        return found + [self.name_pierced(entry) for entry in look.pierced]

    def _prepare_blocks(self) -> None:
        """Which block every angle belongs to, and what each block may have."""
        if self._mapping is None:
            owner = _heavy_owner(self.topology)
            self._block_atoms = np.unique(owner)
            owner = np.searchsorted(self._block_atoms, owner)
            many = len(self._block_atoms)
        else:
            owner, many = self._mapping.atom_owners(), self._mapping.n_beads
        self._owner = owner.astype(np.int32)
        freedom = AngleFreedom.from_topology(self.topology)
        self._degrees = np.bincount(owner, freedom.degrees, minlength=many)
        self._strain = np.bincount(owner, freedom.strain, minlength=many)
        self._real = np.flatnonzero(self._degrees > 0.1)
        kinds, place = np.unique(self._degrees[self._real].round(3), return_inverse=True)
        self._edge = chi_square_edge(kinds, RARE)[place.reshape(-1)]

    def _contacts_of(self, look: Look, number: int) -> Contacts:
        if not len(look.near.pairs):
            return Contacts()
        clashes = int(np.count_nonzero(look.near.relative < CLOSE))
        names = [
            self.name_contact(close.Contact(int(i), int(j), float(d), float(r)))
            for (i, j), d, r in zip(
                look.near.pairs[: min(clashes, NAMED)].tolist(),
                look.near.distances,
                look.near.relative,
                strict=False,
            )
        ]
        return Contacts(
            closest=float(look.near.relative[0]),
            distance=float(look.near.distances[0]),
            pair=tuple(atom_name(self.topology, int(k)) for k in look.near.pairs[0]),
            frame=number,
            clashes=clashes,
            named=tuple(f"{name}, frame {number}" for name in names),
        )

    def _hands_of(self, look: Look, number: int) -> Hands:
        known = look.right != 0
        wrong = look.wrong
        return Hands(
            known=int(known.sum()),
            unknown=int((~known).sum()),
            assumed=int(known.sum()) if self._hands is None else 0,
            by_side=int((known & (look.by_side != look.right)).sum()),
            by_order=int((known & (look.by_order != look.right)).sum()),
            wrong=len(wrong),
            named=tuple(f"{self.name_centre(k)}, frame {number}" for k in wrong[:NAMED]),
        )

    def _double_bonds_of(self, look: Look, number: int) -> DoubleBonds:
        known, wrong = int((look.cis_right != 0).sum()), look.wrong_bonds
        return DoubleBonds(
            known=known,
            unknown=len(look.cis) - known,
            assumed=known if self._cis is None else 0,
            wrong=len(wrong),
            named=tuple(f"{self.name_double_bond(k)}, frame {number}" for k in wrong[:NAMED]),
        )

    def _bonds_of(self, structure: Structure, number: int) -> Deviation:
        listed = self._plan.lengths
        if not len(listed.atoms):
            return Deviation()
        a, b = listed.atoms.T
        bonds = minimum_image(structure.positions[b] - structure.positions[a], structure.box)
        off = np.abs(np.linalg.norm(bonds, axis=1) - listed.parameters[:, 0])
        k = int(off.argmax())
        i, j = (atom_name(self.topology, int(x)) for x in listed.atoms[k])
        where = f"bond {i} - {j}, frame {number}"
        return Deviation(len(off), float(off @ off), float(off[k]), where)

    def _beads_of(self, structure: Structure, beads: Structure | None, number: int) -> Deviation:
        if beads is None or self._mapping is None or not beads.n:
            return Deviation()
        moved = np.linalg.norm(self.beads_moved(structure, beads), axis=1)
        k = int(moved.argmax())
        where = f"{bead_name(self._mapping, k)}, frame {number}"
        return Deviation(len(moved), float(moved @ moved), float(moved[k]), where)

    def _blocks_of(self, structure: Structure, number: int) -> Blocks:
        real = self._real
        if not len(real):
            return Blocks()
        energies = self.block_energies(structure)[real]
        strain = self._strain[real]
        edges = 2.0 * (energies - strain) / (BOLTZMANN * self._edge)
        order = np.argsort(-edges)[:NAMED].tolist()
        return Blocks(
            count=len(real),
            energy=float(energies.sum()),
            degrees=float(self._degrees[real].sum()),
            strain=float(strain.sum()),
            energies=_histogram(energies),
            temperatures=_histogram(edges),
            hottest=tuple(
                Block(
                    float(edges[k]),
                    float(energies[k]),
                    f"{self._name_block(int(real[k]))}, frame {number}",
                )
                for k in order
            ),
        )

    def _name_block(self, block: int) -> str:
        if self._mapping is not None:
            return bead_name(self._mapping, block)
        return atom_name(self.topology, int(self._block_atoms[block]))

    def _pierced(self, frame: Structure) -> tuple[tuple[int, int, int, int], ...]:
        bonds = self._plan.lengths.atoms
        found = []
        for members in self._plan.rings:
            for ring, bond in rings.pierced_rings(frame, members, bonds).tolist():
                a, b = bonds[bond].tolist()
                found.append((int(members[ring, 0]), int(self._molecule[a]), a, b))
        return tuple(found)


def chi_square_edge(degrees: Float64[np.ndarray, " k"], share: float) -> Float64[np.ndarray, " k"]:
    """What a chi-square variable of so many degrees of freedom exceeds with a probability.

    By bisection, to the last digits: of scipy's function the import takes longer than a frame.

    Args:
        degrees: of freedom, positive.
        share: the probability, not below 1e-12.
    """
    low = torch.zeros(len(degrees), dtype=torch.float64)
    half = 0.5 * torch.as_tensor(degrees)
    high = 2.0 * half + 40.0 * half.sqrt() + 80.0
    for _ in range(64):
        middle = 0.5 * (low + high)
        above = torch.special.gammaincc(half, 0.5 * middle) > share
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    found: np.ndarray = (0.5 * (low + high)).numpy()
    return found


def bead_name(mapping: SystemMapping, bead: int) -> str:
    """Name, index from 1 and molecule of a bead."""
    names = tuple(m.bead_names for m in mapping.molecules)
    return particle_name(mapping.topology, names, bead, "bead")


def _histogram(values: Float64[np.ndarray, " k"]) -> dict[int, int]:
    """How many values are in each bin (``defects.bin_of``)."""
    places, counts = np.unique([bin_of(v) for v in values.tolist()], return_counts=True)
    return dict(zip(places.tolist(), counts.tolist(), strict=True))


def _heavy_owner(topology: Topology) -> Int64[np.ndarray, " n"]:
    """Every atom's heavy atom: itself, or the one that a light atom is bonded to."""
    owner = []
    for molecule in topology.molecule_types:
        found = np.arange(molecule.n_atoms)
        for a, b in molecule.bonds.tolist():
            for light, heavy in ((a, b), (b, a)):
                if not molecule.heavy[light] and molecule.heavy[heavy]:
                    found[light] = heavy
        owner.append(found[:, None])
    return expand(topology, owner)[:, 0]


def _alike(
    topology: Topology, molecule: Int32[np.ndarray, " n"], atoms: Int64[np.ndarray, " c"]
) -> Int64[np.ndarray, " c"]:
    """A number for each atom that its likes in molecules of the same type share."""
    of = molecule[atoms]
    local = atoms - topology.molecule_offsets()[of]
    keys = np.column_stack([topology.molecule_type_index()[of], local])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _right(
    signs: Int64[np.ndarray, " c"],
    given: Int64[np.ndarray, " c"] | None,
    alike: Int64[np.ndarray, " c"],
    before: Int64[np.ndarray, " c"] | None,
) -> Int64[np.ndarray, " c"]:
    """What is right: as given, else as it was before, else as most molecules of a type have it."""
    if given is not None:
        return given
    if before is not None:
        return before
    if not len(signs):
        return signs
    count = np.bincount(alike)
    total = np.bincount(alike, weights=signs.astype(np.float64))
    share = (1.0 + np.abs(total) / count) / 2.0
    right = np.where((share >= AGREEMENT) & (count >= FEWEST), np.sign(total), 0.0)
    return right[alike].astype(np.int64)
