"""Configuration: presets, strict keys and types, overrides, paths, round trip."""

import dataclasses
import re
from pathlib import Path

import pytest

from deepbackmap.config import TrainConfig, dump_config, load_train_config, presets
from deepbackmap.data.options import DataOptions
from deepbackmap.errors import InputError
from deepbackmap.methods.options import Ramp
from deepbackmap.methods.voxel.options import OPTIONS, VoxelModelOptions, VoxelTrainingOptions


def write(folder, text):
    path = folder / "train.yaml"
    path.write_text(text)
    return path


def test_packaged_presets_load():
    assert {"paper", "authors-small", "small", "tiny"} <= set(presets())
    for name in presets():
        assert isinstance(load_train_config(name), TrainConfig)


def test_paper_preset_is_the_paper():
    config = load_train_config("paper")
    network, training = config.model.network, config.training
    assert (network.architecture, network.channels, network.noise) == ("residual", 128, 256)
    assert (training.iterations, training.batch, training.critic_steps) == (38_660, 36, 5)
    assert (training.learning_rate, training.critic_learning_rate) == (5e-5, 1e-4)
    assert (training.beta1, training.beta2, training.penalty) == (0.0, 0.9, 0.1)
    assert [training.prior.at(i) for i in (0, 6_000, 8_000, 10_000)] == [0, 0, 0.005, 0.01]
    assert (training.score.at(0), training.adversarial.at(0)) == (0.0, 1.0)
    assert (config.model.voxel.voxels, config.model.voxel.edge, config.model.voxel.width) == (
        8,
        1.2,
        0.1,
    )


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load_train_config(write(tmp_path, "")) == TrainConfig(
        method=OPTIONS,
        data=DataOptions(),
        model=VoxelModelOptions(),
        training=VoxelTrainingOptions(),
    )


def test_file_goes_before_preset_and_options_before_file(tmp_path):
    path = write(tmp_path, "preset: tiny\ntraining: {batch: 7, seed: 3}\n")
    config = load_train_config(path, ["training.batch=9", "network.channels=6"])
    tiny = load_train_config("tiny")
    assert (config.training.batch, config.training.seed) == (9, 3)
    assert config.model.network == dataclasses.replace(tiny.model.network, channels=6)
    assert config.training.prior == tiny.training.prior


def test_options_name_nested_keys(tmp_path):
    given = ["training.prior.last=0.5", "training.prior.end=40", "voxel.same_molecule_beads=true"]
    config = load_train_config("tiny", given)
    assert config.training.prior == Ramp(0.0, 0.5, 0, 40)
    assert config.model.voxel.same_molecule_beads is True
    whole = load_train_config("tiny", ["training.prior={last: 0.25}"])
    assert whole.training.prior.last == 0.25


def test_a_number_for_a_ramp_is_a_weight_that_stays():
    assert load_train_config("small").training.score == Ramp(1.0, 1.0)
    config = load_train_config("small", ["training.score=0", "training.prior=0.02"])
    assert [config.training.score.at(i) for i in (0, 10**6)] == [0.0, 0.0]
    assert [config.training.prior.at(i) for i in (0, 10**6)] == [0.02, 0.02]


@pytest.mark.parametrize("text", ["12:13", "0:12", "1:2", "10:20:2", "-3:60", "12:13.5"])
def test_ranges_of_frames_are_no_numbers_to_base_60(tmp_path, text):
    assert load_train_config("tiny", [f"data.validate={text}"]).data.validate == text
    path = write(tmp_path, f"data: {{train: {text}}}")
    found = load_train_config(path)
    assert found.data.train == text
    assert load_train_config(write(tmp_path, dump_config(found))).data.train == text


def test_a_model_to_begin_with_is_a_file_beside_the_configuration_or_a_name(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "old.safetensors").write_text("")
    path = write(folder, "training: {init_from: old.safetensors}")
    monkeypatch.chdir(tmp_path)
    assert load_train_config(path).training.init_from == str(folder / "old.safetensors")
    path = write(folder, "training: {init_from: ps-two-bead-568K}")
    assert load_train_config(path).training.init_from == "ps-two-bead-568K"


def test_an_override_by_nothing_is_an_empty_text():
    """As a shell hands on data.dynamics=""."""
    assert load_train_config("points").data.dynamics
    for text in ("data.dynamics=", "data.dynamics= ", 'data.dynamics=""'):
        assert load_train_config("points", [text]).data.dynamics == ""
    with pytest.raises(InputError, match="batch"):
        load_train_config("points", ["training.batch="])


def test_phases_of_the_small_adversarial_preset():
    """Score, then the critic alone, then critic and prior without the score."""
    config = load_train_config("adversarial-small")
    training, b = config.training, config.training.critic_alone_until
    assert (config.model.voxel.frame, config.model.voxel.hidden_hydrogens) == ("axis", "adjacent")
    assert 0 < training.critic_alone_from < b < training.iterations
    for i in range(training.iterations):
        weights = [r.at(i) > 0 for r in (training.score, training.adversarial)]
        assert weights == ([True, False] if i < b else [False, True])
        assert training.prior.at(i) == 0 or i > b
        assert training.density.at(i) == 0 or i < b
    assert training.prior.at(training.iterations) == 0.01


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("3", 3.0), ("0.5", 0.5), ("1E-4", 1e-4)]
)
def test_numbers_as_people_write_them(tmp_path, text, value):
    path = write(tmp_path, f"training: {{learning_rate: {text}}}")
    found = load_train_config(path).training.learning_rate
    assert found == value
    assert type(found) is float
    assert (
        load_train_config("tiny", [f"training.learning_rate={text}"]).training.learning_rate
        == value
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training: {batches: 3}",
            "unknown key 'training.batches', expected one of the method voxel: iterations,",
        ),
        (
            "trainig: {}",
            "unknown key 'trainig', expected one of the method voxel: method, data, training, "
            "voxel, network",
        ),
        (
            "training: {prior: {begin: 3}}",
            "unknown key 'training.prior.begin', expected one of the method voxel: first",
        ),
        ("training: {batch: 3.5}", "'training.batch' expected int, found 3.5"),
        ("training: {batch: true}", "'training.batch' expected int, found True"),
        ("training: {batch: many}", "'training.batch' expected int, found 'many'"),
        ("training: {augment: 1}", "'training.augment' expected bool, found 1"),
        ("training: {penalty: true}", "'training.penalty' expected float, found True"),
        ("training: {penalty: big}", "'training.penalty' expected float, found 'big'"),
        ("training: {penalty: null}", "'training.penalty' expected float, found None"),
        ("training: {prior: low}", "'training.prior' expected a section of keys, found 'low'"),
        (
            "training: {prior: -1}",
            "training.prior.first: expected a number from 0 to 1e+06, got -1",
        ),
        ("training: {prior: true}", "'training.prior' expected a section of keys, found True"),
        (
            "voxel: {hidden_hydrogens: all}",
            "voxel.hidden_hydrogens: expected one of adjacent, chain",
        ),
        ("data: null", "'data' expected a section of keys, found None"),
        ("data: 1.0e+30", "'data' expected a section of keys, found 1e+30"),
        ("data: {topology: 3}", "'data.topology' expected str, found 3"),
        (
            "training: {batch: 0}",
            "training.batch: expected a whole number from 1 to 1000000",
        ),
        ("voxel: {frame: cube}", "voxel.frame: expected one of axis, plane, got 'cube'"),
        (
            "network: {architecture: big}",
            "network.architecture: expected one of residual, plain, got",
        ),
        ("preset: huge", "unknown preset 'huge', expected one of adversarial-small,"),
        ("- a\n- b", "expected keys and values, found list"),
        ("a: [1\nb: 2", "not valid YAML"),
    ],
)
def test_wrong_files_are_refused_in_one_sentence(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_train_config(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_yaml_error_names_the_line(tmp_path):
    path = write(tmp_path, "training:\n  batch: [1\nvoxel: {}\n")
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}:3: not valid YAML"):
        load_train_config(path)


def test_missing_file_is_refused():
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file, nor a preset \(adv"):
        load_train_config("nowhere.yaml")


@pytest.mark.parametrize("text", ["training.batch", "=3", "training.batch 3"])
def test_options_need_key_and_value(text):
    with pytest.raises(InputError, match=re.escape(f"option '{text}': expected key=value")):
        load_train_config("tiny", [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.size=3", "tiny: unknown key 'training.size'"),
        ("batch=3", "tiny: unknown key 'batch'"),
        ("training.batch.size=3", "'training.batch' expected int, found {'size': 3}"),
        ("training.batch=a: b", "option 'training.batch=a: b':1: not valid YAML"),
    ],
)
def test_wrong_options_are_refused(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_train_config("tiny", [text])


def test_paths_are_relative_to_the_file_and_options_to_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "own.yaml").write_text("")
    path = write(folder, "data: {topology: a/t.top, mapping: own.yaml, structure: /s.gro}")
    elsewhere = tmp_path / "here"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    data = load_train_config(path, ["data.trajectory=x.xtc"]).data
    assert data.topology == str(folder / "a" / "t.top")
    assert data.mapping == str(folder / "own.yaml")
    assert data.structure == str(Path("/s.gro").resolve())
    assert data.trajectory == str(elsewhere / "x.xtc")
    assert data.beads == ""


def test_a_packaged_mapping_stays_a_name(tmp_path):
    path = write(tmp_path, "data: {mapping: ps-two-bead}")
    assert load_train_config(path).data.mapping == "ps-two-bead"


@pytest.mark.parametrize("name", presets())
def test_dump_and_load_give_the_same(tmp_path, name):
    given = ["data.topology=t.top", "data.temperature=568", "training.learning_rate=1e-7"]
    config = load_train_config(name, given)
    assert load_train_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    ("ramp", "values"),
    [
        (Ramp(0.0, 1.0, 10, 20), {0: 0.0, 10: 0.0, 15: 0.5, 20: 1.0, 99: 1.0}),
        (Ramp(1.0, 0.0, 0, 4), {0: 1.0, 1: 0.75, 4: 0.0}),
        (Ramp(2.0, 2.0), {0: 2.0, 7: 2.0}),
        (Ramp(0.0, 3.0, 5, 5), {4: 0.0, 5: 3.0}),
        (Ramp(), {0: 0.0, 10**6: 0.0}),
    ],
)
def test_ramps(ramp, values):
    assert {i: ramp.at(i) for i in values} == pytest.approx(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: points\ntraining: {augment: false}", "unknown key 'training.augment', expected"),
        ("method: points\nvoxel: {}", "unknown key 'voxel', expected one of the method points: "),
        ("training: {settled: 0.1}", "unknown key 'training.settled', expected one of the method"),
        ("data: {dynamics: '568'}", "data.dynamics: expected none with the method voxel"),
        ("method: fields", "method: expected one of voxel, points, physics, found 'fields'"),
    ],
)
def test_an_option_of_another_method_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_train_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [".nan", ".inf", "-1", "1.0e+30"])
@pytest.mark.parametrize(
    "key",
    ["training.learning_rate", "training.jitter", "voxel.edge", "voxel.radius", "data.temperature",
     "training.prior.last", "network.slope", "training.clip", "data.every"],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(key, value):
    with pytest.raises(InputError, match=re.escape(key)) as caught:
        load_train_config("tiny", [f"{key}={value}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["voxel.voxels=100000", "network.channels=1000000000", "training.batch=1000000000000",
     "network.noise=0", "training.iterations=0", "training.critic_steps=0", "training.seed=-1"],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(text):
    with pytest.raises(InputError, match="expected a whole number from"):
        load_train_config("tiny", [text])
