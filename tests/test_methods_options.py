"""Options of sampling: those of another method, or without effect, are refused by name."""

import dataclasses

import pytest

from deepbackmap.errors import InputError
from deepbackmap.methods import METHODS, find_options
from deepbackmap.methods.options import check_ranges, ranged

POINTS, VOXEL = find_options("points"), find_options("voxel")


@pytest.mark.parametrize(
    ("method", "given"),
    [
        (POINTS, {"choice": "boltzmann"}), (POINTS, {"candidates": 1}),
        (POINTS, {"block_relaxation": 3}), (VOXEL, {"steps": 4}), (VOXEL, {"cold_start": 0.5}),
        (VOXEL, {"relaxation": 20}),
    ],
    ids=str,
)  # fmt: skip
def test_an_option_of_the_other_method_is_refused_by_name(method, given):
    (name,) = given
    words = f"^{name}: expected an option of the method {method.name} \\(sweeps, .*which model m is"
    with pytest.raises(InputError, match=words):
        method.sampling_options(given, {}, "m")
    assert method.sampling_options(dict.fromkeys(given), {}, "m") == method.sampling()


@pytest.mark.parametrize(
    ("method", "given", "defaults", "words"),
    [
        (POINTS, {"cold_start": 0.5}, {}, "cold_start: expected a relaxation of 1 or more steps"),
        (POINTS, {"cold_start": 0.5, "relaxation": 0}, {"relaxation": 9}, "cold_start: expected"),
        (VOXEL, {"choice": "lowest"}, {}, "choice: expected several candidates to choose from"),
        (VOXEL, {"temperature": 300.0, "choice": "lowest"}, {}, "temperature: expected choice"),
        (VOXEL, {"temperature": 300.0, "candidates": 1}, {}, "temperature: expected choice"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(method, given, defaults, words):
    with pytest.raises(InputError, match=words):
        method.sampling_options(given, defaults, "m")


def test_a_models_defaults_must_be_options_of_its_method():
    with pytest.raises(InputError, match="m: expected defaults among the options of the method"):
        POINTS.sampling_options({}, {"candidates": 3}, "m")
    with pytest.raises(InputError, match=r"(?s)steps.*defaults of m\)"):
        POINTS.sampling_options({}, {"steps": "many"}, "m")


def test_what_is_given_goes_before_what_the_model_has():
    found = POINTS.sampling_options({"sweeps": 2}, {"sweeps": 1, "steps": 6}, "m")
    assert (found.sweeps, found.steps) == (2, 6)


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_every_option_has_a_range(name):
    """Its default is inside, and what is not a number is outside."""
    method = find_options(name)
    for cls in (method.training, method.sampling):
        numbers = [f for f in dataclasses.fields(cls) if type(f.default) in (int, float)]
        assert len(numbers) > 3
        for f in numbers:
            low, high = f.metadata["range"]
            assert low <= f.default <= high
            for value in (float("nan"), float("inf"), high * 2 + 1, low - 1):
                made = cls()
                object.__setattr__(made, f.name, value)
                with pytest.raises(ValueError, match=f"^{f.name}: expected a"):
                    check_ranges(made)


def test_a_whole_number_is_not_a_fraction_or_a_truth():
    @dataclasses.dataclass
    class Some:
        count: object = ranged(1, 0, 5)

    for value in (2.0, True, "3", None):
        with pytest.raises(ValueError, match="count: expected a whole number from 0 to 5, got"):
            check_ranges(Some(value))
    check_ranges(Some(5))
