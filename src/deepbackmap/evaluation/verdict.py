"""What the figures say about a method, in sentences: the worst first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepbackmap.evaluation.result import Estimate, Figure, Level, Sentence
from deepbackmap.evaluation.usable import Finding

FLOORS = 3.0
"""Times the floor up to which a figure cannot be told from the reference: always good."""


@dataclass(frozen=True)
class Limits:
    """Up to ``good`` a departure is good, up to ``fair`` fair, beyond bad."""

    good: float
    fair: float


DIVERGENCE = Limits(0.005, 0.05)
"""Of a distribution. For two Gaussians of one width, a divergence D belongs to means that differ
by sqrt(8 ln 2 D) standard deviations: 0.17 and 0.5."""
LJ_SHIFT = Limits(0.2, 1.0)
"""Of the mean energy of a molecule, in standard deviations of the reference."""
ENERGY_RATIO = Limits(0.05, 0.25)
"""Departure from 1 of the energy in stiff terms: as much as of the temperature."""
BONDS = Limits(0.002, 0.01)
"""nm: rms deviation from the force field beyond the reference's own. A bond of 265 000 kJ/mol/nm^2
deviates by 0.004 nm in equilibrium at 568 K; at 0.01 nm it holds six times that energy."""
BEADS = Limits(0.005, 0.02)
"""nm: rms distance of re-mapped beads."""
RDF = Limits(0.005, 0.02)
"""Mean absolute error of g(r)."""
CLASHES = Limits(0.0, 1.0)
"""Pairs closer than 0.6 sigma per 10 000 atoms of a frame, beyond the reference's own."""
BENT = Limits(0.1, 1.0)
"""Percent of flat rings, beyond the reference's own."""
LABELS = Limits(0.5, math.inf)
"""Percent of paired hydrogens whose labels are exchanged: never bad, since the two are alike and
only dynamics that starts from the structure remembers which is which."""
NONE_AT_ALL = Limits(0.0, 0.0)
"""Inverted centres, bonds through rings and overlaps: no dynamics repairs them."""
NAMED = 3
"""Most figures that a sentence names."""
ORDER: tuple[Level, ...] = ("bad", "fair", "good")


def judge(
    method: str,
    figures: Sequence[Figure],
    score: Estimate,
    score_floor: float,
    *,
    n_atoms: int,
    temperature: float | None = None,
    overlap: str = "",
    findings: Sequence[Finding] = (),
) -> tuple[Sentence, ...]:
    """The verdict on one method.

    Args:
        method: whose figures are judged.
        figures: all of them.
        score: of the method.
        score_floor: NaN where there is none.
        n_atoms: of a frame.
        temperature: in K; says how warm the energies are.
        overlap: where the nearest overlapping pair is, if there is one.
        findings: what the frames show by themselves.

    Returns:
        Sentences, bad ones before fair and good ones, each group in the order of what is hardest
        to repair.
    """
    case = _Case(method, {f.name: f for f in figures if method in f.methods})
    sentences = [
        *_overlaps(case, overlap),
        *_pierced(case),
        *_inverted(case),
        *_clashes(case, n_atoms),
        *_bent(case),
        *_lj(case),
        *_warmth(case, temperature),
        *_divergences(case, score, score_floor),
        *_bonds(case),
        *_rdf(case),
        *_beads(case),
        *_labels(case),
        *_findings(findings),
    ]
    return tuple(sorted(sentences, key=lambda s: ORDER.index(s.level)))


def _findings(findings: Sequence[Finding]) -> Iterator[Sentence]:
    """What frames show by themselves, whatever the reference has."""
    for finding in findings:
        if finding.severity != "fine":
            word = "Not usable" if finding.severity == "unusable" else "To be looked at"
            place = f", the first {finding.where[0]}" if finding.where and finding.where[0] else ""
            found: Level = "bad" if finding.severity == "unusable" else "fair"
            yield Sentence(found, f"{word}: {finding.sentence}{place}.")


@dataclass(frozen=True)
class _Case:
    """One method and the figures that it has."""

    method: str
    figures: dict[str, Figure]

    def value(self, figure: Figure) -> float:
        return figure.methods[self.method].value

    def beyond(self, figure: Figure) -> float:
        """How much more than in the reference."""
        reference = figure.reference if math.isfinite(figure.reference) else 0.0
        return self.value(figure) - reference

    def apart(self, figure: Figure) -> float:
        """Distance from the target."""
        return abs(self.value(figure) - figure.target)

    def level(self, figure: Figure, limits: Limits) -> Level:
        """Of a figure that has a target and a floor."""
        floor = abs(figure.floor - figure.target) if math.isfinite(figure.floor) else 0.0
        return "good" if self.apart(figure) <= FLOORS * floor else level(self.apart(figure), limits)


def level(departure: float, limits: Limits) -> Level:
    """Where a departure lies; NaN is bad."""
    return "good" if departure <= limits.good else "fair" if departure <= limits.fair else "bad"


def _told(value: float) -> str:
    """Two significant digits, written out."""
    return np.format_float_positional(float(f"{value:.2g}"), trim="-")


def _overlaps(case: _Case, overlap: str) -> Iterator[Sentence]:
    figure = case.figures["overlapping pairs"]
    if case.value(figure) > 0.0:
        text = f"Atoms overlap: {_told(case.value(figure))} pairs a frame closer than 0.02 nm"
        yield Sentence("bad", f"{text}, the nearest {overlap}." if overlap else f"{text}.")


def _pierced(case: _Case) -> Iterator[Sentence]:
    figure = case.figures["bonds through rings"]
    found = level(case.beyond(figure), NONE_AT_ALL)
    if case.value(figure) > 0.0:
        text = (
            f"Bonds pass through rings: {_told(case.value(figure))} a frame, "
            f"{_told(figure.reference)} in the reference."
        )
        yield Sentence(found, text)
    else:
        yield Sentence(found, "No bond passes through a ring.")


def _inverted(case: _Case) -> Iterator[Sentence]:
    figure = case.figures.get("inverted stereocentres")
    if figure is None:
        return
    found = level(case.beyond(figure), NONE_AT_ALL)
    if case.value(figure) > 0.0:
        yield Sentence(found, f"{_told(case.value(figure))} % of the stereocentres are inverted.")
    else:
        yield Sentence(found, "Every stereocentre has the reference's hand.")


def _clashes(case: _Case, n_atoms: int) -> Iterator[Sentence]:
    figure, nearest = (
        case.figures[n]
        for n in ("pairs closer than 0.6 sigma", "smallest distance of a non-bonded pair")
    )
    distance = f"smallest distance {_sigma(case.value(nearest))}"
    distance += f", {_sigma(nearest.reference)} in the reference"
    found = level(1e4 * max(0.0, case.beyond(figure)) / n_atoms, CLASHES)
    if case.value(figure) > 0.0:
        text = f"Atoms clash: {_told(case.value(figure))} pairs a frame closer than 0.6 sigma"
        yield Sentence(found, f"{text} ({distance}).")
    else:
        yield Sentence(found, f"No pair is closer than 0.6 sigma ({distance}).")


def _sigma(value: float) -> str:
    return f"{value:.2f} sigma" if math.isfinite(value) else "beyond 1 sigma"


def _bent(case: _Case) -> Iterator[Sentence]:
    figure = case.figures.get("bent rings")
    if figure is None:
        return
    found = level(max(0.0, case.beyond(figure)), BENT)
    if case.value(figure) > 0.0:
        text = f"{_told(case.value(figure))} % of the flat rings are bent out of their plane"
        yield Sentence(found, f"{text} ({_told(figure.reference)} % in the reference).")
    else:
        yield Sentence(found, "Flat rings are flat.")


def _lj(case: _Case) -> Iterator[Sentence]:
    for name in [f.name for f in case.figures.values() if f.scored and f.group == "energies"]:
        mean, median = (case.figures[f"{name}, shift of the {w}"] for w in ("mean", "median"))
        word = "above" if case.value(mean) > 0.0 else "below"
        yield Sentence(
            case.level(mean, LJ_SHIFT),
            f"{name}: the mean is {_told(case.apart(mean))} reference sd {word} the reference's "
            f"(the median {case.value(median):+.2g} sd).",
        )


def _warmth(case: _Case, temperature: float | None) -> Iterator[Sentence]:
    for term in ("angle", "improper"):
        figure = case.figures.get(f"{term} energy, ratio")
        if figure is None:
            continue
        found, ratio = case.level(figure, ENERGY_RATIO), case.value(figure)
        word = "are as warm as" if found == "good" else "are too cold, with" if ratio < 1 else (
            "are too hot, with"
        )  # fmt: skip
        text = f"{term.capitalize()}s {word} the reference's energy" if found == "good" else (
            f"{term.capitalize()}s {word} {ratio:.2f} of the reference's energy"
        )  # fmt: skip
        more = f" ({ratio:.2f})" if found == "good" else ""
        if temperature is not None and found != "good":
            more = f", as at {ratio * temperature:.0f} K instead of {temperature:g} K"
        yield Sentence(found, f"{text}{more}.")


def _divergences(case: _Case, score: Estimate, floor: float) -> Iterator[Sentence]:
    """One sentence on all scored distributions, at the level of the worst of them."""
    scored = [f for f in case.figures.values() if f.scored]
    if not scored:
        return
    levels = {f.name: case.level(f, DIVERGENCE) for f in scored}
    worst = min(levels.values(), key=ORDER.index)
    head = f"Score {_told(score.value)}"
    if math.isfinite(floor) and floor > 0.0:
        head += f", {_told(score.value / floor)} times the floor of {_told(floor)}"
    off = sorted((f for f in scored if levels[f.name] != "good"), key=case.value, reverse=True)
    if not off:
        tail = f"none of the {len(scored)} scored distributions departs plainly from the reference"
    else:
        named = ", ".join(f"{f.name} {_with_floor(case.value(f), f.floor)}" for f in off[:NAMED])
        more = " among others" if len(off) > NAMED else ""
        tail = f"{len(off)} of {len(scored)} scored distributions depart plainly: {named}{more}"
    yield Sentence(worst, f"{head}; {tail}.")


def _with_floor(value: float, floor: float) -> str:
    """A divergence and its multiple of the floor."""
    if not (math.isfinite(floor) and floor > 0.0):
        return _told(value)
    return f"{_told(value)} ({_told(value / floor)} times the floor)"


def _bonds(case: _Case) -> Iterator[Sentence]:
    rms, largest = (case.figures[f"bond length deviation, {w}"] for w in ("rms", "largest"))
    found = level(case.beyond(rms), BONDS)
    yield Sentence(
        found,
        f"Bonds are {_told(case.value(rms))} nm rms off the force field's lengths, "
        f"{_told(rms.reference)} nm in the reference (largest {_told(case.value(largest))} nm).",
    )


def _rdf(case: _Case) -> Iterator[Sentence]:
    figure = case.figures["g(r), mean absolute error"]
    yield Sentence(
        case.level(figure, RDF),
        f"g(r) of heavy atoms is off by {_told(case.value(figure))} on average.",
    )


def _beads(case: _Case) -> Iterator[Sentence]:
    figure = case.figures.get("re-mapped beads, rms distance")
    if figure is not None:
        text = f"Atoms map back to {_told(case.value(figure))} nm rms from the given beads."
        yield Sentence(level(case.value(figure), BEADS), text)


def _labels(case: _Case) -> Iterator[Sentence]:
    figure = case.figures.get("swapped prochiral hydrogens")
    if figure is not None and case.beyond(figure) > 0.0:
        text = f"{_told(case.value(figure))} % of the paired hydrogens have exchanged labels."
        yield Sentence(level(case.beyond(figure), LABELS), text)
