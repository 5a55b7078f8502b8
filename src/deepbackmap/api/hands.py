"""The hands that the stereocentres of a system should have, and where they are known from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.chemistry import bead_hands, hands, tacticity
from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.chemistry.hands import Hands
from deepbackmap.chemistry.stereo_section import double_bonds_from_mapping, from_mapping
from deepbackmap.chemistry.tacticity import Centres, KnownHands
from deepbackmap.errors import InputError
from deepbackmap.evaluation.usable import Finding
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile, SystemMapping
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.system import Structure, Topology

MEANING = {"u": 1, "d": -1}
"""Sign of a hand by the last letter of a label (docs/hands.md)."""
UNSURE = 0.95
"""A hand that was read from beads is in doubt below that probability."""
NAMED = 3
"""Molecules that a summary names: those of whose hands the beads say the least."""
AGAINST, AGAINST_LEAST = 1.0 / 3.0, 3
"""Share of the centres of a molecule, and number of them, whose hands are told otherwise than its
beads clearly show, from which on what is told contradicts them. Beads of atactic chains are read
wrongly once in twenty times."""
SAID = {
    "reference": "as in the reference structure",
    "labels": "as labelled",
    "mapping": "as the mapping says",
    "beads": "read from the beads",
    "assumed": "assumed: the pattern of the training data",
}
"""Words for each source of hands."""


@dataclass(frozen=True)
class FoundHands:
    """Hands of a system."""

    centres: Centres
    hands: Hands
    sides: WantedSides = field(default_factory=WantedSides.nothing)
    """Of double bonds, where a reference or the mapping tells them."""
    contradicted: tuple[int, ...] = ()
    """Molecules, counted from 1, whose beads clearly show other hands than what was told."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against the hands that were told."""
        if not self.contradicted:
            return ()
        count = len(self.contradicted)
        return (
            Finding(
                "suspicious",
                "expected hands that go with the beads, found that those of "
                f"{count} molecule{'s' if count > 1 else ''} show others than what was told (by "
                "--like, labels or the mapping); is the meaning of the labels, the hand of the "
                "reference or the direction of the chains the other way round? Atoms are made "
                "with the hands that were told",
                tuple(f"molecule {k}" for k in self.contradicted[:NAMED]),
            ),
        )

    @property
    def handedness(self) -> Handedness | None:
        """For samplers; None: nothing is known."""
        if not self.hands.sign.any() and not self.sides.side.any():
            return None
        return Handedness(
            torch.from_numpy(self.centres.atoms), torch.from_numpy(self.hands.sign), self.sides
        )

    @property
    def known(self) -> KnownHands:
        """For the judge."""
        return KnownHands(self.centres.atoms, self.hands.sign)

    @property
    def doubtful(self) -> int:
        """Centres whose hand was read from beads that do not say it clearly."""
        read = self.hands.source == hands.SOURCES.index("beads")
        return int(np.count_nonzero(read & (self.hands.sure < UNSURE)))

    def sure_by_molecule(self, topology: Topology) -> dict[int, float]:
        """How sure it is, in the mean, that hands which were read from beads are right.

        Args:
            topology: of the system.

        Returns:
            Mean probability by molecule, counted from 1; molecules without such hands are left out.
        """
        read = self.hands.source == hands.SOURCES.index("beads")
        first = topology.molecule_offsets()
        owner = np.searchsorted(first, self.centres.atoms[read, 0], side="right")
        count, total = np.bincount(owner), np.bincount(owner, self.hands.sure[read])
        return {int(k): float(total[k] / count[k]) for k in np.flatnonzero(count)}

    def words(self, topology: Topology | None = None) -> str:
        """Where the hands are known from, for a summary.

        Args:
            topology: of the system, to name the molecules that are the least clear.
        """
        share = {w: n for w, n in self.hands.share().items() if n and w in SAID}
        total = sum(share.values())
        parts = [
            SAID[word] + ("" if count == total else f" ({count} of {total})")
            for word, count in share.items()
        ]
        doubt = f"; {self.doubtful} of them not clear" if self.doubtful else ""
        if doubt and topology is not None:
            sure = self.sure_by_molecule(topology)
            least = sorted(sure, key=lambda number: sure[number])[:NAMED]
            doubt += (
                " (molecule "
                + ", ".join(f"{k}: {100 * sure[k]:.0f} % sure" for k in least)
                + (", others more)" if len(sure) > NAMED else ")")
            )
        return (", ".join(parts) or "not known") + doubt


def handedness_of(system: SystemMapping, pattern: Mapping[str, Any]) -> Handedness | None:
    """The hand of every stereocentre by a pattern of the training data; None: nothing is known.

    Args:
        system: whose centres are asked about.
        pattern: as a model's specification holds it.
    """
    centres = tacticity.find_centres(system)
    return FoundHands(centres, hands.from_pattern(centres, pattern)).handedness


def find_hands(
    system: SystemMapping,
    file: MappingFile,
    spec: ModelSpec | None,
    *,
    like: str | Path | None = None,
    labels: str | Path | None = None,
    beads: Structure | None = None,
    of_beads: bool = False,
) -> FoundHands:
    """Each stereocentre's hand from the first source that knows it.

    The sources are, in this order: a reference structure, labels of beads, the mapping's ``stereo``
    section, the beads themselves, and the pattern of the training data, which is an assumption.

    Args:
        system: whose centres are asked about.
        file: the mapping.
        spec: of the model; None: there is none.
        like: structure of the whole system or of one of its molecules.
        labels: text file with one label a bead, whose last letter says the hand.
        beads: a frame of them.
        of_beads: whether ``like`` also tells the hands of centres that only beads make
            (``tacticity.find_centres``), for methods that can take them.

    Raises:
        InputError: a source does not fit the system.
    """
    centres = tacticity.find_centres(system)
    nothing = hands.told(np.zeros(len(centres.atoms), dtype=np.int64), "assumed")
    sources, sides = [nothing], WantedSides.nothing()
    others: tuple[Centres, Hands] | None = None
    if like is not None:
        shown = _read(like)
        sources.append(hands.from_reference(system.topology, centres, *shown))
        sides = hands.sides_from_reference(system.topology, *shown)
        if of_beads:
            more = tacticity.find_centres(system, of_beads=True)
            others = more, hands.from_reference(system.topology, more, *shown)
    if labels is not None:
        given = hands.read_labels(labels)
        sources.append(hands.from_labels(system, centres, given, MEANING, str(labels)))
    sources.append(from_mapping(file, system, centres))
    contradicted: tuple[int, ...] = ()
    if spec is not None:
        pattern = tacticity.expected_signs(centres, spec.handedness)
        if spec.bead_hands and beads is not None:
            statistics = bead_hands.BeadStatistics.from_json(spec.bead_hands)
            told = hands.combine(*sources).sign
            if told.any():
                # as one more pattern that chains may have, so that only what is clear speaks
                read = bead_hands.from_beads(
                    statistics, system, centres, [beads], [told, pattern]
                )  # fmt: skip
                contradicted = _contradicted(system.topology, centres, told, read)
            if not told.all():
                read = bead_hands.from_beads(statistics, system, centres, [beads], [pattern])
                sources.append(read)
        sources.append(hands.from_pattern(centres, spec.handedness))
    sides = sides.before(double_bonds_from_mapping(file, system))
    known = hands.combine(*sources)
    if others is not None:
        centres, known = tacticity.joined(centres, others[0]), hands.joined(known, others[1])
    return FoundHands(centres, known, sides, contradicted)


def _contradicted(
    topology: Topology, centres: Centres, told: Int64[np.ndarray, " c"], read: Hands
) -> tuple[int, ...]:
    """Molecules, counted from 1, whose beads clearly show other hands than what was told."""
    clear = (told != 0) & (read.sign != 0) & (read.sure >= UNSURE)
    owner = np.searchsorted(topology.molecule_offsets(), centres.atoms[:, 0], side="right")
    count = np.bincount(owner[told != 0])
    against = np.bincount(owner[clear & (read.sign != told)], minlength=len(count))
    return tuple(np.flatnonzero((against >= AGAINST_LEAST) & (against > AGAINST * count)).tolist())


def _read(path: str | Path) -> tuple[Structure, tuple[str, ...] | None, str]:
    """The structure of a file, its names, and the file, as ``hands.from_reference`` takes them."""
    with read_frames(path, lone=True) as source:
        if not len(source):
            raise InputError(f"{path}: expected a structure, found none")
        return source[0], source.table.names if source.table.named else None, str(path)
