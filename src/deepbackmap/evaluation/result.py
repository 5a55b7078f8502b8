"""What an evaluation found: plain data that the report shows and ``metrics.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.usable import Finding, ordered

Level = Literal["good", "fair", "bad"]
"""Of a sentence of the verdict."""
Group = Literal["bonds", "angles", "dihedrals", "impropers", "energies", "structure", "contacts",
                "stereochemistry", "rings", "beads"]  # fmt: skip
"""Where a figure or distribution belongs."""


@dataclass(frozen=True)
class Estimate:
    """One figure of one method."""

    value: float
    """NaN where it cannot be said."""
    error: float
    """Standard error from a bootstrap over frames; NaN with a single frame."""


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    """Such as ``angle H-C-H`` or ``bonds through rings``; unique."""
    group: Group
    unit: str
    """Empty for a divergence (base 2, 0 to 1) or a ratio."""
    target: float
    """What a perfect method scores: 0, or 1 for a ratio; NaN where there is none."""
    scored: bool
    """Whether it is one of the divergences whose geometric mean is the score."""
    reference: float
    """The same figure of the reference itself where it has one (a count, a length), else NaN."""
    floor: float
    """The same between disjoint halves of the reference, with as many frames as the methods have
    where that many are there; NaN with fewer than two reference frames."""
    methods: Mapping[str, Estimate]


@dataclass(frozen=True)
class Distribution:
    """One quantity as normalised histograms of the reference and of every method."""

    name: str
    """As the figure of its divergence."""
    group: Group
    unit: str
    """Of the edges."""
    edges: Float64[np.ndarray, " b1"]
    """Ascending; values outside were counted in the end bins."""
    reference: Float64[np.ndarray, " b"]
    """Probability density, 1/unit."""
    band: Float64[np.ndarray, "2 b"]
    """Where 95 % of resampled halves of the reference lie, 1/unit; NaN where there is no floor."""
    methods: Mapping[str, Float64[np.ndarray, " b"]]
    """Probability density by method, 1/unit."""


@dataclass(frozen=True)
class Curve:
    """A function of a distance: g(r) of a group of atoms."""

    name: str
    """As the figure of its error."""
    r: Float64[np.ndarray, " b"]
    """Middles of the bins, nm."""
    reference: Float64[np.ndarray, " b"]
    band: Float64[np.ndarray, "2 b"]
    methods: Mapping[str, Float64[np.ndarray, " b"]]


@dataclass(frozen=True)
class MoleculeView:
    """A molecule to look at."""

    method: str
    frame: int
    """Number in its file, from 0."""
    molecule: int
    """In the system, from 1."""
    name: str
    reason: str
    """Why it is shown, with the figure: ``LJ +812 kJ/mol, 14 reference sd above the mean``."""
    atom_names: tuple[str, ...]
    elements: tuple[str, ...]
    """Chemical symbols, from the masses."""
    positions: Float64[np.ndarray, "n 3"]
    """nm, whole."""
    bonds: Int64[np.ndarray, "m 2"]
    marked: tuple[int, ...]
    """Atoms of the molecule to highlight: nearest contact, inverted centre, pierced ring."""


@dataclass(frozen=True)
class Sentence:
    """One statement of the verdict on a method."""

    level: Level
    text: str


@dataclass(frozen=True)
class Method:
    """One set of generated structures."""

    name: str
    source: str
    """File."""
    n_frames: int
    score: Estimate
    """Geometric mean of the scored divergences."""
    verdict: tuple[Sentence, ...]
    """The worst first."""
    worst: tuple[MoleculeView, ...]
    figures: Figures
    """What its frames show by themselves, summed."""
    findings: tuple[Finding, ...]
    """What speaks against using them, gravest first."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured, ready to be shown."""

    topology: str
    """File."""
    reference: str
    """File."""
    n_atoms: int
    n_molecules: int
    n_reference: int
    """Frames."""
    temperature: float | None
    """K, as the user gave it."""
    seed: int
    """Of the bootstrap and of the halves."""
    score_floor: float
    """Geometric mean of the floors of the scored divergences; NaN where there is no floor."""
    methods: tuple[Method, ...]
    figures: tuple[Figure, ...]
    distributions: tuple[Distribution, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]
    """What the reader must know: no floor, frames left out, terms that the topology lacks."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against using the frames of any method, each with its name."""
        return ordered(
            replace(finding, sentence=f"{method.name}: {finding.sentence}")
            for method in self.methods
            for finding in method.findings
        )
