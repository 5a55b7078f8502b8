"""The hand that each stereocentre shall have, and from where that is known.

A hand is a sign (1, -1; 0 not known) in the order of branches of ``chemistry.tacticity``: along
a chain, equal signs of two neighbouring centres of a kind are a meso dyad. Every function here
answers for all centres of a system, with zeros where its source has nothing to say;
``combine`` takes each centre from the first source that knows it. Sources, in the order in which
they are believed: a reference structure, labels of beads, the ``stereo`` section of a mapping
(``chemistry.stereo_section``), the beads themselves (``chemistry.bead_hands``), and the pattern
of the training data, which is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.chemistry import double_bonds, tacticity
from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.chemistry.tacticity import Centres, Pattern
from deepbackmap.errors import InputError
from deepbackmap.mapping import SystemMapping
from deepbackmap.system import Structure, Topology

SOURCES = ("unknown", "reference", "labels", "mapping", "beads", "assumed")
"""Words for where a hand is known from."""


@dataclass(frozen=True)
class Hands:
    """Hands of all stereocentres of a system, in the order of ``tacticity.find_centres``."""

    sign: Int64[np.ndarray, "c"]
    """1 or -1; 0 where it is not known."""
    source: Int64[np.ndarray, "c"]
    """Place in ``SOURCES``."""
    sure: Float64[np.ndarray, "c"]
    """Probability that the sign is right: 1 for what was told, 0.5 for what is not known."""

    def share(self) -> dict[str, int]:
        """Number of centres by the word for their source; words without centres are left out."""
        counts = np.bincount(self.source, minlength=len(SOURCES)).tolist()
        return {word: n for word, n in zip(SOURCES, counts, strict=True) if n}


def told(sign: Int64[np.ndarray, "c"], word: str) -> Hands:
    """Hands of one source that is certain of what it says.

    Args:
        sign: 1, -1 or, where the source is silent, 0.
        word: one of ``SOURCES``.
    """
    known = sign != 0
    source = np.where(known, SOURCES.index(word), 0)
    return Hands(sign.astype(np.int64), source, np.where(known, 1.0, 0.5))


def joined(first: Hands, second: Hands) -> Hands:
    """Hands of two sets of centres, one after the other."""
    return Hands(
        np.concatenate([first.sign, second.sign]),
        np.concatenate([first.source, second.source]),
        np.concatenate([first.sure, second.sure]),
    )


def combine(*sources: Hands) -> Hands:
    """Each centre from the first of the sources that knows it.

    Raises:
        ValueError: without sources.
    """
    if not sources:
        raise ValueError("sources: expected at least one, got none")
    sign, source, sure = (a.copy() for a in (sources[0].sign, sources[0].source, sources[0].sure))
    for more in sources[1:]:
        open_ = (sign == 0) & (more.sign != 0)
        sign[open_], source[open_], sure[open_] = (
            more.sign[open_], more.source[open_], more.sure[open_]
        )  # fmt: skip
    return Hands(sign, source, sure)


def molecule_of(topology: Topology, centres: Centres) -> Int64[np.ndarray, "c"]:
    """Number of the molecule (from 0) of every centre."""
    return np.searchsorted(topology.molecule_offsets(), centres.atoms[:, 0], side="right") - 1


def from_reference(
    topology: Topology,
    centres: Centres,
    like: Structure,
    names: tuple[str, ...] | None = None,
    source: str = "reference",
) -> Hands:
    """Hands as a structure has them, of the whole system or of one of its molecules.

    A single molecule speaks for all molecules of its type.

    Args:
        topology: of the system.
        centres: of the system.
        like: atoms in the topology's order; molecules need not be whole, and a box without volume
            is taken for none.
        names: atom names of the structure, which decide between molecule types of equal size.
        source: the structure's file, for errors.

    Raises:
        InputError: the structure is neither the system nor one molecule of it.
    """
    frame, kind = _in_a_box(like), _kind_of(topology, like, names, source)
    if kind is None:
        return told(tacticity.signs(frame, centres), "reference")
    return told(_spread(topology, centres, kind, frame), "reference")


def sides_from_reference(
    topology: Topology,
    like: Structure,
    names: tuple[str, ...] | None = None,
    source: str = "reference",
) -> WantedSides:
    """Sides of double bonds as a structure has them; arguments as of ``from_reference``."""
    frame, kind = _in_a_box(like), _kind_of(topology, like, names, source)
    per_type = [double_bonds.double_bonds(m) for m in topology.molecule_types]
    index, offsets = topology.molecule_type_index(), topology.molecule_offsets()
    rows, seen = [np.zeros((0, 4), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for molecule, t in enumerate(index.tolist()):
        if len(per_type[t]) and kind in (None, t):
            atoms = per_type[t] + offsets[molecule]
            rows.append(atoms)
            seen.append(double_bonds.sides(frame, atoms if kind is None else per_type[t]))
    return WantedSides(np.concatenate(rows), np.concatenate(seen))


def _kind_of(
    topology: Topology, frame: Structure, names: tuple[str, ...] | None, source: str
) -> int | None:
    """The molecule type that a structure is one molecule of; None: it is the whole system.

    Raises:
        InputError: it is neither.
    """
    if frame.n == topology.n_atoms:
        return None
    used = sorted({t for t, count in topology.blocks if count})
    fitting = [
        t for t in used
        if topology.molecule_types[t].n_atoms == frame.n
        and (names is None or names == topology.molecule_types[t].atom_names)
    ]  # fmt: skip
    if len(fitting) != 1:
        sizes = ", ".join(
            f"{topology.molecule_types[t].name} ({topology.molecule_types[t].n_atoms} atoms)"
            for t in used
        )
        raise InputError(
            f"{source}: expected the atoms of the system ({topology.n_atoms}) or of one of its "
            f"molecules {sizes}, found {frame.n} atoms that fit "
            f"{'none' if not fitting else 'several'}"
        )
    return fitting[0]


def _in_a_box(like: Structure) -> Structure:
    """The structure, in a box that no bond reaches across where it has none."""
    if abs(np.linalg.det(like.box)) > 0.0:
        return like
    reach = 10.0 + 4.0 * float(np.ptp(like.positions, axis=0).max(initial=0.0))
    return Structure(like.positions, reach * np.eye(3), like.time)


def _spread(
    topology: Topology, centres: Centres, kind: int, frame: Structure
) -> Int64[np.ndarray, "c"]:
    """Signs of one molecule, for all molecules of its type."""
    index, molecule = topology.molecule_type_index(), molecule_of(topology, centres)
    sign = np.zeros(len(centres.atoms), dtype=np.int64)
    mine = np.flatnonzero(index[molecule] == kind)
    local = centres.atoms[mine] - topology.molecule_offsets()[molecule[mine], None]
    sign[mine] = tacticity.signs(
        frame, Centres(local, tuple(centres.kinds[k] for k in mine), centres.parity[mine])
    )
    return sign


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Labels of beads from a text file, one a line, alone or behind the number of the bead.

    Args:
        path: a file as ``1 A1r``; empty lines and what follows ``#`` are passed over.

    Raises:
        InputError: the file cannot be read, or a line holds something else.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: expected labels as text, found {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected labels as text, found other bytes") from error
    labels = []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        labels.append(words[-1])
        if len(words) > 2 or (len(words) == 2 and words[0] != str(len(labels))):
            raise InputError(
                f"{path} line {number}: expected bead {len(labels)} and its label, found "
                f"'{line.strip()}'"
            )
    return tuple(labels)


def from_labels(
    mapping: SystemMapping,
    centres: Centres,
    labels: Sequence[str],
    meaning: Mapping[str, int],
    source: str = "labels",
) -> Hands:
    """Hands by the last letter of the types or names of beads.

    A centre is told by the bead that owns it or, if that one has no letter that means anything,
    by the one bead among those of its branches that has.

    Args:
        mapping: of the system.
        centres: of the system.
        labels: one a bead, of the whole system or of one molecule (then for all with as many
            beads).
        meaning: sign by letter, such as ``{"u": 1, "d": -1}``.
        source: where the labels come from, for errors.

    Raises:
        InputError: the number of labels fits nothing, no label means anything, or beads around one
            centre contradict each other.
    """
    letter = np.array([meaning.get(label[-1:], 0) for label in labels], dtype=np.int64)
    if not letter.any():
        raise InputError(
            f"{source}: expected labels that end in {' or '.join(sorted(meaning))}, found none"
        )
    beads = _labelled(mapping, letter, source)
    owner = mapping.atom_owners()[centres.atoms]
    sign = beads[owner[:, 0]]
    around = beads[owner[:, 1:]]
    around[owner[:, 1:] == owner[:, :1]] = 0
    low, high = around.min(axis=1), around.max(axis=1)
    torn = (sign == 0) & (low < 0) & (high > 0)
    if torn.any():
        atom = int(centres.atoms[np.flatnonzero(torn)[0], 0])
        raise InputError(
            f"{source}: expected one labelled bead at the stereocentre of atom {atom + 1}, found "
            f"beads beside it with both signs"
        )
    return told(np.where(sign != 0, sign, low + high), "labels")


def _labelled(
    mapping: SystemMapping, letter: Int64[np.ndarray, "b"], source: str
) -> Int64[np.ndarray, "n"]:
    """Signs of all beads of the system."""
    if len(letter) == mapping.n_beads:
        return letter
    sizes = [m.n_beads for m in mapping.molecules]
    parts = [
        letter if sizes[t] == len(letter) else np.zeros(sizes[t], dtype=np.int64)
        for t in mapping.topology.molecule_type_index().tolist()
    ]
    if not any(sizes[t] == len(letter) for t, count in mapping.topology.blocks if count):
        raise InputError(
            f"{source}: expected a label for each bead of the system ({mapping.n_beads}) or of a "
            f"molecule ({', '.join(str(n) for n in sizes)}), found {len(letter)}"
        )
    return np.concatenate(parts)


def from_pattern(centres: Centres, pattern: Pattern) -> Hands:
    """Hands that the training data's pattern would have: an assumption.

    Args:
        centres: of the system.
        pattern: as ``tacticity.learn_pattern`` gives it.
    """
    hands = told(tacticity.expected_signs(centres, pattern), "assumed")
    return Hands(hands.sign, hands.source, np.full(len(hands.sign), 0.5))
