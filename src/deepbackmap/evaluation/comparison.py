"""Everything about several methods against one reference, as an ``Evaluation``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.evaluation import metrics
from deepbackmap.evaluation.contacts import RDF_BINS, RDF_WIDTH
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.observables import Measurements
from deepbackmap.evaluation.plan import RING_BINS, Bins, Plan, atom_name
from deepbackmap.evaluation.result import (
    Curve,
    Distribution,
    Estimate,
    Evaluation,
    Figure,
    Group,
    Method,
    MoleculeView,
)
from deepbackmap.evaluation.table import (
    Row,
    all_rows,
    bonds_held,
    check_spread,
    molecule_energies,
)
from deepbackmap.evaluation.usable import verdict
from deepbackmap.evaluation.verdict import judge

SPLITS = 50
"""Random ways to halve the reference, for floors and bands."""
RESAMPLES = 100
"""Bootstrap samples of the frames, for errors."""
BAND = (2.5, 97.5)
"""Percentiles between which the resampled halves lie in a plot."""
SCORE = "score"
"""Name that the geometric mean of the scored divergences has beside the figures."""


@dataclass(frozen=True)
class Sample:
    """One set of frames and what was measured of it."""

    name: str
    source: str
    """File."""
    measured: Measurements
    numbers: Sequence[int]
    """Of the frames in their file, from 0."""
    worst: tuple[MoleculeView, ...] = ()


def evaluate_samples(
    plan: Plan,
    reference: Sample,
    methods: Sequence[Sample],
    *,
    temperature: float | None = None,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Compares the methods with the reference.

    The floor of a figure is what it comes to between random disjoint halves of the reference,
    averaged over ``SPLITS`` of them and brought to the number of frames of the methods: two
    samples of n and N frames of the same ensemble differ by a divergence that goes as
    1/n + 1/N, and by shifts, ratios and errors of curves that go as the root of that, so the
    halves' figure is multiplied by the quotient (or its root) for n the methods' frames (the
    fewest, where they differ) and N the reference's. Without two reference frames it is NaN.

    The error of a figure is its standard deviation over ``RESAMPLES`` bootstrap samples of the
    frames of the method and of the reference, drawn independently; NaN with a single frame of
    the method.

    Args:
        plan: of the system.
        reference: what is right.
        methods: what is judged; names differ.
        temperature: in K, if the user gave it.
        seed: of the halves and of the bootstrap.
        notes: what the reader must know besides what is found here.

    Raises:
        InputError: the reference's energies have no spread to compare with.
    """
    check_spread(plan, reference.measured)
    rng = np.random.default_rng(seed)
    halves = _halves(reference.measured.n_frames, rng)
    rows = {m.name: list(all_rows(plan, reference.measured, m.measured)) for m in methods}
    errors = {m.name: _bootstrap(plan, reference.measured, m.measured, rng) for m in methods}
    fewest = min(m.measured.n_frames for m in methods)
    floors = _floors(plan, reference.measured, halves, fewest)
    figures = _figures(rows, errors, floors)
    scored = [f for f in figures if f.scored]
    described = []
    for method in methods:
        shown = Figures.total(method.measured.figures.tolist())
        findings = verdict(shown, temperature)
        score = Estimate(
            metrics.geometric_mean(f.methods[method.name].value for f in scored),
            errors[method.name].get(SCORE, math.nan),
        )
        described.append(
            Method(
                name=method.name,
                source=method.source,
                n_frames=method.measured.n_frames,
                score=score,
                verdict=judge(
                    method.name,
                    figures,
                    score,
                    floors[SCORE],
                    n_atoms=plan.topology.n_atoms,
                    temperature=temperature,
                    overlap=_overlap(plan, method),
                    findings=findings,
                ),
                worst=method.worst,
                figures=shown,
                findings=findings,
            )
        )
    members = _members(halves, reference.measured.n_frames)
    return Evaluation(
        topology=plan.topology.source,
        reference=reference.source,
        n_atoms=plan.topology.n_atoms,
        n_molecules=plan.topology.n_molecules,
        n_reference=reference.measured.n_frames,
        temperature=temperature,
        seed=seed,
        score_floor=floors[SCORE],
        methods=tuple(described),
        figures=tuple(figures),
        distributions=tuple(
            _distribution(table, reference.measured, methods, members)
            for table in _tables(plan, reference.measured)
        ),
        curves=tuple(_curves(plan, reference.measured, methods, members)),
        notes=(*notes, *_notes(plan, reference, methods)),
    )


def _overlap(plan: Plan, method: Sample) -> str:
    """Where the nearest pair of atoms is, if it overlaps."""
    measured = method.measured
    k = int(measured.nearest.argmin())
    if not measured.overlaps[k]:
        return ""
    a, b = (atom_name(plan.topology, int(atom)) for atom in measured.nearest_pair[k])
    return f"{measured.nearest[k]:.3f} nm apart in frame {method.numbers[k]}: {a} and {b}"


def _halves(
    frames: int, rng: np.random.Generator
) -> list[tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]]:
    """Random disjoint halves of so many frames; none of fewer than two."""
    if frames < 2:
        return []
    orders = [rng.permutation(frames) for _ in range(SPLITS)]
    return [(order[: frames // 2], order[frames // 2 :]) for order in orders]


def _bootstrap(
    plan: Plan, reference: Measurements, generated: Measurements, rng: np.random.Generator
) -> dict[str, float]:
    """Standard error of every figure, and of the score."""
    if generated.n_frames < 2:
        return {}
    found: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        first = reference.select(rng.integers(reference.n_frames, size=reference.n_frames))
        second = generated.select(rng.integers(generated.n_frames, size=generated.n_frames))
        for name, value in _values(list(all_rows(plan, first, second))).items():
            found.setdefault(name, []).append(value)
    return {name: _deviation(values) for name, values in found.items()}


def _deviation(values: list[float]) -> float:
    """Standard deviation of those that are finite; NaN if hardly any is."""
    finite = [v for v in values if math.isfinite(v)]
    return float(np.std(finite, ddof=1)) if len(finite) > len(values) // 2 > 0 else math.nan


def _values(rows: list[Row]) -> dict[str, float]:
    """Every figure by name, and the score."""
    scored = [row.value for row in rows if row.scored]
    return {**{row.name: row.value for row in rows}, SCORE: metrics.geometric_mean(scored)}


def _floors(
    plan: Plan,
    reference: Measurements,
    halves: Sequence[tuple[np.ndarray, np.ndarray]],
    frames: int,
) -> dict[str, float]:
    """The floor of every figure, and of the score, for methods of so many frames."""
    found: dict[str, list[float]] = {}
    kinds: dict[str, Row] = {}
    for first, second in halves:
        for row in all_rows(plan, reference.select(first), reference.select(second)):
            found.setdefault(row.name, []).append(row.value)
            kinds[row.name] = row
    if not found:
        return {SCORE: math.nan}
    total = reference.n_frames
    noise = (1 / frames + 1 / total) / (1 / (total // 2) + 1 / (total - total // 2))
    floors = {name: _floor(kinds[name], values, noise) for name, values in found.items()}
    floors[SCORE] = metrics.geometric_mean(floors[n] for n, row in kinds.items() if row.scored)
    return floors


def _floor(row: Row, values: list[float], noise: float) -> float:
    """One figure's floor from its values between halves."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if not len(finite) or math.isnan(row.target):
        return math.nan
    apart = float(np.abs(finite - row.target).mean())
    factor = {"squared": noise, "linear": math.sqrt(noise), "none": 1.0}[row.noise]
    return row.target + apart * factor


def _figures(
    rows: Mapping[str, list[Row]],
    errors: Mapping[str, Mapping[str, float]],
    floors: Mapping[str, float],
) -> list[Figure]:
    """All rows of all methods, side by side."""
    names = dict.fromkeys(row.name for listed in rows.values() for row in listed)
    by_name = {method: {row.name: row for row in listed} for method, listed in rows.items()}
    figures = []
    for name in names:
        having = {method: found[name] for method, found in by_name.items() if name in found}
        first = next(iter(having.values()))
        figures.append(
            Figure(
                name=name,
                group=first.group,
                unit=first.unit,
                target=first.target,
                scored=first.scored,
                reference=first.reference,
                floor=floors.get(name, math.nan),
                methods={
                    method: Estimate(row.value, errors[method].get(name, math.nan))
                    for method, row in having.items()
                },
            )
        )
    return figures


@dataclass(frozen=True)
class Table:
    """Counts of one quantity by frame, of any sample."""

    name: str
    group: Group
    unit: str
    bins: Bins
    counted: Callable[[Measurements], Int64[np.ndarray, "f b"]]


def _tables(plan: Plan, reference: Measurements) -> Iterator[Table]:
    """Every histogram that has a divergence."""
    for o in plan.observables:
        yield Table(o.name, o.group, o.unit, o.bins, partial(_counts, o.name))
    for energy in molecule_energies(plan, reference):
        values = energy.values(reference)
        if np.ptp(values) > 0.0:
            bins = metrics.spread_bins(values)
            yield Table(
                energy.name, "energies", "kJ/mol", bins, partial(_binned, energy.values, bins)
            )
    for name, of_kind in plan.ring_kinds.items():
        counted = partial(_binned, partial(_ring_rms, of_kind), RING_BINS)
        yield Table(f"{name}, out of plane", "rings", "nm", RING_BINS, counted)


def _counts(name: str, measured: Measurements) -> Int64[np.ndarray, "f b"]:
    return measured.counts[name]


def _ring_rms(of_kind: np.ndarray, measured: Measurements) -> Float64[np.ndarray, "f r"]:
    return measured.ring_rms[:, of_kind]


def _binned(
    values: Callable[[Measurements], np.ndarray], bins: Bins, measured: Measurements
) -> Int64[np.ndarray, "f b"]:
    return np.array([metrics.histogram(row, *bins) for row in values(measured)])


def _distribution(
    table: Table,
    reference: Measurements,
    methods: Sequence[Sample],
    halves: Float64[np.ndarray, "h f"],
) -> Distribution:
    """A table as probability densities."""
    low, high, bins = table.bins
    width = (high - low) / bins

    def density(counts: np.ndarray) -> np.ndarray:
        return counts / (counts.sum(axis=-1, keepdims=True) * width)

    by_frame = table.counted(reference)
    return Distribution(
        name=table.name,
        group=table.group,
        unit=table.unit,
        edges=np.linspace(low, high, bins + 1),
        reference=density(by_frame.sum(axis=0)),
        band=_band(density(halves @ by_frame)),
        methods={m.name: density(table.counted(m.measured).sum(axis=0)) for m in methods},
    )


def _curves(
    plan: Plan,
    reference: Measurements,
    methods: Sequence[Sample],
    halves: Float64[np.ndarray, "h f"],
) -> Iterator[Curve]:
    """Every g(r)."""
    for name in plan.rdf_names:
        by_frame = reference.rdf[name]
        yield Curve(
            name=name,
            r=RDF_WIDTH * (np.arange(RDF_BINS) + 0.5),
            reference=by_frame.mean(axis=0),
            band=_band(halves @ by_frame / halves.sum(axis=1, keepdims=True)),
            methods={m.name: m.measured.rdf[name].mean(axis=0) for m in methods},
        )


def _members(
    halves: Sequence[tuple[np.ndarray, np.ndarray]], frames: int
) -> Float64[np.ndarray, "h f"]:
    """1 where a frame belongs to a half, each half a row."""
    members = np.zeros((2 * len(halves), frames))
    for row, half in enumerate(half for pair in halves for half in pair):
        members[row, half] = 1.0
    return members


def _band(rows: Float64[np.ndarray, "h b"]) -> Float64[np.ndarray, "2 b"]:
    """Where most of the halves lie; NaN without any."""
    if not len(rows):
        return np.full((2, rows.shape[1]), math.nan)
    return np.percentile(rows, BAND, axis=0)


def _notes(plan: Plan, reference: Sample, methods: Sequence[Sample]) -> Iterator[str]:
    """What limits the evaluation."""
    n, counts = reference.measured.n_frames, {m.name: m.measured.n_frames for m in methods}
    if n < 2:
        yield (
            "The reference has one frame only: there is no noise floor, and a figure says nothing "
            "about whether its difference is chance."
        )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield (
            f"The methods have different numbers of frames ({listed}); the floor is that of the "
            f"fewest, {min(counts.values())}."
        )
    single = [name for name, count in counts.items() if count < 2]
    if single:
        yield f"One frame only, so no error: {', '.join(single)}."
    if bonds_held(reference.measured):
        yield (
            "The reference held its bonds at the force field's lengths: bonds are judged by their "
            "deviation from them, not by the divergence of their distributions."
        )
    for word, labels in (
        ("stereocentres", reference.measured.handedness),
        ("labels of paired hydrogens", reference.measured.prochiral),
    ):
        mixed = int(np.count_nonzero(np.ptp(labels, axis=0))) if labels.size else 0
        if mixed:
            yield (
                f"{mixed} {word} change in the reference itself; they are compared with what most "
                f"of its frames have."
            )
    if not plan.forcefield.charges.any():
        yield "The topology has no charges: there is no Coulomb energy."
