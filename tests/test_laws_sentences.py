"""What is said about input and results: verdicts that get no better as figures get worse, errors
gathered, options that cannot be, and what is asked of a model and a system."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small_polystyrene as ps
from deepbackmap.api.files import check_names_used, spare_inputs, spare_inputs_beside
from deepbackmap.api.fits import refuse_unknown_types, resolve_for
from deepbackmap.api.judgement import figure_rows, one_line, refuse, to_lines, warning
from deepbackmap.data.systems import TrainingSystem, map_whole, only, types_of
from deepbackmap.dynamics.settled import settle, settle_all
from deepbackmap.errors import InputError, InputErrors, Stopped, together
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.metrics import shift_of_mean
from deepbackmap.evaluation.result import Estimate, Figure
from deepbackmap.evaluation.usable import Finding, ordered, worst
from deepbackmap.evaluation.verdict import (
    BEADS,
    BENT,
    BONDS,
    CLASHES,
    DIVERGENCE,
    ENERGY_RATIO,
    LABELS,
    LJ_SHIFT,
    ORDER,
    RDF,
    judge,
)
from deepbackmap.mapping import MappingFile
from deepbackmap.methods.compose import compose
from deepbackmap.methods.options import (
    SamplingOptions,
    TrainingOptions,
    correlation_time,
)
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.model.header import read_spec, to_text
from deepbackmap.system import Structure

# --- verdicts -------------------------------------------------------------------------------------

ROWS = {
    "overlapping pairs": ("contacts", 0.0, 0.0, False),
    "bonds through rings": ("rings", 0.0, 0.0, False),
    "inverted stereocentres": ("stereochemistry", 0.0, 0.0, False),
    "pairs closer than 0.6 sigma": ("contacts", math.nan, 0.2, False),
    "smallest distance of a non-bonded pair": ("contacts", math.nan, 0.7, False),
    "bent rings": ("rings", math.nan, 0.05, False),
    "LJ energy": ("energies", 0.0, math.nan, True),
    "LJ energy, shift of the mean": ("energies", 0.0, math.nan, False),
    "LJ energy, shift of the median": ("energies", 0.0, math.nan, False),
    "angle energy, ratio": ("energies", 1.0, math.nan, False),
    "bond C-C": ("bonds", 0.0, math.nan, True),
    "bond length deviation, rms": ("bonds", math.nan, 0.004, False),
    "bond length deviation, largest": ("bonds", math.nan, 0.02, False),
    "g(r), mean absolute error": ("structure", 0.0, math.nan, False),
    "re-mapped beads, rms distance": ("beads", 0.0, math.nan, False),
    "swapped prochiral hydrogens": ("stereochemistry", 0.0, 0.0, False),
}
"""Group, target, value of the reference, and whether it is scored."""
OPENINGS = {
    "overlapping pairs": ("Atoms overlap", 0.0),
    "bonds through rings": ("through", 0.0),
    "inverted stereocentres": ("stereocentre", 0.0),
    "pairs closer than 0.6 sigma": ("0.6 sigma", CLASHES.fair),
    "bent rings": ("lat rings", BENT.fair),
    "LJ energy, shift of the mean": ("the mean is", LJ_SHIFT.fair),
    "angle energy, ratio": ("Angles", ENERGY_RATIO.fair),
    "bond C-C": ("Score", DIVERGENCE.fair),
    "bond length deviation, rms": ("Bonds are", BONDS.fair),
    "g(r), mean absolute error": ("g(r)", RDF.fair),
    "re-mapped beads, rms distance": ("Atoms map back", BEADS.fair),
    "swapped prochiral hydrogens": ("paired hydrogens", LABELS.good),
}
"""What the sentence about a figure holds, and a departure that is large for it."""


def figures(**changes):
    """Those of a perfect method, some of them changed."""
    found = []
    for name, (group, target, reference, scored) in ROWS.items():
        perfect = target if math.isfinite(target) else reference
        value = changes.get(name, perfect)
        estimate = {"x": Estimate(value, 0.0)}
        found.append(Figure(name, group, "", target, scored, reference, math.nan, estimate))
    return found


def said(**changes):
    return judge("x", figures(**changes), Estimate(0.0, 0.0), math.nan, n_atoms=10_000)


def test_a_perfect_method_is_good_in_every_sentence():
    sentences = said()
    assert {s.level for s in sentences} == {"good"}
    assert len(sentences) >= 9
    assert any("Every stereocentre has the reference's hand." in s.text for s in sentences)


@pytest.mark.parametrize("name", OPENINGS)
def test_a_verdict_gets_no_better_as_a_figure_gets_worse(name):
    """And nothing else that it says changes, and what is not a number is never good."""
    opening, large = OPENINGS[name]
    _group, target, reference, _ = ROWS[name]
    start = target if math.isfinite(target) else reference
    others = {s.text for s in said() if opening not in s.text}
    levels = []
    for step in (0.0, 0.2, 0.5, 1.0, 1.5, 4.0, 40.0):
        sentences = said(**{name: start + step * max(large, 1e-3)})
        mine = [s for s in sentences if opening in s.text]
        levels.append(max((2 - ORDER.index(s.level) for s in mine), default=0))
        assert {s.text for s in sentences} - {s.text for s in mine} >= others
        order = [ORDER.index(s.level) for s in sentences]
        assert order == sorted(order)
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert levels[-1] == (1 if name == "swapped prochiral hydrogens" else 2)
    broken = [s for s in said(**{name: math.nan}) if "nan" in s.text]
    assert all(s.level == "bad" for s in broken)


def test_too_cold_is_as_bad_as_too_hot():
    """The ratio of energies counts by its distance from one, in both directions."""
    for off in (0.03, 0.1, 0.4):
        levels = {
            s.level for sign in (1, -1) for s in said(**{"angle energy, ratio": 1 + sign * off})
            if s.text.startswith("Angles")
        }  # fmt: skip
        assert len(levels) == 1
    cold = judge("x", figures(**{"angle energy, ratio": 0.6}), Estimate(0.0, 0.0), math.nan,
                 n_atoms=10, temperature=500.0)  # fmt: skip
    assert "too cold" in cold[0].text and "as at 300 K instead of 500 K" in cold[0].text


def test_what_frames_show_by_themselves_is_said_with_the_rest():
    findings = (Finding("suspicious", "beads moved"), Finding("unusable", "torn", ("frame 3",)),
                Finding("fine", "nothing"))  # fmt: skip
    sentences = judge("x", figures(), Estimate(0.0, 0.0), math.nan, n_atoms=10, findings=findings)
    assert (sentences[0].level, sentences[0].text) == (
        "bad",
        "Not usable: torn, the first frame 3.",
    )
    assert (sentences[1].level, sentences[1].text) == ("fair", "To be looked at: beads moved.")
    assert not any("nothing" in s.text for s in sentences)


def test_findings_are_one_line_or_many_and_stop_what_cannot_be_used():
    grave, mild = Finding("unusable", "torn", ("atom 1", "atom 2")), Finding("suspicious", "warm")
    fine = Finding("fine", "nothing found")
    assert worst(()) == "fine"
    assert ordered((fine, mild, grave)) == (grave, mild, fine)
    assert one_line((mild, grave, fine)) == "torn, the first atom 1 (and 1 more finding)"
    assert one_line((mild, grave, mild)) == "torn, the first atom 1 (and 2 more findings)"
    assert one_line((fine,)) == "nothing found"
    assert to_lines((fine, mild, grave)) == [
        "  WARNING: warm", "  WARNING, not usable: torn", "    atom 1", "    atom 2",
    ]  # fmt: skip
    many = Finding("unusable", "torn", tuple(f"atom {k}" for k in range(9)))
    assert len(to_lines((many,))) == 4
    assert warning((mild,), quiet=False) == ""
    assert warning((mild,), quiet=True) == "WARNING, suspicious: warm"
    assert warning((grave,), quiet=False).startswith("WARNING, unusable: torn")
    with pytest.raises(Stopped, match=r"^a\.gro frame 2: torn, .* keep-defects writes it all"):
        refuse("a.gro frame 2", (grave,))
    refuse("a.gro", (grave,), keep_defects=True)
    refuse("a.gro", (mild,))
    with pytest.raises(Stopped, match="warm"):
        refuse("a.gro", (mild,), strict=True)


def test_rows_of_figures_of_nothing_say_so():
    rows = dict(figure_rows(Figures(), "the model"))
    assert rows["closest contact"] == "no pair nearer than its sigma"
    assert rows["stereocentres"] == "none"
    assert "re-mapped beads" not in rows


# --- errors gathered ------------------------------------------------------------------------------


def test_errors_are_said_once_and_one_alone_as_it_is():
    a, b = (
        InputError("a: expected b, found c"),
        InputError("d: expected e, found f\nlines\nto copy"),
    )
    assert str(together("{} mistakes", [a])) == str(a)
    assert str(together("{} mistakes", [a, a])) == str(a)
    both = together("{} mistakes", [a, b, a])
    assert isinstance(both, InputErrors)
    assert str(both).splitlines()[0] == "2 mistakes:"
    assert both.problems == ("a: expected b, found c", "d: expected e, found f")
    assert str(both).endswith("lines\nto copy")
    again = together("{} in all", [both, InputError("g")])
    assert again.problems == (*both.problems, "g")
    assert again.more == "lines\nto copy"


# --- a model, a mapping, a system -----------------------------------------------------------------


def spec(**changes):
    return dataclasses.replace(ps.specification(), **changes)


def test_a_system_that_the_model_does_not_know_is_told_the_ways_out():
    text = spec().mapping.replace("PS", "XX")
    file = MappingFile.from_text(text, "the model's mapping")
    topology = ps.mapping().topology
    with pytest.raises(InputErrors) as caught:
        resolve_for(file, topology, Path("m.safetensors"), own=True)
    lines = str(caught.value).splitlines()
    assert "expected a system that the model knows (residues XX" in lines[0]
    assert "--mapping" in lines[-2] and "--model none" in lines[-1]
    with pytest.raises(InputError) as plain:  # a mapping of one's own: its own words
        resolve_for(file, topology, Path("m.safetensors"), own=False)
    assert "the model knows" not in str(plain.value)
    good = MappingFile.from_text(spec().mapping, "m")
    assert resolve_for(good, topology, None, own=True).n_beads == ps.mapping().n_beads


def test_types_that_a_model_never_saw_are_named_all_at_once():
    system, model = ps.mapping(), Path("m.safetensors")
    refuse_unknown_types(spec(), system, model)
    with pytest.raises(InputError, match="atom type H_AR is unknown to the model") as caught:
        refuse_unknown_types(spec(atom_types=("C", "C_AR", "H")), system, model)
    assert "which was trained on C, C_AR, H" in str(caught.value)
    assert "model m.safetensors: train one of your own" in str(caught.value)
    with pytest.raises(InputErrors) as several:
        refuse_unknown_types(spec(atom_types=("C",), bead_types=("A",)), system, model)
    said_of = " ".join(several.value.problems)
    assert "atom type C_AR, H, H_AR" in said_of and "bead type B" in said_of


def test_outputs_are_no_inputs_whatever_they_are_called(tmp_path, monkeypatch):
    a, b = tmp_path / "a.gro", tmp_path / "b.gro"
    a.write_text("x")
    (tmp_path / "link.gro").symlink_to(a)
    monkeypatch.chdir(tmp_path)
    spare_inputs(b, a, None, "ps-two-bead")
    for output in (a, "a.gro", "./a.gro", tmp_path / "link.gro"):
        with pytest.raises(InputError, match="expected an output that is none of the inputs"):
            spare_inputs(output, b, [a])
    record = tmp_path / "b.gro.json"
    record.write_text("{}")
    with pytest.raises(InputError, match=r"b\.gro\.json"):  # the record beside the output
        spare_inputs(b, record)
    with pytest.raises(InputError, match="another file than the output, found the same"):
        spare_inputs_beside("./b.gro", b, a)
    with pytest.raises(InputError, match="none of the inputs"):
        spare_inputs_beside(a, b, f"{tmp_path / 'c.yaml'};{a}")
    with pytest.raises(InputError, match="found that it holds"):
        spare_inputs(tmp_path, a)


def test_a_structure_that_would_name_nothing_is_refused():
    check_names_used("names.gro", "a.xtc", "b.gro")
    check_names_used(None, "b.gro")
    with pytest.raises(InputError, match="leave it out"):
        check_names_used("names.gro", "b.gro", None, "c.pdb")


# --- options --------------------------------------------------------------------------------------


def test_keys_that_are_none_and_values_of_other_types_are_refused_with_their_place():
    for values, match in (
        (
            {"iterations": 5, "batches": 2},
            "c.yaml: unknown key 'batches', expected one: iterations",
        ),
        ({"iterations": "many"}, "c.yaml: 'iterations' expected int, found 'many'"),
        ({"iterations": 2.0}, "'iterations' expected int, found 2.0"),
        ({"decay": 1}, "'decay' expected bool, found 1"),
        ({"learning_rate": True}, "'learning_rate' expected float, found True"),
        ({"iterations": 0}, "c.yaml: iterations: expected a whole number from 1"),
        ([1, 2], "expected a section of keys, found"),
    ):
        with pytest.raises(InputError) as caught:
            compose(TrainingOptions, values, "c.yaml")
        assert match in str(caught.value)
    made = compose(TrainingOptions, {"learning_rate": "1e-4", "jitter": 0}, "c.yaml")
    assert (made.learning_rate, made.jitter) == (1e-4, 0.0)


def test_noise_is_of_a_frame_of_all_or_of_a_time():
    assert correlation_time("frame") == 0.0
    assert correlation_time("shared") == math.inf
    assert correlation_time("ou:12.5") == 12.5
    for bad in ("", "ou", "ou:", "ou:-1", "ou:nan", "ou:inf", "white", "frame:3"):
        with pytest.raises(ValueError, match="noise: expected frame, shared, or ou:TAU"):
            correlation_time(bad)
    for bad in (0.0, -3.0, math.nan, 1e5):
        with pytest.raises(ValueError, match="temperature: expected a positive number"):
            SamplingOptions(temperature=bad)


def test_specifications_come_back_from_their_text_and_cannot_say_what_cannot_be(tmp_path):
    one = spec(temperatures=(300.0, 500.0), handedness={"A:0": [1, -1]})
    assert one.known_temperatures == (300.0, 500.0)
    assert spec().known_temperatures == (500.0, 500.0)
    assert json.loads(to_text(one))["temperatures"] == [300.0, 500.0]
    assert to_text(one) == to_text(replace(one))
    for change, match in (
        ({"temperatures": (300.0, 0.0)}, "temperatures: expected kelvins from 0.001"),
        ({"temperature": math.nan}, "temperature: expected a number"),
        ({"reach": 11.0}, "reach: expected a number from 0 to 10"),
        ({"handedness": {"A:0": [1]}}, "handedness of A:0: expected two signs"),
        ({"handedness": {"A:0": [1, 2]}}, "handedness of A:0: expected two signs"),
    ):
        with pytest.raises(ValueError, match=match):
            spec(**change)
    (tmp_path / "m.safetensors").write_bytes(b"no model")
    with pytest.raises(InputError, match="not a readable safetensors model file"):
        read_spec(tmp_path / "m.safetensors")
    assert isinstance(one, ModelSpec)


# --- training data --------------------------------------------------------------------------------


def test_training_frames_have_their_beads_their_reach_and_their_bonds():
    frames = [ps.atoms(k) for k in range(2)]
    system = ps.training_system(frames)
    owner = ps.blocks().atom_owner.numpy()
    far = [
        np.linalg.norm(f.positions - b[owner], axis=1).max()
        for f, b in zip(frames, system.beads, strict=True)
    ]
    assert system.reach == pytest.approx(max(far))
    assert not system.rigid  # the builder's chains with noise on them
    wrapped = Structure(frames[0].positions + 7 * frames[0].box[0], frames[0].box)
    np.testing.assert_allclose(
        map_whole(wrapped, ps.mapping()), system.beads[0] + 7 * frames[0].box[0], atol=1e-9
    )
    with pytest.raises(ValueError, match=r"as many beads and temperatures as structures \(2\)"):
        TrainingSystem(ps.mapping(), tuple(frames), system.beads, (300.0,))
    assert only([system]) is system
    for several in ([], [system, system]):
        with pytest.raises(InputError, match=f"expected one system, found {len(several)}"):
            only(several)
    assert types_of([system]) == (ps.TYPES, ps.BEAD_TYPES)
    assert types_of([system, system]) == types_of([system])


# --- series ---------------------------------------------------------------------------------------


def test_judging_a_series_knows_neither_its_unit_nor_its_zero():
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.normal(size=600)) * 0.02 + rng.normal(size=600)
    series[:60] += 12.0 * np.exp(-np.arange(60) / 10)
    first = settle(series)
    for factor, shift in ((4.184, 0.0), (1.0, -1e4), (-2.0, 3.0)):
        other = settle(factor * series + shift)
        assert (other.state, other.start) == (first.state, first.start)
        assert other.mean == pytest.approx(factor * first.mean + shift)
        assert other.error == pytest.approx(abs(factor) * first.error)
        assert other.independent == pytest.approx(first.independent)
    assert settle_all({"a": series}) == {"a": first}
    with pytest.raises(ValueError, match="series: expected finite samples"):
        settle(np.array([1.0, math.nan, 2.0]))
    with pytest.raises(ValueError, match="expected values that differ, got 3 equal ones"):
        shift_of_mean(np.ones(3), np.ones(3))
