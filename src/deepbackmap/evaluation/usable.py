"""Whether a structure can be used, and if not, why: sentences made of its figures.

The limits are of two kinds. What a temperature allows follows from equipartition
(``chemistry.warmth``). The others are wide: a melt in equilibrium is far inside them, and a
structure beyond them would not start a simulation, or would keep a wrong molecule for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from deepbackmap.evaluation.defects import CLOSE, Figures

Severity = Literal["fine", "suspicious", "unusable"]
SEVERITIES: tuple[Severity, ...] = ("unusable", "suspicious", "fine")
"""Gravest first."""

WARM, HOT, COLD = 1.25, 1.5, 0.8
"""Times the temperature asked for that the angles' own may be (melts of polystyrene: 1.02 to 1.07):
beyond the first and below the last it is suspicious, beyond the second not usable."""
DEVIATIONS = 4.0
"""Standard deviations of the angle energy of so few degrees of freedom that are added to those."""
STRAINED, STRAINED_FEW = 0.01, 0.002
"""Share of the blocks that may be beyond what equipartition allows one in ten thousand: more than
the first is not usable, more than the second suspicious."""
BROKEN, BROKEN_SHARE = 4.0, 0.001
"""A block that only so many times the temperature would allow is broken; a structure with a larger
share of such blocks is not usable."""
BONDS, BONDS_MOST = 0.03, 0.06
"""nm: largest deviation of a bond that is suspicious, and not usable."""
BEAD_ALONE, STANDS_OUT = 0.1, 5.0
"""nm, and in units of the rms: a bead that was moved farther stands out. Of a million beads that
are off by the same width the farthest is at 3.7."""
BEADS_FAR, BEADS_RMS, BEADS_MOST = 0.06, 0.1, 0.5
"""nm: beads moved farther from where they were given, rms, are suspicious, and not usable; and
one that was moved farther than the last is not."""


@dataclass(frozen=True)
class Finding:
    """One thing that a structure, or the input of a run, shows."""

    severity: Severity
    sentence: str
    """What was expected, what was found, and what may help."""
    where: tuple[str, ...] = ()
    """The first places: molecules with their beads or atoms."""


FINE = (Finding("fine", "nothing found that speaks against it"),)


def verdict(
    figures: Figures, temperature: float | None = None, *, allowed: float | None = None
) -> tuple[Finding, ...]:
    """What speaks against using some frames; one finding that is fine where nothing does.

    Args:
        figures: of them.
        temperature: that they should have, K; None: nothing is said of their energies.
        allowed: how far beads may have moved, rms in nm; ``BEADS_RMS`` by default.
    """
    found = [*_chemistry(figures), *_places(figures, BEADS_RMS if allowed is None else allowed)]
    if temperature is not None:
        found += _energies(figures, temperature)
    return ordered(found) or FINE


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def worst(findings: tuple[Finding, ...]) -> Severity:
    """The gravest severity of some findings; fine where there are none."""
    return ordered(findings)[0].severity if findings else "fine"


def _chemistry(figures: Figures) -> list[Finding]:
    """Hands, double bonds and rings: what no simulation ever mends."""
    found: list[Finding] = []
    hands, double, pierced = figures.hands, figures.double_bonds, figures.rings.pierced
    if hands.wrong:
        found.append(
            Finding(
                "suspicious" if hands.assumed else "unusable",
                f"expected every stereocentre of the right hand, found {hands.wrong} of "
                f"{hands.known} wrong ({hands.by_side} by the side of the heavy branches, "
                f"{hands.by_order} by the order of all four)"
                + (", going by what most molecules have" if hands.assumed else ""),
                hands.named,
            )
        )
    if double.wrong:
        found.append(
            Finding(
                "suspicious" if double.assumed else "unusable",
                "expected every double bond (or amide, or ester) as it should be, found "
                f"{double.wrong} of {double.known} cis for trans or trans for cis",
                double.named,
            )
        )
    if pierced:
        sentence = f"expected no bond through a ring, found {pierced}"
        found.append(Finding("unusable", sentence, figures.rings.named))
    return found


def _places(figures: Figures, allowed: float) -> list[Finding]:
    """Contacts, bonds and beads."""
    found: list[Finding] = []
    contacts, bonds, beads = figures.contacts, figures.bonds, figures.beads
    if contacts.clashes:
        sentence = (
            f"expected atoms at least {CLOSE:g} sigma apart, found "
            f"{_many(contacts.clashes, 'pair')} nearer, the closest at {contacts.closest:.3f}"
        )
        found.append(Finding("unusable", sentence, contacts.named))
    if bonds.largest > BONDS:
        found.append(
            Finding(
                "unusable" if bonds.largest > BONDS_MOST else "suspicious",
                f"expected bonds near their lengths, found one {bonds.largest:.3f} nm off "
                f"(rms {bonds.rms:.4f} nm)",
                (bonds.where,),
            )
        )
    if beads.rms > allowed or beads.largest > max(BEADS_MOST, allowed):
        sentence = (
            f"expected the atoms' beads within {allowed:g} nm rms of those given, found "
            f"{beads.rms:.3f} nm and one {beads.largest:.3f} nm away"
        )
        found.append(Finding("unusable", sentence, (beads.where,)))
    elif beads.rms > max(BEADS_FAR, 0.6 * allowed):
        sentence = (
            f"expected atoms whose beads are about those given, found them {beads.rms:.3f} nm rms "
            f"away, the farthest {beads.largest:.3f} nm: no atoms were found nearer; are mapping "
            "and beads of the same chemistry, or is a model needed (docs/physics.md)?"
        )
        found.append(Finding("suspicious", sentence, (beads.where,)))
    elif beads.largest > max(BEAD_ALONE, STANDS_OUT * beads.rms):
        sentence = (
            f"expected all beads moved alike, {beads.rms:.3f} nm rms, found one "
            f"{beads.largest:.3f} nm from where it was given: its molecule, or one beside it, is "
            "where no atoms can be, and beads of the same types are held less firmly for it"
        )
        found.append(Finding("suspicious", sentence, (beads.where,)))
    return found


def _energies(figures: Figures, temperature: float) -> list[Finding]:
    """Angle energies against what the temperature allows."""
    blocks = figures.blocks
    if not blocks.degrees:
        return []
    found: list[Finding] = []
    ratio = blocks.temperature / temperature
    # a chi-square variable of d degrees has the relative variance 2/d
    spread = DEVIATIONS * math.sqrt(2.0 / blocks.degrees)
    named = tuple(f"{b.name} ({b.energy:.0f} kJ/mol)" for b in blocks.hottest)
    if ratio > WARM + spread or ratio < COLD - spread:
        found.append(
            Finding(
                "unusable" if ratio > HOT + spread else "suspicious",
                f"expected angles as at {temperature:.0f} K, found their energy to be that of "
                f"{blocks.temperature:.0f} K (equipartition over {blocks.degrees:.0f} degrees of "
                "freedom)" + ("" if ratio > 1.0 else "; dynamics at that temperature warms them"),
                named if ratio > 1.0 else (),
            )
        )
    strained, broken = blocks.hotter_than(temperature), blocks.hotter_than(BROKEN * temperature)
    if strained > 2.0 + STRAINED_FEW * blocks.count or broken:
        bad = strained > 2.0 + STRAINED * blocks.count or broken > BROKEN_SHARE * blocks.count
        beyond = [b.temperature > temperature for b in blocks.hottest]
        found.append(
            Finding(
                "unusable" if bad else "suspicious",
                f"expected angle energies that {temperature:.0f} K allows, found "
                f"{_many(strained, 'block')} of {blocks.count} beyond, of them {broken} beyond "
                f"{BROKEN * temperature:.0f} K",
                tuple(name for name, out in zip(named, beyond, strict=True) if out),
            )
        )
    return found


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count != 1 else ''}"
