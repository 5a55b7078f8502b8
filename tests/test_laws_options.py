"""Every option of every method: its range holds, it is written and read, and it stands alone."""

import dataclasses
import math

import pytest
import yaml

from deepbackmap.config import dump_config, load_train_config, presets
from deepbackmap.data.options import DataOptions
from deepbackmap.errors import InputError
from deepbackmap.methods import METHODS, find_options
from deepbackmap.methods.options import Ramp
from deepbackmap.methods.physics.vacuum import VacuumOptions
from deepbackmap.methods.points.options import PointNetworkOptions, PointOptions
from deepbackmap.methods.voxel.options import NetworkOptions, VoxelOptions
from deepbackmap.similarity.options import MapOptions

TRAINED = [name for name in METHODS if name != "physics"]
CLASSES = [
    VoxelOptions, NetworkOptions, PointOptions, PointNetworkOptions, Ramp,
    *(find_options(name).sampling for name in METHODS),
    *(find_options(name).training for name in TRAINED),
]  # fmt: skip
RANGES = [(cls, f) for cls in CLASSES for f in dataclasses.fields(cls) if "range" in f.metadata]


def name_of(pair):
    return pair.__name__ if isinstance(pair, type) else getattr(pair, "name", None)


@pytest.mark.parametrize(("cls", "field"), RANGES, ids=name_of)
def test_ends_of_a_range_are_taken_and_what_lies_beyond_is_not(cls, field):
    low, high = field.metadata["range"]
    for value in (low, high):
        assert getattr(cls(**{field.name: value}), field.name) == value
    if isinstance(low, int) and isinstance(high, int):
        beyond = [low - 1, high + 1]
    else:
        near = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
        beyond = [*near, math.nan, math.inf, -math.inf]
    for value in beyond:
        with pytest.raises(ValueError, match=rf"^{field.name}: expected a .* from"):
            cls(**{field.name: value})


@pytest.mark.parametrize(("cls", "field"), RANGES, ids=name_of)
def test_a_default_lies_in_its_range(cls, field):
    low, high = field.metadata["range"]
    assert low <= field.default <= high
    assert isinstance(field.default, int) == (isinstance(low, int) and isinstance(high, int))


@pytest.mark.parametrize("cls", CLASSES, ids=name_of)
def test_options_cannot_be_changed_afterwards(cls):
    made = cls()
    name = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, getattr(made, name))
    assert made == cls()
    assert len({made, cls()}) == 1


def leaves(values, path=()):
    """Every option of nested sections by its way."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def other(value):
    """Another value of the same kind that stays in every range, or None."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 0.5 if isinstance(value, float) and value else None


def option_cases():
    found = []
    for name in ("paper", "points"):
        for way, value in leaves(load_train_config(name).sections()):
            if way[0] != "data" and other(value) is not None:
                found.append((name, way, value))
    return found


@pytest.mark.parametrize(("preset", "way", "value"), option_cases(),
                         ids=lambda v: ".".join(v) if isinstance(v, tuple) else None)  # fmt: skip
def test_an_option_changes_itself_and_nothing_else(preset, way, value, tmp_path):
    changed = load_train_config(preset, [f"{'.'.join(way)}={other(value)}"])
    before = dict(leaves(load_train_config(preset).sections()))
    after = dict(leaves(changed.sections()))
    assert {k for k in before if before[k] != after[k]} == {way}
    assert after[way] == other(value)
    (tmp_path / "c.yaml").write_text(dump_config(changed))
    assert load_train_config(tmp_path / "c.yaml") == changed


@pytest.mark.parametrize("preset", presets())
def test_a_preset_written_out_is_the_preset(preset, tmp_path):
    whole = load_train_config(preset)
    (tmp_path / "c.yaml").write_text(dump_config(whole))
    assert load_train_config(tmp_path / "c.yaml") == whole
    values = yaml.safe_load((tmp_path / "c.yaml").read_text())
    shuffled = dict(reversed(list(values.items())))
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(shuffled, sort_keys=False))
    assert load_train_config(tmp_path / "d.yaml") == whole


@pytest.mark.parametrize("preset", presets())
def test_later_options_win_and_their_order_does_not_matter_else(preset):
    first = load_train_config(preset, ["training.seed=3", "training.seed=4", "training.warmup=7"])
    second = load_train_config(preset, ["training.warmup=7", "training.seed=4"])
    assert first == second
    assert first.training.seed == 4


@pytest.mark.parametrize("preset", presets())
def test_a_key_that_nobody_knows_is_refused_in_every_section(preset):
    for section, value in load_train_config(preset).sections().items():
        if isinstance(value, dict):
            with pytest.raises(InputError, match=rf"unknown key '{section}\.nobody'"):
                load_train_config(preset, [f"{section}.nobody=1"])
    with pytest.raises(InputError, match="unknown key 'nobody'"):
        load_train_config(preset, ["nobody=1"])


@pytest.mark.parametrize("value", ["[]", "{}", "null", "[1]", "text", "2020-01-01", "!!binary x"])
@pytest.mark.parametrize("key", ["training.batch", "training.learning_rate", "data.temperature"])
def test_a_value_of_another_kind_is_refused(key, value):
    with pytest.raises(InputError, match=key.rpartition(".")[2] + "|YAML"):
        load_train_config("tiny", [f"{key}={value}"])


@pytest.mark.parametrize("number", [0, 1, 499, 500, 501, 1e6])
def test_a_ramp_is_monotone_between_its_ends(number):
    ramp = Ramp(0.25, 2.0, 100, 500)
    found = ramp.at(int(number))
    assert 0.25 <= found <= 2.0
    assert ramp.at(int(number) + 1) >= found
    assert Ramp(0.25, 2.0, 500, 500).at(int(number)) == (2.0 if number >= 500 else 0.25)
    assert Ramp.from_number(0.7).at(int(number)) == 0.7


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in METHODS for b in METHODS if a != b])
def test_options_that_another_method_alone_has_are_refused(first, second):
    mine, theirs = find_options(first).sampling, find_options(second).sampling
    foreign = set(theirs.names()) - set(mine.names())
    for name in foreign:
        with pytest.raises(InputError, match=rf"^{name}: expected an option of the method {first}"):
            find_options(first).sampling_options({name: 1}, {}, "m")
    shared = set(theirs.names()) & set(mine.names())
    assert {"seed", "sweeps", "temperature", "batch"} <= shared


@pytest.mark.parametrize(("name", "value"), [
    ("temperature", -1.0), ("temperature", math.nan), ("temperature", 1e9), ("picoseconds", 0.0),
    ("picoseconds", math.inf), ("every", -1.0), ("every", math.nan), ("dynamics", "x"),
    ("dynamics", "300,nan"), ("dynamics", "300,-1"),
])  # fmt: skip
def test_data_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        DataOptions(**{name: value})


@pytest.mark.parametrize(("text", "expected"), [
    ("", ()), ("300", (300.0,)), ("568,430,313", (568.0, 430.0, 313.0)),
    (" 300 , 400 ", (300.0, 400.0)),
])  # fmt: skip
def test_temperatures_are_read_with_commas(text, expected):
    assert DataOptions(dynamics=text).temperatures() == expected


@pytest.mark.parametrize("name", ["cutoff", "n_max", "alpha", "structures", "width", "zeta"])
def test_map_options_that_cannot_be_are_refused(name):
    kind = type(getattr(MapOptions(), name))
    for value in (-1, 0):
        with pytest.raises(ValueError, match=name):
            MapOptions(**{name: kind(value)})


def test_options_of_conformations_are_positive():
    fields = dataclasses.fields(VacuumOptions)
    assert fields
    for field in fields:
        if field.default is not dataclasses.MISSING and isinstance(field.default, (int, float)):
            assert field.default >= 0
