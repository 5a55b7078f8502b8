"""The verdict: what equilibrium shows is fine, and every defect is found with its sentence."""

from dataclasses import replace

import numpy as np
import pytest

from deepbackmap.api import judgement
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import (
    Block,
    Blocks,
    Contacts,
    Deviation,
    DoubleBonds,
    Figures,
    Hands,
    Rings,
    bin_of,
)
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.usable import Finding, ordered, verdict, worst
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.quantities import BOLTZMANN
from evaluation_systems import reference_folder

WARM = 400.0


def warm(temperature, blocks=1000, degrees=10.0, hottest=None):
    """Blocks of one temperature."""
    energy = 0.5 * BOLTZMANN * temperature * degrees
    edge = temperature / 3.0 if hottest is None else hottest
    return Blocks(
        count=blocks, energy=blocks * energy, degrees=blocks * degrees,
        energies={bin_of(energy): blocks}, temperatures={bin_of(edge): blocks},
        hottest=(Block(edge, energy, "bead A1"),),
    )  # fmt: skip


CLEAN = Figures(
    frames=1,
    atoms=100,
    contacts=Contacts(0.75, 0.2, ("a", "b"), 0),
    hands=Hands(known=9),
    bonds=Deviation(99, 1e-5, 0.001, "bond"),
    beads=Deviation(20, 1e-4, 0.003, "bead"),
    blocks=warm(WARM),
)


def test_nothing_speaks_against_a_clean_structure():
    (finding,) = verdict(CLEAN, WARM)
    assert finding.severity == "fine"
    assert worst(verdict(CLEAN)) == worst(verdict(Figures(), WARM)) == "fine"
    assert judgement.warning(verdict(CLEAN, WARM), quiet=True) == ""
    assert judgement.to_lines(verdict(CLEAN, WARM)) == []


DEFECTS = {
    "hand by side": (
        {"hands": Hands(known=9, by_side=2, wrong=2, named=("C5",))},
        "2 of 9 wrong (2 by the side of the heavy branches, 0 by the order of all four)",
        "unusable",
    ),
    "hand by the majority": (
        {"hands": Hands(known=9, assumed=9, by_order=1, wrong=1, named=("C5",))},
        "going by what most molecules have",
        "suspicious",
    ),
    "double bond": (
        {"double_bonds": DoubleBonds(known=3, wrong=1, named=("C1 = C2",))},
        "1 of 3 cis for trans",
        "unusable",
    ),
    "ring": ({"rings": Rings(1, ("bond a - b",))}, "no bond through a ring, found 1", "unusable"),
    "contact": (
        {"contacts": Contacts(0.5, 0.1, ("a", "b"), 0, 1, ("a and b",))},
        "found 1 pair nearer, the closest at 0.500",
        "unusable",
    ),
    "bond": ({"bonds": Deviation(99, 0.01, 0.1, "bond")}, "one 0.100 nm off", "unusable"),
    "bond a little": ({"bonds": Deviation(99, 0.01, 0.04, "bond")}, "one 0.040", "suspicious"),
    "bead": ({"beads": Deviation(20, 0.7, 0.8, "bead S4")}, "one 0.800 nm away", "unusable"),
    "one bead alone": (
        {"beads": Deviation(400, 400 * 0.05**2, 0.3, "bead S4")},
        "found one 0.300",
        "suspicious",
    ),
    "hot": ({"blocks": warm(2.0 * WARM)}, "found their energy to be that of 800 K", "unusable"),
    "warm": ({"blocks": warm(1.4 * WARM)}, "found their energy to be that of 560 K", "suspicious"),
    "cold": ({"blocks": warm(0.5 * WARM)}, "dynamics at that temperature warms them", "suspicious"),
    "strained": (
        {"blocks": warm(WARM, blocks=980) + warm(WARM, blocks=20, hottest=1.5 * WARM)},
        "found 20 blocks of 1000 beyond, of them 0",
        "unusable",
    ),
    "a few strained": (
        {"blocks": warm(WARM, blocks=994) + warm(WARM, blocks=6, hottest=1.5 * WARM)},
        "found 6 blocks of 1000 beyond",
        "suspicious",
    ),
    "broken": (
        {"blocks": warm(WARM, blocks=998) + warm(WARM, blocks=2, hottest=6 * WARM)},
        "of them 2 beyond 1600 K",
        "unusable",
    ),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_every_defect_is_said(case):
    change, sentence, severity = DEFECTS[case]
    found = verdict(replace(CLEAN, **change), WARM)
    assert [f.severity for f in found] == [severity]
    assert sentence in found[0].sentence
    line = judgement.one_line(found)
    if severity == "unusable":
        with pytest.raises(InputError, match=r"^x\.gro frame 3: expected .*keep-defects writes"):
            judgement.refuse("x.gro frame 3", found)
        judgement.refuse("x.gro frame 3", found, keep_defects=True)
        assert judgement.warning(found, quiet=False) == f"WARNING, unusable: {line}"
    else:
        judgement.refuse("x.gro frame 3", found)
        with pytest.raises(InputError):
            judgement.refuse("x.gro frame 3", found, strict=True)
        assert judgement.warning(found, quiet=False) == ""
        assert judgement.warning(found, quiet=True) == f"WARNING, suspicious: {line}"
    assert sentence in "\n".join(judgement.to_lines(found))


def test_energies_say_nothing_without_a_temperature():
    assert worst(verdict(replace(CLEAN, blocks=warm(5 * WARM)))) == "fine"


def test_few_degrees_of_freedom_may_be_off_by_chance():
    """A block of ten degrees has a spread of 45 %: half as hot again is no defect."""
    few = warm(1.5 * WARM, blocks=1)
    assert worst(verdict(replace(CLEAN, blocks=few), WARM)) == "fine"


def test_beads_may_move_as_far_as_they_are_allowed():
    moved = replace(CLEAN, beads=Deviation(20, 20 * 0.04**2, 0.1, "bead"))
    assert worst(verdict(moved, WARM)) == "fine"
    assert worst(verdict(moved, WARM, allowed=0.03)) == "unusable"


def test_the_gravest_comes_first_and_the_others_are_counted():
    bad = replace(CLEAN, rings=Rings(1, ("bond a - b",)), blocks=warm(0.5 * WARM))
    found = verdict(bad, WARM)
    assert [f.severity for f in found] == ["unusable", "suspicious"]
    line = judgement.one_line(found)
    assert "the first bond a - b" in line
    assert "(and 1 more finding)" in line
    fine = Finding("fine", "well")
    assert ordered([fine, found[1], found[0]])[0] == found[0]


@pytest.mark.parametrize("temperature", [568, 453, 313])
@pytest.mark.parametrize("mapped", [True, False])
def test_molecular_dynamics_is_fine_at_its_own_temperature_only(temperature, mapped):
    folder = reference_folder()
    topology = read_topology(folder / "topol.top")
    judge = Judge(topology, load_mapping("ps-two-bead").resolve(topology) if mapped else None)
    with read_frames(
        folder / "aa.gro", folder / f"test_{temperature}K_aa.xtc", frames=":3"
    ) as source:
        found = sum(judge.frame(frame, number=k) for k, frame in enumerate(source))
    assert [f.severity for f in verdict(found, float(temperature))] == ["fine"]
    assert found.blocks.temperature == pytest.approx(temperature, rel=0.08)
    assert worst(verdict(found, 0.6 * temperature)) == "unusable"
    assert worst(verdict(found, 1.5 * temperature)) == "suspicious"


def test_the_papers_own_structures_are_not_fine():
    """Too cold, bonds 0.1 nm off, hands wrong (docs of the reference data)."""
    folder = reference_folder()
    topology = read_topology(folder / "topol.top")
    with read_frames(folder / "aa.gro") as source:
        judge = Judge(topology, reference=source[0])
    with read_frames(
        folder / "aa.gro", folder / "test_568K_paper_deepbackmap.xtc", frames=":6"
    ) as source:
        found = sum(judge.frame(frame, number=k) for k, frame in enumerate(source))
    said = " ".join(f.sentence for f in verdict(found, 568.0))
    assert "expected every stereocentre of the right hand" in said
    assert "expected angles as at 568 K" in said
    assert found.blocks.temperature < 0.6 * 568.0
    assert found.hands.by_side > 0
    assert np.isfinite(found.bonds.rms)


def test_beads_that_were_moved_far_are_suspicious_before_they_are_unusable():
    def found(rms, **more):
        beads = Deviation(count=10, squares=10 * rms**2, largest=rms, where="bead A 1")
        return worst(verdict(replace(Figures(), beads=beads), **more))

    assert found(0.05) == "fine"
    assert found(0.07) == "suspicious"
    assert found(0.11) == "unusable"
    assert found(0.11, allowed=0.2) == "fine"


def test_stereochemistry_that_nobody_told_is_said():
    told = replace(Figures(), hands=Hands(known=3), double_bonds=DoubleBonds(known=2))
    assert judgement.of_unknown(told) == []
    rows = dict(judgement.figure_rows(told, "those read"))
    assert rows["double bonds"] == "0 of 2 cis for trans or trans for cis"
    assert "double bonds" not in dict(judgement.figure_rows(Figures(), ""))
    untold = replace(told, hands=Hands(unknown=4), double_bonds=DoubleBonds(unknown=60))
    first, second = judgement.of_unknown(untold)
    assert first.severity == second.severity == "suspicious"
    assert "every stereocentre, found 4 (over all frames)" in first.sentence
    assert "cis or trans of every double bond, found 60" in second.sentence
    assert "--like" in second.sentence
    rows = dict(judgement.figure_rows(untold, ""))
    assert rows["double bonds"] == "60, of which nothing says what is right"
