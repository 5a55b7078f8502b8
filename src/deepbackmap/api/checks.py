"""What every generated frame is checked for: contacts, rings, handedness, re-mapped beads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepbackmap.chemistry import rings, tacticity
from deepbackmap.evaluation import Plan
from deepbackmap.evaluation.plan import atom_name
from deepbackmap.forcefield.contacts import Contacts
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.system import Structure

NAMED = 10
"""Most bonds through rings and inverted centres that are named; all are counted."""


@dataclass(frozen=True)
class Checks:
    """What was found in some frames."""

    closest_contact: float
    """Smallest distance of a pair of atoms that is not excluded, in sigma; infinite where no
    pair is nearer than its sigma."""
    closest_pair: tuple[str, ...]
    """The two atoms of it with their molecules; empty where there is none."""
    closest_frame: int | None
    """Number of its frame in the file."""
    stereocentres: int
    """Of all frames, those whose handedness in the training data is known."""
    inverted: int
    """How many of them are not as in the training data."""
    inverted_named: tuple[str, ...]
    """The first of them."""
    stereocentres_unknown: int
    """Stereocentres of all frames that the training data say nothing about."""
    bonds_through_rings: int
    bonds_through_rings_named: tuple[str, ...]
    """The first of them."""
    beads_rms: float
    """Distance of the re-mapped beads from those that were given, nm."""
    beads_max: float
    """nm."""


class Checker:
    """Checks frames one by one and keeps the figures only."""

    def __init__(self, mapping: SystemMapping, pattern: Mapping[str, Any]) -> None:
        """Prepare the tables.

        Args:
            mapping: of the system.
            pattern: handedness of the training data (``tacticity.Pattern``).
        """
        self._mapping = mapping
        self._topology = mapping.topology
        self._plan = Plan.from_topology(mapping.topology)
        self._contacts_of = Contacts(mapping.topology)
        self._centres = tacticity.find_centres(mapping)
        self._expected = tacticity.expected_signs(self._centres, pattern)
        self._frames = 0
        self._closest = math.inf
        self._pair: tuple[str, ...] = ()
        self._pair_frame: int | None = None
        self._inverted, self._pierced = 0, 0
        self._inverted_named: list[str] = []
        self._pierced_named: list[str] = []
        self._squares, self._beads, self._farthest = 0.0, 0, 0.0

    def add(self, frame: Structure, beads: Structure, number: int) -> None:
        """Check one frame.

        Args:
            frame: atoms, molecules whole.
            beads: what they were made from.
            number: of the frame in its file, for names.
        """
        self._frames += 1
        self._contacts(frame, number)
        self._handedness(frame, number)
        self._rings(frame, number)
        apart = minimum_image(
            map_positions(self._mapping, frame.positions) - beads.positions, beads.box
        )
        squares = np.einsum("ij,ij->i", apart, apart)
        self._squares += float(squares.sum())
        self._beads += len(squares)
        self._farthest = max(self._farthest, math.sqrt(float(squares.max(initial=0.0))))

    def result(self) -> Checks:
        """The figures of all frames so far."""
        known = int(np.count_nonzero(self._expected))
        return Checks(
            closest_contact=self._closest,
            closest_pair=self._pair,
            closest_frame=self._pair_frame,
            stereocentres=known * self._frames,
            inverted=self._inverted,
            inverted_named=tuple(self._inverted_named),
            stereocentres_unknown=(len(self._expected) - known) * self._frames,
            bonds_through_rings=self._pierced,
            bonds_through_rings_named=tuple(self._pierced_named),
            beads_rms=math.sqrt(self._squares / self._beads) if self._beads else 0.0,
            beads_max=self._farthest,
        )

    def _contacts(self, frame: Structure, number: int) -> None:
        found = self._contacts_of.closest(frame)
        if found is not None and found.relative < self._closest:
            self._closest = found.relative
            self._pair = tuple(atom_name(self._topology, k) for k in (found.first, found.second))
            self._pair_frame = number

    def _handedness(self, frame: Structure, number: int) -> None:
        found = tacticity.signs(frame, self._centres)
        wrong = np.flatnonzero((self._expected != 0) & (found != self._expected))
        self._inverted += len(wrong)
        for k in wrong[: NAMED - len(self._inverted_named)].tolist():
            name = atom_name(self._topology, int(self._centres.atoms[k, 0]))
            self._inverted_named.append(f"{name}, frame {number}")

    def _rings(self, frame: Structure, number: int) -> None:
        bonds = self._plan.lengths.atoms
        for members in self._plan.rings:
            found = rings.pierced_rings(frame, members, bonds)
            self._pierced += len(found)
            for ring, bond in found[: NAMED - len(self._pierced_named)].tolist():
                a, b = (atom_name(self._topology, int(x)) for x in bonds[bond])
                inside = atom_name(self._topology, int(members[ring, 0]))
                self._pierced_named.append(
                    f"bond {a} - {b} through the ring of {inside}, frame {number}"
                )
