"""How beads were held and what the last steps came to, over all frames of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.evaluation.judge import Judge
from deepbackmap.io.atomic import new_file, refuse_existing
from deepbackmap.io.formats.pdb import PdbWriter
from deepbackmap.mapping import SystemMapping
from deepbackmap.mapping.match import bead_table
from deepbackmap.mechanics.settle import Settled
from deepbackmap.system import Structure

Shown = Callable[[Structure, Structure, int], None]
"""Takes the atoms, the beads they were made from, and the number of the frame."""


@dataclass(frozen=True)
class Held:
    """What the last steps of some frames came to; values add up."""

    frames: int = 0
    evaluations: int = 0
    """Of the forces, in all frames together."""
    soft: int = 0
    """Frames whose beads were held by springs, not exactly."""
    widths: dict[str, float] = field(default_factory=dict)
    """Sum over the frames of the width of each bead type, nm."""
    drifting: dict[str, int] = field(default_factory=dict)
    """Frames in which an energy still changed in the end, by its name."""
    strained: int = 0
    """Molecules with beads that were to be exact where their bonds do not let them be."""

    @classmethod
    def of(cls, settled: Settled) -> Held:
        """Of one frame."""
        return cls(
            1, settled.evaluations, int(any(settled.widths.values())), dict(settled.widths),
            dict.fromkeys(settled.drifting, 1), len(settled.strained),
        )  # fmt: skip

    def __add__(self, other: Held) -> Held:
        """Of the frames of both."""
        return Held(
            self.frames + other.frames,
            self.evaluations + other.evaluations,
            self.soft + other.soft,
            {t: self.widths.get(t, 0.0) + other.widths.get(t, 0.0)
             for t in sorted({*self.widths, *other.widths})},
            dict(Counter(self.drifting) + Counter(other.drifting)),
            self.strained + other.strained,
        )  # fmt: skip

    def to_rows(self) -> list[tuple[str, str]]:
        """Name and text for a summary."""
        if not self.frames:
            return []
        mean = {t: w / self.frames for t, w in self.widths.items()}
        held = "exactly, as atoms can have them"
        if self.soft:
            soft = ", ".join(f"{t} {w:.4f} nm" for t, w in mean.items() if w)
            share = "" if self.soft == self.frames else f" in {self.soft} of {self.frames} frames"
            held = f"as observations of width {soft}{share}: no atoms were found exactly there"
        steps = f"{self.evaluations / self.frames:.0f} force evaluations a frame"
        if self.drifting:
            steps += "; still drifting in the end: " + ", ".join(
                f"{k} ({n} frame{'s' if n > 1 else ''})" for k, n in sorted(self.drifting.items())
            )
        return [("beads held", held), ("last steps", steps)]

    def to_dict(self) -> dict[str, Any]:
        """The same for a program; widths are means over the frames."""
        count = max(1, self.frames)
        return {
            "frames": self.frames,
            "soft_frames": self.soft,
            "force_evaluations_per_frame": self.evaluations / count,
            "widths_nm": {t: w / count for t, w in self.widths.items()},
            "drifting": dict(self.drifting),
            "strained_molecules": self.strained,
        }


@contextmanager
def moved_beads(
    path: str | Path | None, judge: Judge | None, system: SystemMapping, force: bool = False
) -> Iterator[Shown]:
    """Writes how far every bead was moved, frame by frame, for a viewer to colour by.

    Args:
        path: .pdb whose temperature factors are the distances in Angstrom; None: nothing is
            written.
        judge: of the system; None only without a file.
        system: the beads' names.
        force: whether to replace an existing file.

    Raises:
        InputError: another ending than .pdb, or the file is there.
    """
    if path is None:
        yield lambda made, beads, number: None
        return
    if Path(path).suffix.lower() != ".pdb":
        raise InputError(
            f"{path}: expected a file that ends in .pdb, whose temperature factors say how far "
            f"beads were moved, found '{Path(path).suffix}'"
        )
    refuse_existing(path, force)
    assert judge is not None
    with new_file(Path(path)) as aside:
        writer = PdbWriter(aside, bead_table(system))
        try:
            yield lambda made, beads, number: writer.write(
                beads, number, 10.0 * np.linalg.norm(judge.beads_moved(made, beads), axis=1)
            )
        finally:
            writer.close()
