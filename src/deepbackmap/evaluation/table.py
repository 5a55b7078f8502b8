"""One table of figures that says how far generated structures are from reference structures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.evaluation import metrics
from deepbackmap.evaluation.observables import Beads, Frames, Measurements, measure
from deepbackmap.evaluation.plan import RING_BINS, Plan
from deepbackmap.evaluation.result import Group
from deepbackmap.mapping import SystemMapping
from deepbackmap.system import Topology

HELD = 0.001
"""nm: bonds whose rms deviation from the force field is below that were held at their lengths."""
FLAT = 0.015
"""nm: rings whose reference median is below that out of plane are flat ones."""
BENT = 8.0
"""Standard deviations of the reference above its mean beyond which a flat ring is bent."""
Noise = Literal["squared", "linear", "none"]
"""How a figure that should be at its target feels the finite number of frames n: as 1/n
(divergences), as the root of it (shifts, ratios, errors of curves), or not in a known way."""


@dataclass(frozen=True)
class Row:
    """One figure."""

    name: str
    value: float
    unit: str = ""
    scored: bool = False
    """Whether it is one of the divergences whose geometric mean is the score."""
    group: Group = "structure"
    target: float = 0.0
    """What a perfect method scores; NaN where there is no such number."""
    noise: Noise = "none"
    reference: float = math.nan
    """The same figure of the reference itself, where it has one."""
    detail: bool = False
    """Whether only the whole evaluation shows it, and the short table leaves it out."""


@dataclass(frozen=True)
class QualityTable:
    """The figures in order; ``table["angle H-C-H"]`` is one of them."""

    rows: tuple[Row, ...]
    n_reference: int
    """Frames of the reference."""
    n_generated: int
    """Generated frames."""

    @property
    def score(self) -> float:
        """Geometric mean of the divergences: the one figure to look at first."""
        return metrics.geometric_mean(row.value for row in self.rows if row.scored)

    def __getitem__(self, name: str) -> float:
        for row in self.rows:
            if row.name == name:
                return row.value
        raise KeyError(name)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_text(self) -> str:
        """The table as aligned lines, the score first."""
        head = f"{self.n_generated} frames against {self.n_reference} reference frames"
        lines = [("score", format_value(self.score), "")]
        lines += [(row.name, format_value(row.value), row.unit) for row in self.rows]
        wide = max(len(name) for name, _, _ in lines)
        right = max(len(value) for _, value, _ in lines)
        body = [f"{name:<{wide}}  {value:>{right}} {unit}".rstrip() for name, value, unit in lines]
        return "\n".join([head, *body]) + "\n"

    def to_json(self) -> str:
        """The table as a JSON object; a figure that is not finite becomes null."""
        content = {
            "reference_frames": self.n_reference,
            "generated_frames": self.n_generated,
            "score": self.score,
            "rows": [
                {
                    "name": row.name,
                    "value": row.value if math.isfinite(row.value) else None,
                    "unit": row.unit,
                    "scored": row.scored,
                }
                for row in self.rows
            ],
        }
        return json.dumps(content, indent=2) + "\n"


def format_value(value: float) -> str:
    """A figure with four decimals, or two where it is large."""
    return f"{value:.4f}" if abs(value) < 10.0 else f"{value:.2f}"


def compare(
    topology: Topology,
    reference_frames: Frames,
    generated_frames: Frames,
    *,
    beads: Frames | None = None,
    system_mapping: SystemMapping | None = None,
) -> QualityTable:
    """Compares generated structures with reference structures of the same system.

    Args:
        topology: of both.
        reference_frames: frames that are right; their order does not matter.
        generated_frames: frames to judge; any number of them.
        beads: the coarse-grained input of every generated frame, to see how well the generated
            atoms map back onto it.
        system_mapping: what maps atoms onto those beads; given together with ``beads``.

    Returns:
        The table.

    Raises:
        InputError: a frame does not belong to the topology or cannot be measured, or the
            numbers of frames or beads do not agree.
    """
    if (beads is None) != (system_mapping is None):
        raise ValueError("beads, system_mapping: expected both or neither")
    plan = Plan.from_topology(topology)
    given = Beads(beads, system_mapping) if beads is not None and system_mapping else None
    reference = measure(plan, reference_frames, source="reference frames")
    generated = measure(plan, generated_frames, source="generated frames", beads=given)
    return tabulate(plan, reference, generated)


def tabulate(plan: Plan, reference: Measurements, generated: Measurements) -> QualityTable:
    """The short table of two measured samples.

    Args:
        plan: of the system.
        reference: measured with it.
        generated: measured with it, with their beads if those rows are wanted.

    Raises:
        InputError: the reference's energies have no spread to compare with.
    """
    check_spread(plan, reference)
    rows = tuple(row for row in all_rows(plan, reference, generated) if not row.detail)
    return QualityTable(rows, reference.n_frames, generated.n_frames)


def check_spread(plan: Plan, reference: Measurements) -> None:
    """Refuses a reference whose Lennard-Jones energies are all the same.

    Raises:
        InputError: there is nothing to compare a distribution with.
    """
    for name, suffix, of_type in molecule_kinds(plan):
        del suffix
        energies = reference.lj[:, of_type].ravel()
        if np.ptp(energies) == 0.0:
            raise InputError(
                f"reference frames: expected at least two different Lennard-Jones energies of "
                f"molecules {name}, found only {energies[0]:g} kJ/mol in {len(energies)} of them."
            )


def molecule_kinds(plan: Plan) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, suffix of the figures' names, and which molecules, for every type that occurs."""
    types = plan.topology.molecule_type_index()
    present = np.unique(types)
    for index in present:
        name = plan.topology.molecule_types[index].name
        yield name, f" {name}" if len(present) > 1 else "", types == index


def all_rows(plan: Plan, reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Every figure of two measured samples, the short table's and the details.

    A figure that cannot be said, such as the divergence from a reference without spread, is NaN.
    """
    yield from _divergences(plan, reference, generated)
    yield from _energy_rows(plan, reference, generated)
    yield from _energy_ratios(reference, generated)
    yield from _rdf_rows(reference, generated)
    yield from _contact_rows(reference, generated)
    yield from _stereo_rows(reference, generated)
    yield from _ring_rows(plan, reference, generated)
    yield from _bond_rows(reference, generated)
    yield from _bead_rows(generated)


def _divergences(plan: Plan, reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of the bonded distributions that the topology has."""
    for o in plan.observables:
        value = metrics.jensen_shannon(
            reference.counts[o.name].sum(axis=0), generated.counts[o.name].sum(axis=0)
        )
        yield Row(
            o.name, value, scored=o.scored, group=o.group, noise="squared", detail=not o.scored
        )


@dataclass(frozen=True)
class MoleculeEnergy:
    """An energy that every molecule of one type has."""

    name: str
    parts: tuple[str, ...]
    """Of ``Measurements.energies``, added up."""
    of_type: np.ndarray
    """Which molecules."""
    scored: bool = False
    detail: bool = True

    def values(self, measured: Measurements) -> Float64[np.ndarray, "f m"]:
        """By frame and molecule, kJ/mol."""
        total = measured.energies[self.parts[0]]
        for part in self.parts[1:]:
            total = total + measured.energies[part]
        return total[:, self.of_type]


ENERGIES = {
    "LJ per chain{}": ("lj intra", "lj inter"),
    "LJ per chain{}, intra": ("lj intra",),
    "LJ per chain{}, inter": ("lj inter",),
    "Coulomb per chain{}": ("coulomb intra", "coulomb inter"),
    "Coulomb per chain{}, intra": ("coulomb intra",),
    "Coulomb per chain{}, inter": ("coulomb inter",),
    "LJ 1-4 per chain{}": ("lj14",),
    "Coulomb 1-4 per chain{}": ("coulomb14",),
    "bond energy per chain{}": ("bond",),
    "angle energy per chain{}": ("angle",),
    "proper energy per chain{}": ("proper",),
    "improper energy per chain{}": ("improper",),
}
"""Energies of a molecule whose distributions are compared, the first of them scored."""


def molecule_energies(plan: Plan, reference: Measurements) -> Iterator[MoleculeEnergy]:
    """The energies by molecule that the system has.

    Those that are 0 in every reference molecule are left out, and the bonds' where the reference
    held them: what is left is the rounding of its file.
    """
    held = bonds_held(reference)
    for _, suffix, of_type in molecule_kinds(plan):
        for name, parts in ENERGIES.items():
            main = parts == ("lj intra", "lj inter")
            energy = MoleculeEnergy(name.format(suffix), parts, of_type, main, not main)
            if not energy.values(reference).any() or (held and parts == ("bond",)):
                continue
            yield energy


def bonds_held(reference: Measurements) -> bool:
    """Whether the reference's bonds were held at the force field's lengths."""
    return math.sqrt(float(reference.bond_squares.mean())) < HELD


def _energy_rows(plan: Plan, reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of the energies of molecules: divergence and shifts."""
    for energy in molecule_energies(plan, reference):
        first, second = energy.values(reference).ravel(), energy.values(generated).ravel()
        spread = bool(np.ptp(first) > 0.0)
        value = metrics.jensen_shannon_by_spread(first, second) if spread else math.nan
        yield Row(
            energy.name,
            value,
            scored=energy.scored,
            group="energies",
            noise="squared",
            detail=energy.detail,
        )
        for word, function in (
            ("mean", metrics.shift_of_mean),
            ("median", metrics.shift_of_median),
        ):
            value = function(first, second) if spread else math.nan
            name = f"{energy.name}, shift of the {word}"
            yield Row(
                name,
                value,
                "reference sd",
                group="energies",
                noise="linear",
                detail=energy.detail,
            )


def _energy_ratios(reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of the energies by term, for what the reference has.

    Ratios are of medians over frames, because one broken molecule can carry more than all others
    together. They are told of terms that are never negative, so that a ratio is a temperature.
    """
    first, second = (
        {name: energy.sum(axis=1) for name, energy in m.energies.items()}
        for m in (reference, generated)
    )
    for term in ("angle", "improper", "proper"):
        if np.median(first[term]) > 0.0 and first[term].min() >= 0.0:
            ratio = float(np.median(second[term]) / np.median(first[term]))
            yield Row(
                f"{term} energy, ratio",
                ratio,
                group="energies",
                target=1.0,
                noise="linear",
            )
    n = reference.energies["angle"].shape[1]
    for term, parts in (
        *((t, (t,)) for t in ("bond", "angle", "proper", "improper", "lj14", "coulomb14")),
        *((t, (f"{t} intra", f"{t} inter")) for t in ("lj", "coulomb")),
    ):
        totals = [np.array([e[p] for p in parts]).sum(axis=0) for e in (first, second)]
        if totals[0].any() or totals[1].any():
            yield Row(
                f"{term} energy of the system",
                float(totals[1].mean()) / n,
                "kJ/mol a molecule",
                group="energies",
                target=math.nan,
                reference=float(totals[0].mean()) / n,
                detail=True,
            )


def _rdf_rows(reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of g(r): of all heavy atoms, and of their groups."""
    for place, name in enumerate(reference.rdf):
        first, second = reference.rdf[name].mean(axis=0), generated.rdf[name].mean(axis=0)
        value = metrics.mean_absolute_error(first, second)
        yield Row(name, value, noise="linear", detail=place > 0)


def _contact_rows(reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of atoms that are too close."""
    yield Row(
        "smallest distance of a non-bonded pair",
        float(np.median(generated.closest)),
        "sigma, median over frames",
        group="contacts",
        target=math.nan,
        reference=float(np.median(reference.closest)),
    )
    for name, of, detail in (
        ("pairs closer than 0.6 sigma", lambda m: m.clashes, False),
        ("overlapping pairs", lambda m: m.overlaps, True),
    ):
        yield Row(
            name,
            float(of(generated).mean()),
            "a frame",
            group="contacts",
            reference=float(of(reference).mean()),
            detail=detail,
        )


def _stereo_rows(reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of stereochemistry, for what the molecules have."""
    for name, first, second in (
        ("inverted stereocentres", reference.handedness, generated.handedness),
        ("swapped prochiral hydrogens", reference.prochiral, generated.prochiral),
    ):
        if first.shape[1]:
            yield Row(
                name,
                100.0 * float(inverted(first, second).mean()),
                "%",
                group="stereochemistry",
                reference=100.0 * float(inverted(first, first).mean()),
            )


def inverted(
    reference: Int64[np.ndarray, "f c"], generated: Int64[np.ndarray, "g c"]
) -> np.ndarray:
    """Which signs differ from the sign that most reference frames have.

    A centre that is right half the time in the reference has no right sign, and is never wrong.

    Args:
        reference: 1 or -1 by frame and centre.
        generated: the same of the sample to judge; 0 (a flat centre) is wrong.
    """
    expected = np.sign(reference.sum(axis=0))
    return (generated != expected) & (expected != 0)


def _ring_rows(plan: Plan, reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of bonds through rings and of rings that are not flat."""
    yield Row(
        "bonds through rings",
        float(generated.pierced.mean()),
        "a frame",
        group="rings",
        reference=float(reference.pierced.mean()),
    )
    if flat_rings(plan, reference).any():
        yield Row(
            "bent rings",
            100.0 * _share_bent(plan, reference, generated),
            "% of flat rings",
            group="rings",
            reference=100.0 * _share_bent(plan, reference, reference),
            detail=True,
        )
    for name, of_kind in plan.ring_kinds.items():
        counts = [
            metrics.histogram(m.ring_rms[:, of_kind], *RING_BINS) for m in (reference, generated)
        ]
        value = metrics.jensen_shannon(*counts)
        yield Row(f"{name}, out of plane", value, group="rings", noise="squared", detail=True)


def flat_rings(plan: Plan, reference: Measurements) -> np.ndarray:
    """Which rings are of a kind that is flat in the reference."""
    flat = np.zeros(reference.ring_rms.shape[1], dtype=bool)
    for of_kind in plan.ring_kinds.values():
        flat |= of_kind & bool(np.median(reference.ring_rms[:, of_kind]) < FLAT)
    return flat


def bent_rings(plan: Plan, reference: Measurements, generated: Measurements) -> np.ndarray:
    """Which rings of which frames are flat ones, and further out of plane than any heat bends
    them: ``BENT`` standard deviations of the reference above its mean, by kind of ring."""
    limits = np.full(reference.ring_rms.shape[1], math.inf)
    for of_kind in plan.ring_kinds.values():
        values = reference.ring_rms[:, of_kind]
        limits[of_kind] = values.mean() + BENT * values.std()
    return (generated.ring_rms > limits) & flat_rings(plan, reference)


def _share_bent(plan: Plan, reference: Measurements, generated: Measurements) -> float:
    flat = flat_rings(plan, reference)
    return float(bent_rings(plan, reference, generated)[:, flat].mean())


def _bond_rows(reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of how far bonds are from the force field's lengths."""
    for name, of in (
        ("rms", lambda m: math.sqrt(float(m.bond_squares.mean()))),
        ("largest", lambda m: float(m.bond_largest.max())),
    ):
        yield Row(
            f"bond length deviation, {name}",
            of(generated),
            "nm",
            group="bonds",
            target=math.nan,
            reference=of(reference),
        )


def _bead_rows(generated: Measurements) -> Iterator[Row]:
    """Rows of the distances between re-mapped beads and the beads that were given.

    The rms distance is taken frame by frame, and the median of those is reported: one molecule
    broken across the box would drown everything else.
    """
    if not generated.beads:
        return
    rms, largest = generated.beads["rms"], generated.beads["largest"]
    name, unit = "re-mapped beads, rms distance", "nm, median over frames"
    yield Row(name, float(np.median(rms)), unit, group="beads")
    yield Row("re-mapped beads, largest distance", float(largest.max()), "nm", group="beads")
