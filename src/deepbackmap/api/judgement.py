"""What a verb does about a structure that cannot be used: one place for sentences and refusal."""

from __future__ import annotations

from collections.abc import Iterable

from deepbackmap.errors import Stopped
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.plausible import Bonds, look_at_beads, look_at_temperature
from deepbackmap.evaluation.usable import Finding, ordered, worst
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.system import Structure, Topology

SHOWN = 3
"""Most places that one line names."""


def one_line(findings: tuple[Finding, ...]) -> str:
    """The gravest finding as a sentence, with its first place and how many others there are."""
    first = ordered(findings)[0]
    place = f", the first {first.where[0]}" if first.where else ""
    bad = sum(f.severity != "fine" for f in findings)
    more = f" (and {bad - 1} more finding{'s' if bad > 2 else ''})" if bad > 1 else ""
    return f"{first.sentence}{place}{more}"


def of_input(
    system: SystemMapping,
    beads: Structure,
    bonds: Bonds,
    spec: ModelSpec,
    temperature: float,
) -> tuple[Finding, ...]:
    """What is wrong with beads and a temperature for a model, gravest first.

    Args:
        system: whose beads they are.
        beads: a frame of them.
        bonds: between them.
        spec: of the model.
        temperature: asked for, K.
    """
    return ordered(
        (
            *look_at_beads(system, beads, spec.bead_distances, bonds=bonds),
            *look_at_temperature(temperature, spec.known_temperatures),
        )
    )


def refuse(
    where: str,
    findings: tuple[Finding, ...],
    *,
    keep_defects: bool = False,
    strict: bool = False,
) -> None:
    """Refuses a structure that cannot be used.

    Args:
        where: file and frame that it comes from.
        findings: about it, gravest first.
        keep_defects: whether it is wanted all the same.
        strict: whether to refuse what is suspicious as well.

    Raises:
        Stopped: it cannot be used and is not to be kept.
    """
    grave = ("unusable", "suspicious") if strict else ("unusable",)
    if worst(findings) in grave and not keep_defects:
        raise Stopped(f"{where}: {one_line(findings)}; keep-defects writes it all the same")


def to_lines(findings: Iterable[Finding]) -> list[str]:
    """Lines of a summary, each severity in words, with the first places below."""
    lines = []
    for finding in findings:
        if finding.severity == "fine":
            continue
        word = "WARNING, not usable" if finding.severity == "unusable" else "WARNING"
        lines.append(f"  {word}: {finding.sentence}")
        lines += [f"    {place}" for place in finding.where[:SHOWN]]
    return lines


def warning(findings: tuple[Finding, ...], *, quiet: bool) -> str:
    """The one line for standard error; empty where nothing has to be said.

    What cannot be used is said always, what is suspicious only where no summary says it.
    """
    found = worst(findings)
    if found == "unusable" or (found == "suspicious" and quiet):
        return f"WARNING, {found}: {one_line(findings)}"
    return ""


def figure_rows(figures: Figures, pattern: str) -> list[tuple[str, str]]:
    """Name and text of the figures that every summary has.

    Args:
        figures: of what was written.
        pattern: who says which hand is right.
    """
    contacts, beads, blocks = figures.contacts, figures.beads, figures.blocks
    contact = "no pair nearer than its sigma"
    if contacts.pair:
        pair = " and ".join(contacts.pair)
        contact = f"{contacts.closest:.3f} sigma: {pair}, frame {contacts.frame}"
    rows = [
        ("closest contact", contact),
        ("stereocentres", _hands(figures, pattern)),
        *_double_bonds(figures),
        ("bonds through rings", str(figures.rings.pierced)),
        ("bonds off by", f"rms {figures.bonds.rms:.4f} nm, largest {figures.bonds.largest:.4f} nm"),
    ]
    if blocks.degrees:
        text = f"as at {blocks.temperature:.0f} K, {blocks.mean:.1f} kJ/mol a block"
        rows.append(("angles", text))
    if beads.count:
        rows.append(("re-mapped beads", f"rms {beads.rms:.4f} nm, largest {beads.largest:.4f} nm"))
    return rows


def of_topology(topology: Topology) -> list[Finding]:
    """What looks like a mistake in a topology, or had to be taken for granted."""
    return [Finding("suspicious", notice) for notice in topology.notices]


def of_unknown(figures: Figures) -> list[Finding]:
    """What of stereochemistry nothing tells, so that it came out by chance.

    Args:
        figures: of structures whose atoms were made.
    """
    found = []
    for count, what in (
        (figures.hands.unknown, "the hand of every stereocentre"),
        (figures.double_bonds.unknown, "cis or trans of every double bond"),
    ):
        if count:
            sentence = (
                f"expected to be told {what}, found {count} (over all frames) of which neither "
                "topology, mapping nor beads say it: they came out by chance; give --like with a "
                "structure that is right, or a stereo section in the mapping"
            )
            found.append(Finding("suspicious", sentence))
    return found


def _double_bonds(figures: Figures) -> list[tuple[str, str]]:
    """A row, where there are any that can be cis or trans."""
    double = figures.double_bonds
    parts = []
    if double.known:
        text = f"{double.wrong} of {double.known} cis for trans or trans for cis"
        parts.append(text + (", going by most of them" if double.assumed else ""))
    if double.unknown:
        parts.append(f"{double.unknown}, of which nothing says what is right")
    return [("double bonds", "; ".join(parts))] if parts else []


def _hands(figures: Figures, pattern: str) -> str:
    hands = figures.hands
    if not hands.known:
        text = f"{hands.unknown}, of which nothing says what is right"
        return text if hands.unknown else "none"
    text = f"{hands.wrong} of {hands.known} inverted against {pattern}"
    return text + (f", {hands.unknown} not known" if hands.unknown else "")
