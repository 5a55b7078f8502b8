"""One table of figures that says how far generated structures are from reference structures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from deepbackmap.errors import InputError
from deepbackmap.evaluation import metrics
from deepbackmap.evaluation.observables import Frames, Measurements, measure
from deepbackmap.evaluation.plan import Plan
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.system import Topology
from deepbackmap.system.whole import bond_trees, make_whole


@dataclass(frozen=True)
class Row:
    """One figure."""

    name: str
    value: float
    unit: str = ""
    scored: bool = False
    """Whether it is one of the divergences whose geometric mean is the score."""


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
    reference = measure(plan, reference_frames, source="reference frames")
    generated = measure(plan, generated_frames, source="generated frames")
    bead_rows: tuple[Row, ...] = ()
    if beads is not None and system_mapping is not None:
        bead_rows = compare_beads(generated_frames, beads, system_mapping)
    return tabulate(plan, reference, generated, bead_rows)


def tabulate(
    plan: Plan, reference: Measurements, generated: Measurements, more: Sequence[Row] = ()
) -> QualityTable:
    """The table of two measured samples.

    Args:
        plan: of the system.
        reference: measured with it.
        generated: measured with it.
        more: rows to append, as ``compare_beads`` gives them.

    Raises:
        InputError: the reference's energies have no spread to compare with.
    """
    rows = (
        *_divergences(plan, reference, generated),
        *_lj_rows(plan, reference, generated),
        *_energy_ratios(reference, generated),
        Row(
            "g(r), mean absolute error",
            metrics.mean_absolute_error(reference.rdf.mean(axis=0), generated.rdf.mean(axis=0)),
        ),
        Row(
            "smallest distance of a non-bonded pair",
            float(np.median(generated.closest)),
            "sigma, median over frames",
        ),
        Row("pairs closer than 0.6 sigma", float(generated.clashes.mean()), "a frame"),
        *_stereo_rows(reference, generated),
        Row("bonds through rings", float(generated.pierced.mean()), "a frame"),
        Row("bond length deviation, rms", math.sqrt(float(generated.bond_squares.mean())), "nm"),
        Row("bond length deviation, largest", float(generated.bond_largest.max()), "nm"),
        *more,
    )
    return QualityTable(rows, reference.n_frames, generated.n_frames)


def _divergences(plan: Plan, reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of the bonded distributions that the topology has."""
    for word, first, second in (
        ("angle", reference.angles, generated.angles),
        ("dihedral", reference.dihedrals, generated.dihedrals),
    ):
        for label in first:
            value = metrics.jensen_shannon(first[label].sum(axis=0), second[label].sum(axis=0))
            yield Row(f"{word} {label}", value, scored=True)
    if len(plan.impropers.atoms):
        value = metrics.jensen_shannon(
            reference.impropers.sum(axis=0), generated.impropers.sum(axis=0)
        )
        yield Row("impropers", value, scored=True)


def _lj_rows(plan: Plan, reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of the Lennard-Jones energy of each type of molecule."""
    types = plan.topology.molecule_type_index()
    for index in np.unique(types):
        name = plan.topology.molecule_types[index].name
        label = "LJ per chain" if len(np.unique(types)) == 1 else f"LJ per chain {name}"
        first = reference.lj[:, types == index].ravel()
        second = generated.lj[:, types == index].ravel()
        if np.ptp(first) == 0.0:
            raise InputError(
                f"reference frames: expected at least two different Lennard-Jones energies of "
                f"molecules {name}, found only {first[0]:g} kJ/mol in {len(first)} of them."
            )
        value = metrics.jensen_shannon_by_spread(first, second)
        yield Row(label, value, scored=True)
        shift = metrics.shift_of_mean(first, second)
        yield Row(f"{label}, shift of the mean", shift, "reference sd")
        shift = metrics.shift_of_median(first, second)
        yield Row(f"{label}, shift of the median", shift, "reference sd")


def _energy_ratios(reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of the energies that bonded terms carry, for what the reference has.

    Medians over frames, because one broken molecule can carry more than all others together.
    """
    for name, first, second in (
        ("angle energy, ratio", reference.angle_energy, generated.angle_energy),
        ("improper energy, ratio", reference.improper_energy, generated.improper_energy),
    ):
        if np.median(first) > 0.0:
            yield Row(name, float(np.median(second) / np.median(first)))


def _stereo_rows(reference: Measurements, generated: Measurements) -> Iterator[Row]:
    """Rows of stereochemistry, for what the molecules have."""
    for name, first, second in (
        ("inverted stereocentres", reference.handedness, generated.handedness),
        ("swapped prochiral hydrogens", reference.prochiral, generated.prochiral),
    ):
        if first.shape[1]:
            yield Row(name, 100.0 * fraction_inverted(first, second), "%")


def fraction_inverted(
    reference: Int64[np.ndarray, "f c"], generated: Int64[np.ndarray, "g c"]
) -> float:
    """Fraction of signs that differ from the sign that most reference frames have.

    Args:
        reference: 1 or -1 by frame and centre.
        generated: the same of the sample to judge; 0 (a flat centre) is wrong.
    """
    return float(np.mean(generated != np.sign(reference.sum(axis=0))))


def compare_beads(
    generated_frames: Frames,
    beads: Frames,
    system_mapping: SystemMapping,
) -> tuple[Row, ...]:
    """Rows of the distances between re-mapped beads and the beads that were given.

    The rms distance is taken frame by frame, and the median of those is reported: one molecule
    broken across the box would drown everything else.

    Args:
        generated_frames: atoms.
        beads: the input of each of those frames.
        system_mapping: what maps the atoms onto the beads.

    Raises:
        InputError: the numbers of frames or of beads do not agree.
    """
    if len(beads) != len(generated_frames):
        raise InputError(
            f"beads: expected a frame for each of the {len(generated_frames)} generated frames, "
            f"found {len(beads)}."
        )
    topology = system_mapping.topology
    trees = bond_trees(topology)
    rms, largest = [], 0.0
    for number, (frame, given) in enumerate(zip(generated_frames, beads, strict=True), start=1):
        if given.n != system_mapping.n_beads:
            raise InputError(
                f"beads, frame {number}: expected {system_mapping.n_beads} beads, found {given.n}."
            )
        source = f"generated frames, frame {number}"
        whole = make_whole(frame.positions, frame.box, topology, trees=trees, source=source)
        mapped = map_positions(system_mapping, whole)
        apart = minimum_image(mapped - given.positions, frame.box)
        squares = np.einsum("ij,ij->i", apart, apart)
        rms.append(math.sqrt(float(squares.mean())))
        largest = max(largest, math.sqrt(float(squares.max())))
    unit = "nm, median over frames"
    return (
        Row("re-mapped beads, rms distance", float(np.median(rms)), unit),
        Row("re-mapped beads, largest distance", largest, "nm"),
    )
