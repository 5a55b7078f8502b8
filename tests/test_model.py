"""The model file: round trip, nothing half-written, and every refusal."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deepbackmap.errors import InputError
from deepbackmap.methods.base import Model, new_generator
from deepbackmap.methods.voxel.grid import condition_channels
from deepbackmap.methods.voxel.options import NetworkOptions
from deepbackmap.model.file import load_model, save_model
from deepbackmap.model.header import read_spec
from small_polystyrene import TINY, random_model, specification


def channels(spec):
    return condition_channels(spec.options.voxel, len(spec.atom_types), len(spec.bead_types))


def saved(path, **voxel):
    model = random_model(**voxel)
    save_model(model, path)
    return model


def rewrite(path, *, metadata=None, weights=None):
    """The same file with other metadata or weights."""
    with safe_open(path, framework="pt") as handle:
        known = handle.metadata()
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    save_file(
        weights(tensors) if weights else tensors, path, metadata={**known, **(metadata or {})}
    )


@pytest.mark.parametrize("voxel", [{}, {"frame": "plane", "same_molecule_beads": True}])
def test_round_trip(tmp_path, voxel):
    model = saved(tmp_path / "m.safetensors", **voxel)
    found = load_model(tmp_path / "m.safetensors")
    assert found.spec == model.spec
    assert read_spec(tmp_path / "m.safetensors") == model.spec
    weights, others = found.generator.state_dict(), model.generator.state_dict()
    assert list(weights) == list(others)
    assert all(torch.equal(weights[k], others[k]) for k in weights)
    arguments = (torch.rand(2, channels(model.spec), 8, 8, 8), torch.randn(2, 4), torch.eye(4)[:2])
    assert torch.equal(found.generator(*arguments), model.generator(*arguments))


def test_a_loaded_model_is_for_use_not_for_training(tmp_path):
    saved(tmp_path / "m.safetensors")
    generator = load_model(tmp_path / "m.safetensors").generator
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())


def test_networks_in_channels_last_are_saved_too(tmp_path):
    model = random_model()
    last = new_generator(model.spec).to(memory_format=torch.channels_last_3d)
    last.load_state_dict(model.generator.state_dict())
    save_model(Model(model.spec, last), tmp_path / "m.safetensors")
    found = load_model(tmp_path / "m.safetensors").generator.state_dict()
    assert all(torch.equal(found[k], v) for k, v in model.generator.state_dict().items())


def test_saving_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    model = Model(specification(edge=1.3), new_generator(specification(edge=1.3)))
    save_model(model, path)
    assert read_spec(path).options.voxel.edge == 1.3
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_failed_saving_keeps_the_file_before(tmp_path):
    path = tmp_path / "m.safetensors"
    model = saved(path)
    bad = dataclasses.replace(model.spec, provenance={"unwritable": object()})
    with pytest.raises(TypeError):
        save_model(Model(bad, model.generator), path)
    assert load_model(path).spec == model.spec
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_bead_cutoff_and_channels():
    spec = specification(radius=0.8, same_molecule_beads=True)
    assert spec.bead_cutoff == pytest.approx(0.8 + 0.27)
    assert channels(spec) == 5 * 4 + 2 + 1  # roles x atom types, bead types, own molecule
    assert channels(specification()) == 22  # the paper's


# --- refusals ---------------------------------------------------------------------------------


def refused(path, pattern):
    for read in (read_spec, load_model):
        with pytest.raises(InputError, match=pattern) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.safetensors", "no such model file")
    refused(tmp_path, "no such model file")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, b"\xff" * 100])
def test_other_files(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refused(path, "not a readable safetensors model file")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_file(tmp_path, part):
    path = tmp_path / "m.safetensors"
    saved(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(path, "not a readable safetensors model file")


def test_other_formats(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    refused(path, "expected a model of format deepbackmap-model-2, found None")
    saved(path)
    rewrite(path, metadata={"format": "deepbackmap-model-9"})
    refused(path, "expected a model of format deepbackmap-model-2, found 'deepbackmap-model-9'")


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: "{",
        lambda spec: "[]",
        lambda spec: "null",
        lambda spec: json.dumps({k: v for k, v in spec.items() if k != "mapping"}),
        lambda spec: json.dumps({**spec, "colour": "red"}),
        lambda spec: json.dumps({**spec, "options": {"voxel": {"frame": "cube"}}}),
        lambda spec: json.dumps({**spec, "options": {"network": 3}}),
        lambda spec: json.dumps({**spec, "atom_types": 3}),
    ],
)
def test_damaged_specification(tmp_path, change):
    path = tmp_path / "m.safetensors"
    model = saved(path)
    rewrite(path, metadata={"spec": change(dataclasses.asdict(model.spec))})
    refused(path, "the model's specification is damaged")


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    for weights in (
        lambda w: {k: v for k, v in w.items() if k != "leave.bias"},
        lambda w: {**w, "extra": torch.zeros(1)},
        lambda w: {**w, "leave.bias": torch.zeros(7)},
    ):
        saved(path)
        rewrite(path, weights=weights)
        read_spec(path)
        with pytest.raises(InputError, match="weights do not fit the model's options"):
            load_model(path)


def test_specification_of_another_network(tmp_path):
    path = tmp_path / "m.safetensors"
    spec = dataclasses.asdict(saved(path).spec)
    spec["options"]["network"] = dataclasses.asdict(dataclasses.replace(TINY, channels=8))
    rewrite(path, metadata={"spec": json.dumps(spec)})
    with pytest.raises(InputError, match=r"weights do not fit the model's options \(size mismatch"):
        load_model(path)
    spec["options"]["network"] = dataclasses.asdict(NetworkOptions())
    rewrite(path, metadata={"spec": json.dumps(spec)})
    with pytest.raises(InputError, match="weights do not fit"):
        load_model(path)
