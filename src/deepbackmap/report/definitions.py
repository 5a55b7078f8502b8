"""What every figure of the page means, in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deepbackmap.evaluation.result import Figure, Group


@dataclass(frozen=True)
class Definition:
    """One entry of the glossary."""

    key: str
    """Anchor on the page."""
    title: str
    text: str
    names: str = ""
    """Pattern of the figures that it explains, in small letters; none when empty."""


DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        "score",
        "Score",
        "Geometric mean of the scored divergences: one number to look at first, never instead of "
        "the table. Smaller is better; the floor is the least that can be reached.",
    ),
    Definition(
        "divergence",
        "Divergence (JSD)",
        "Jensen–Shannon divergence with logarithms to base 2 between two normalised histograms: 0 "
        "when they are equal, 1 when they have no bin in common. Values outside the range count "
        "in the end bins. For energies of a molecule the bins are laid around the reference’s "
        "mean, in its standard deviations.",
    ),
    Definition(
        "floor",
        "Floor",
        "The same figure between two disjoint halves of the reference, with as many frames as the "
        "methods have where there are that many. It is what chance alone gives: nothing can do "
        "better, and a figure near it cannot be told from the reference.",
    ),
    Definition(
        "ratio",
        "Times the floor (×)",
        "Distance of a method’s figure from its target, divided by the same distance of the floor. "
        "1× is as good as the reference itself. “floor 0” stands where the reference never "
        "departs from the target but the method does.",
    ),
    Definition(
        "error",
        "Error (±)",
        "Standard error from a bootstrap over frames. It is absent where there is one frame only.",
    ),
    Definition(
        "band",
        "Floor band",
        "The shaded area in a plot: where 95 % of resampled halves of the reference lie. A "
        "line inside it cannot be told from the reference.",
    ),
    Definition(
        "lj",
        "Lennard-Jones energy of a molecule",
        "Energy of the pairs within the molecule that are not excluded, plus half of the energy "
        "of its pairs with others: such a pair is shared equally between its two molecules. "
        "A positive tail means overlapping atoms.",
        r"\blj\b|lennard",
    ),
    Definition(
        "coulomb",
        "Coulomb energy of a molecule",
        "As for Lennard-Jones, from the charges of the topology.",
        r"coulomb",
    ),
    Definition(
        "energy-ratio",
        "Energy by term, ratio",
        "Energy that a kind of term carries in the generated structures, median over frames, "
        "divided by the same of the reference. 1 is right; below 1 the structure is too cold in "
        "this term, above 1 it is strained.",
        r"energy.*ratio|ratio.*energy",
    ),
    Definition(
        "shift",
        "Shift of the mean or median",
        "Difference from the reference’s mean or median, in standard deviations of the reference. "
        "0 is right; the sign says whether the energy is too high or too low.",
        r"shift of the",
    ),
    Definition(
        "rdf",
        "g(r)",
        "Radial distribution function: how much more often than in an ideal gas two atoms of a "
        "group are a distance r apart. Pairs that are close by their bonds are left out. Its "
        "figure is the mean absolute difference from the reference’s.",
        r"g\(r\)|radial",
    ),
    Definition(
        "contacts",
        "Closest contacts",
        "Distances of pairs that are not excluded, in units of the pair’s Lennard-Jones diameter "
        "sigma. Much below 0.7 sigma atoms overlap and a simulation would start with a kick.",
        r"smallest distance|closest|closer than|contact|overlapping",
    ),
    Definition(
        "stereo",
        "Stereocentres and labels",
        "Share of chiral centres whose handedness differs from the reference’s or the topology’s. "
        "A pro-chiral label says which of two equal substituents is which: exchanging them "
        "changes names, not chemistry.",
        r"stereo|chiral|inverted|handed|tactic|labels",
    ),
    Definition(
        "rings",
        "Rings",
        "A bond through a ring is a knot that no simulation undoes. Bent rings are judged by the "
        "distance of their atoms from the ring’s mean plane.",
        r"\brings?\b|out of plane",
    ),
    Definition(
        "bonds",
        "Bonds",
        "Lengths between bonded atoms. Where the reference held its bonds at constant length, "
        "their deviation from the force field’s length says more than a divergence.",
        r"\bbond",
    ),
    Definition(
        "angles",
        "Angles",
        "Angle at the middle atom, over all angles of the topology whose three atoms have the "
        "types named.",
        r"\bangle",
    ),
    Definition(
        "dihedrals",
        "Dihedrals",
        "Torsion about the bond between the second and third atom, from −180° to 180°, over all "
        "proper dihedrals of the types named.",
        r"dihedral|torsion",
    ),
    Definition(
        "impropers",
        "Impropers",
        "How far a group that is meant to be flat, or of a given handedness, is bent.",
        r"improper",
    ),
    Definition(
        "beads",
        "Re-mapped beads",
        "The generated atoms are mapped back onto beads; the figure is their distance from the "
        "beads that were the input.",
        r"bead",
    ),
    Definition(
        "energy",
        "Energy by term",
        "Energy of all terms of a kind, from the parameters of the topology.",
        r"energ",
    ),
    Definition(
        "map",
        "Structure map",
        "Every point is a structure. SOAP describes the surroundings of each chosen atom, the "
        "regularised-entropy match (REMatch) says how alike two structures are, and "
        "sketch-map lays them out so that near points are alike structures. Stress is what "
        "the layout gets wrong, a pair: 0 is perfect.",
    ),
    Definition(
        "mmd",
        "Overlap (MMD²)",
        "Squared maximum mean discrepancy between a sample and the reference, in the space "
        "of the kernel itself and not of the drawing: 0 where both come from the same "
        "distribution (chance makes it slightly negative). Labels are then exchanged at random: "
        "“by chance” is what one such permutation in twenty exceeds, and p the share that is at "
        "least as large as the discrepancy. Below 0.05 the sample differs from the reference.",
    ),
)
"""In the order of the page; the first whose pattern is found in a figure's name explains it."""

_ORDER = (
    "shift", "energy-ratio", "lj", "coulomb", "energy", "rdf", "contacts", "stereo", "beads",
    "impropers", "dihedrals", "angles", "rings", "bonds",
)  # fmt: skip
"""Which entry is asked first: a name such as ``LJ per chain, shift of the mean`` fits several."""

_BY_GROUP: Mapping[Group, str] = {
    "bonds": "bonds",
    "angles": "angles",
    "dihedrals": "dihedrals",
    "impropers": "impropers",
    "energies": "energy",
    "structure": "rdf",
    "contacts": "contacts",
    "stereochemistry": "stereo",
    "rings": "rings",
    "beads": "beads",
}
"""The entry of a figure whose name fits none."""

_BY_KEY = {d.key: d for d in DEFINITIONS}


def definition_of(figure: Figure) -> Definition:
    """The entry that explains a figure."""
    name = figure.name.lower()
    fits = (key for key in _ORDER if re.search(_BY_KEY[key].names, name))
    return _BY_KEY[next(fits, _BY_GROUP[figure.group])]
