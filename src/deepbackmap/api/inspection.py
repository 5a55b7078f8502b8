"""What a structure is looked at for before and after it is finished: defects that would stay.

Dynamics at a temperature never turns a stereocentre over or pulls a bond out of a ring, so both
are compared before and after, and named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.api.checks import atom_name
from deepbackmap.chemistry import rings, stereo
from deepbackmap.evaluation import Plan
from deepbackmap.forcefield.contacts import Contact, Contacts
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.system import Structure, Topology

AGREEMENT = 0.8
"""Share of the molecules of a type that must agree on the hand of a stereocentre for the others to
count as inverted; below it (atactic chains) nothing is known of what is right."""
FEWEST = 3
"""Molecules of a type without which they cannot be a majority."""


@dataclass(frozen=True)
class Inspection:
    """What one frame shows."""

    contact: Contact | None
    """The closest pair that is not excluded; None where none is nearer than its sigma."""
    hands: Int64[np.ndarray, " c"]
    """1 or -1 for every stereocentre; 0 where it is flat."""
    expected: Int64[np.ndarray, " c"]
    """What is right; 0 where that is not known."""
    pierced: tuple[tuple[int, int, int, int], ...]
    """First atom of a ring, molecule of the bond that passes through it, and the bond's atoms."""
    bond_deviation: float
    """Largest deviation of a bond from its length in the topology, nm."""

    @property
    def inverted(self) -> list[int]:
        """Stereocentres that are not as they should be."""
        return np.flatnonzero((self.expected != 0) & (self.hands != self.expected)).tolist()

    @property
    def known(self) -> int:
        """Stereocentres of which it is known what is right."""
        return int(np.count_nonzero(self.expected))

    def newly_inverted(self, before: Inspection) -> list[int]:
        """Stereocentres that have turned over and were right, or not known to be wrong."""
        turned = (before.hands != 0) & (self.hands != before.hands)
        wrong = (before.expected != 0) & (before.hands != before.expected)
        return np.flatnonzero(turned & ~wrong).tolist()

    def newly_pierced(self, before: Inspection) -> tuple[tuple[int, int, int, int], ...]:
        """Rings that a molecule passes through that did not before.

        A molecule that is caught in a ring slides along, so that it is another of its bonds
        after a while.
        """
        there = {entry[:2] for entry in before.pierced}
        return tuple(entry for entry in self.pierced if entry[:2] not in there)


class Inspector:
    """Looks at frames of one system."""

    def __init__(self, topology: Topology, reference: Structure | None = None) -> None:
        """Finds what there is to look at.

        Args:
            topology: of the system.
            reference: a structure of it whose stereocentres are right; without one, what most
                molecules of a type have in the frame at hand counts as right.
        """
        self.contacts = Contacts(topology)
        self._topology = topology
        self._plan = Plan.from_topology(topology)
        offsets = topology.molecule_offsets()
        self._molecule = np.repeat(np.arange(topology.n_molecules), np.diff(offsets))
        self._reference = None if reference is None else self._hands(reference)
        self._alike = self._groups()

    def inspect(
        self, frame: Structure, expected: Int64[np.ndarray, " c"] | None = None
    ) -> Inspection:
        """Looks at one frame.

        Args:
            frame: molecules need not be whole.
            expected: hands that are right, if they were found out before.
        """
        hands = self._hands(frame)
        if expected is None:
            expected = self._majority(hands) if self._reference is None else self._reference
        return Inspection(
            contact=self.contacts.closest(frame),
            hands=hands,
            expected=expected,
            pierced=self._pierced(frame),
            bond_deviation=self._bond_deviation(frame),
        )

    def name_contact(self, contact: Contact) -> str:
        """The two atoms with their molecules, and how far apart they are."""
        pair = " and ".join(atom_name(self._topology, a) for a in (contact.first, contact.second))
        if math.isnan(contact.relative):
            return f"{pair} at {contact.distance:.4f} nm"
        return f"{pair} at {contact.relative:.3f} sigma ({contact.distance:.4f} nm)"

    def name_centre(self, centre: int) -> str:
        """The atom with its molecule."""
        return atom_name(self._topology, int(self._plan.centres[centre, 0]))

    def name_pierced(self, entry: tuple[int, int, int, int]) -> str:
        """The bond and the ring with their molecules."""
        ring, _, *bond = entry
        a, b = (atom_name(self._topology, x) for x in bond)
        return f"bond {a} - {b} through the ring of {atom_name(self._topology, ring)}"

    def _hands(self, frame: Structure) -> Int64[np.ndarray, " c"]:
        return stereo.handedness(frame, self._plan.centres)

    def _groups(self) -> Int64[np.ndarray, " c"]:
        """A number for each stereocentre that its likes in molecules of the same type share."""
        atoms = self._plan.centres[:, 0]
        molecule = self._molecule[atoms]
        local = atoms - self._topology.molecule_offsets()[molecule]
        keys = np.column_stack([self._topology.molecule_type_index()[molecule], local])
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def _majority(self, hands: Int64[np.ndarray, " c"]) -> Int64[np.ndarray, " c"]:
        """The hand of most molecules of the type, where they agree well enough."""
        if not len(hands):
            return hands
        count = np.bincount(self._alike)
        total = np.bincount(self._alike, weights=hands.astype(np.float64))
        share = (1.0 + np.abs(total) / count) / 2.0
        right = np.where((share >= AGREEMENT) & (count >= FEWEST), np.sign(total), 0.0)
        return right[self._alike].astype(np.int64)

    def _pierced(self, frame: Structure) -> tuple[tuple[int, int, int, int], ...]:
        bonds = self._plan.lengths.atoms
        found = []
        for members in self._plan.rings:
            for ring, bond in rings.pierced_rings(frame, members, bonds).tolist():
                a, b = bonds[bond].tolist()
                found.append((int(members[ring, 0]), int(self._molecule[a]), a, b))
        return tuple(found)

    def _bond_deviation(self, frame: Structure) -> float:
        a, b = self._plan.lengths.atoms.T
        bonds: Float64[np.ndarray, "b 3"] = frame.positions[b] - frame.positions[a]
        lengths = np.linalg.norm(minimum_image(bonds, frame.box), axis=1)
        return float(np.abs(lengths - self._plan.lengths.parameters[:, 0]).max(initial=0.0))
