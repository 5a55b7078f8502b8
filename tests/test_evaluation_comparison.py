"""Floors, errors, densities, verdict and views of whole evaluations of a hand-made system."""

import json
import math
import re
from dataclasses import replace
from unittest.mock import patch

import jsonschema
import numpy as np
import pytest

from deepbackmap.errors import InputError
from deepbackmap.evaluation import Plan, Sample, evaluate_samples, measure, worst_molecules
from deepbackmap.evaluation.export import metrics_csv, metrics_json, metrics_schema, times_floor
from deepbackmap.evaluation.result import Estimate
from deepbackmap.evaluation.verdict import ENERGY_RATIO, Limits, judge, level
from evaluation_systems import structure
from test_evaluation_table import REFERENCE, SYSTEM, melt

PLAN = Plan.from_topology(SYSTEM)
MEASURED = measure(PLAN, REFERENCE)


def sample(name, frames):
    return Sample(name, f"{name}.xtc", measure(PLAN, frames), range(len(frames)))


RIGHT = Sample("reference", "reference.xtc", MEASURED, range(6))
SAME = Sample("same", "same.xtc", MEASURED, range(6))
OTHERS = sample("others", [melt(k) for k in range(20, 26)])
WARM = sample("warm", [melt(k, noise=0.016) for k in range(20, 24)])
MIRRORED = sample("mirrored", [melt(k, mirrored=True) for k in range(20, 23)])
with patch.multiple("deepbackmap.evaluation.comparison", SPLITS=20, RESAMPLES=40):
    WHOLE = evaluate_samples(PLAN, RIGHT, [SAME, OTHERS, WARM, MIRRORED], temperature=300.0, seed=3)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Every call below costs what the checks of types take."""
    monkeypatch.setattr("deepbackmap.evaluation.comparison.SPLITS", 10)
    monkeypatch.setattr("deepbackmap.evaluation.comparison.RESAMPLES", 5)


def figure(evaluation, name):
    (found,) = (f for f in evaluation.figures if f.name == name)
    return found


def method(evaluation, name):
    (found,) = (m for m in evaluation.methods if m.name == name)
    return found


def test_a_sample_is_at_every_target():
    for f in WHOLE.figures:
        value = f.methods["same"].value
        if math.isfinite(f.target) and f.name != "pairs closer than 0.6 sigma":
            assert value == pytest.approx(f.target), f.name
        if math.isfinite(f.reference):
            assert value == f.reference, f.name
    assert method(WHOLE, "same").score.value == 0.0
    # what frames show by themselves is said of the reference's own frames too
    compared = [s for s in method(WHOLE, "same").verdict if ": expected" not in s.text]
    assert compared
    assert all(s.level == "good" for s in compared)


def test_another_sample_of_the_ensemble_is_at_the_floor():
    """The floor is what independent frames of the same ensemble come to."""
    score = method(WHOLE, "others").score.value
    assert WHOLE.score_floor / 2 < score < 2 * WHOLE.score_floor
    assert method(WHOLE, "warm").score.value > 1.3 * WHOLE.score_floor


def test_the_floor_goes_as_the_numbers_of_frames():
    """Divergences as 1/n + 1/N, shifts as its root; halves of 6 are 3 and 3."""
    one = evaluate_samples(PLAN, RIGHT, [sample("x", [melt(30)])], seed=3)
    six = evaluate_samples(PLAN, RIGHT, [OTHERS], seed=3)
    quotient = (1 / 1 + 1 / 6) / (1 / 6 + 1 / 6)
    pairs = [(f, figure(six, f.name)) for f in one.figures if f.scored]
    assert len(pairs) == 7
    for a, b in pairs:
        assert a.floor == pytest.approx(quotient * b.floor), a.name
    assert one.score_floor == pytest.approx(quotient * six.score_floor)
    name = "LJ per chain, shift of the mean"
    assert figure(one, name).floor == pytest.approx(math.sqrt(quotient) * figure(six, name).floor)
    ratio = [figure(e, "angle energy, ratio").floor - 1.0 for e in (one, six)]
    assert ratio[0] == pytest.approx(math.sqrt(quotient) * ratio[1])


def test_the_error_is_that_of_a_mean():
    """The bootstrap of a mean over frames is the textbook's standard error."""
    energies = WARM.measured.energies["angle"].sum(axis=1) / 24
    found = figure(WHOLE, "angle energy of the system").methods["warm"]
    assert found.value == pytest.approx(energies.mean())
    assert found.error == pytest.approx(energies.std() / math.sqrt(len(energies)), rel=0.3)


def test_the_seed_decides_and_nothing_else():
    one, again, other = (evaluate_samples(PLAN, RIGHT, [WARM], seed=seed) for seed in (3, 3, 4))
    for a, b in zip(one.figures, again.figures, strict=True):
        assert repr(a) == repr(b)
    assert other.score_floor != one.score_floor
    assert [f.methods["warm"].value for f in other.figures if f.scored] == [
        f.methods["warm"].value for f in one.figures if f.scored
    ]


def test_densities_integrate_to_one():
    assert {d.name for d in WHOLE.distributions} >= {"angle F-C-H", "LJ per chain", "bond C-H"}
    for d in WHOLE.distributions:
        width = np.diff(d.edges)
        for density in (d.reference, *d.methods.values()):
            assert (density * width).sum() == pytest.approx(1.0), d.name
        assert (d.band[0] <= d.band[1]).all()
        assert np.mean((d.band[0] <= d.reference) & (d.reference <= d.band[1])) > 0.9, d.name


def test_every_distribution_and_curve_has_its_figure():
    names = {f.name for f in WHOLE.figures}
    assert len(names) == len(WHOLE.figures)
    assert {d.name for d in WHOLE.distributions} <= names
    assert {c.name for c in WHOLE.curves} <= names
    assert all(set(f.methods) == {"same", "others", "warm", "mirrored"} for f in WHOLE.figures)


def test_one_reference_frame_has_no_floor():
    alone = Sample("reference", "r.xtc", MEASURED.select([0]), [0])
    found = evaluate_samples(PLAN, alone, [OTHERS])
    assert math.isnan(found.score_floor)
    assert all(math.isnan(f.floor) for f in found.figures)
    assert all(np.isnan(d.band).all() for d in found.distributions)
    assert any("one frame only: there is no noise floor" in note for note in found.notes)


def test_one_generated_frame_has_no_error():
    found = evaluate_samples(PLAN, RIGHT, [sample("x", [melt(30)]), OTHERS])
    assert all(math.isnan(f.methods["x"].error) for f in found.figures)
    assert "One frame only, so no error: x." in found.notes
    assert any("different numbers of frames (x 1, others 6)" in note for note in found.notes)


def test_what_is_wrong_comes_first():
    worst = method(WHOLE, "mirrored").verdict[0]
    assert (worst.level, worst.text) == ("bad", "100 % of the stereocentres are inverted.")
    texts = [s.text for s in method(WHOLE, "warm").verdict if s.level == "bad"]
    ratio = figure(WHOLE, "angle energy, ratio").methods["warm"].value
    assert f"as at {300.0 * ratio:.0f} K instead of 300 K." in " ".join(texts)
    for m in WHOLE.methods:
        levels = [("bad", "fair", "good").index(s.level) for s in m.verdict]
        assert levels == sorted(levels)


def test_levels_have_their_limits():
    limits = Limits(0.1, 0.5)
    assert [level(v, limits) for v in (0.0, 0.1, 0.2, 0.5, 0.6, math.nan)] == [
        "good", "good", "fair", "fair", "bad", "bad",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "floor", "expected"),
    [(1.04, 1.0, "good"), (0.8, 1.01, "fair"), (0.5, 1.01, "bad"), (0.5, 1.2, "good")],
)
def test_within_three_floors_all_is_good(value, floor, expected):
    figures = [
        replace(f, floor=floor, methods={"x": Estimate(value, 0.0)})
        if f.name == "angle energy, ratio"
        else replace(f, methods={"x": f.methods["same"]})
        for f in WHOLE.figures
    ]
    said = judge("x", figures, Estimate(0.0, 0.0), 0.01, n_atoms=120)
    (sentence,) = (s for s in said if s.text.startswith("Angles"))
    assert sentence.level == expected
    assert ENERGY_RATIO.good == 0.05


def squeezed(frame, amount):
    """The frame with the first two molecules' halogens pushed towards each other."""
    positions = frame.positions.copy()
    first, second = positions[4], positions[9]
    inverse = np.linalg.inv(frame.box)
    apart = second - first
    apart -= np.rint(apart @ inverse) @ frame.box
    shift = apart * (1.0 - amount / np.linalg.norm(apart))
    positions[:5] += shift
    return structure(positions, frame.box)


def test_overlaps_are_named():
    frames = [melt(40), squeezed(melt(41), 0.015)]
    found = evaluate_samples(PLAN, RIGHT, [sample("x", frames)])
    sentence = found.methods[0].verdict[0]
    assert sentence.level == "bad"
    assert "0.5 pairs a frame closer than 0.02 nm, the nearest 0.015 nm apart in frame 1: Br5" in (
        sentence.text
    )
    assert "(atom 5) of molecule 1 (MOL)" in sentence.text
    assert "(atom 10) of molecule 2 (MOL)" in sentence.text


def test_atoms_on_top_of_each_other_are_refused():
    with pytest.raises(InputError, match=r"x.xtc, frame 8: .* found Br5 \(atom 5\) .*nm from each"):
        measure(PLAN, [squeezed(melt(41), 0.0005)], source="x.xtc", numbers=[8])


def test_atoms_in_another_order_are_refused():
    positions = melt(41).positions.reshape(24, 5, 3).transpose(1, 0, 2).reshape(-1, 3)
    with pytest.raises(InputError, match="are the atoms in the order of the topology"):
        measure(PLAN, [structure(positions, melt(41).box)])


def test_a_box_must_hold_the_cutoff_twice():
    with pytest.raises(InputError, match=r"frames, frame 1: expected a box of at least 2 nm"):
        measure(PLAN, [structure(melt(41).positions, np.diag([3.0, 3.0, 1.9]))])


def test_the_worst_molecules_are_shown():
    frames = [melt(60), squeezed(melt(61), 0.12), melt(62, mirrored=True)]
    generated = measure(PLAN, frames)
    views = worst_molecules(PLAN, "x", MEASURED, generated, frames.__getitem__, np.array([5, 6, 9]))
    top = views[0]
    assert (top.method, top.frame, top.name) == ("x", 6, "MOL")
    assert {views[0].molecule, views[1].molecule} == {1, 2}
    assert top.reason.startswith("LJ +")
    contact = re.search(r"contact at (0\.\d\d) sigma", top.reason)
    assert contact is not None
    assert float(contact[1]) == pytest.approx(generated.closest[1], abs=0.005)
    assert float(contact[1]) <= 0.4
    assert top.marked
    assert top.elements == ("C", "H", "F", "Cl", "Br")
    lengths = np.linalg.norm(np.diff(top.positions[top.bonds], axis=1), axis=-1)
    assert lengths == pytest.approx(0.15, abs=0.04)  # whole, though the frame is scattered
    hands = [v for v in views if "1 inverted stereocentre" in v.reason]
    assert len(hands) >= 2
    assert all(v.frame == 9 and 0 in v.marked for v in hands)


def test_metrics_json_follows_its_schema():
    views = worst_molecules(
        PLAN, "warm", MEASURED, WARM.measured, lambda k: melt(20 + k, noise=0.016), np.arange(4)
    )
    shown = evaluate_samples(PLAN, RIGHT, [replace(WARM, worst=views), MIRRORED], seed=1)
    schema = metrics_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(metrics_json(shown, None, "deepbackmap 0"))
    jsonschema.validate(content, schema)
    assert content["structure_map"] is None
    assert content["methods"][0]["worst"][0]["reason"] == views[0].reason
    by_name = {f["name"]: f for f in content["figures"]}
    for f in shown.figures:
        written = by_name[f.name]["methods"]["warm"]["value"]
        value = f.methods["warm"].value
        assert written == (value if math.isfinite(value) else None), f.name
    alone = evaluate_samples(PLAN, replace(RIGHT, measured=MEASURED.select([0])), [MIRRORED])
    content = json.loads(metrics_json(alone, None, "deepbackmap 0"))
    jsonschema.validate(content, schema)
    assert content["score_floor"] is None
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "more": 1}, schema)


def test_metrics_csv_has_a_line_for_each_figure_and_method():
    lines = metrics_csv(WHOLE).splitlines()
    assert len(lines) == 1 + 4 * (1 + len(WHOLE.figures))
    head = lines[0].split(",")
    score = dict(zip(head, lines[3].split(","), strict=True))
    assert (score["figure"], score["method"], score["frames"]) == ("score", "warm", "4")
    assert float(score["value"]) == pytest.approx(method(WHOLE, "warm").score.value)
    assert float(score["times_floor"]) == pytest.approx(
        method(WHOLE, "warm").score.value / WHOLE.score_floor, rel=1e-6
    )


def test_times_the_floor():
    assert times_floor(0.06, 0.0, 0.02) == pytest.approx(3.0)
    assert times_floor(0.5, 1.0, 1.1) == pytest.approx(5.0)
    assert math.isnan(times_floor(0.5, 0.0, 0.0))
    assert math.isnan(times_floor(0.5, 0.0, math.nan))


def test_figures_keep_their_names():
    """The schema's promise: what a reader of metrics.json looks up stays where it is."""
    names = {f.name for f in WHOLE.figures}
    assert names >= {
        "LJ per chain",
        "LJ per chain, inter",
        "LJ per chain, shift of the mean",
        "angle energy, ratio",
        "angle energy of the system",
        "g(r), mean absolute error",
        "smallest distance of a non-bonded pair",
        "pairs closer than 0.6 sigma",
        "overlapping pairs",
        "inverted stereocentres",
        "bonds through rings",
        "bond length deviation, rms",
    }
