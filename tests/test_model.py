"""The model file: round trip, nothing half-written, and every refusal."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deepbackmap.errors import InputError
from deepbackmap.methods.base import Model, new_generator
from deepbackmap.methods.voxel.grid import condition_channels
from deepbackmap.methods.voxel.options import NetworkOptions
from deepbackmap.model.file import checksum, load_model, save_model
from deepbackmap.model.header import FIRST_FORMAT, KEY, read_spec
from small_polystyrene import TINY, point_model, random_model, specification


def channels(spec):
    return condition_channels(spec.options.voxel, len(spec.atom_types), len(spec.bead_types))


def saved(path, **voxel):
    model = random_model(**voxel)
    save_model(model, path)
    return model


def rewrite(path, *, entries=None, weights=None, sealed=True):
    """The same file with other entries of its header or other weights, and, where ``sealed``, with
    the checksum of what it holds then."""
    with safe_open(path, framework="pt") as handle:
        known = json.loads(handle.metadata()[KEY])
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    tensors = weights(tensors) if weights else tensors
    known |= entries or {}
    if sealed:
        known["checksum"] = checksum(known["spec"], tensors)
    save_file(tensors, path, metadata={KEY: json.dumps(known)})


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


def test_models_from_before_the_choice_hide_the_hydrogens_of_the_whole_chain(tmp_path):
    """They were trained so; what is missing in the header is not the default of new models."""
    path = tmp_path / "m.safetensors"
    assert saved(path).spec.options.voxel.hidden_hydrogens == "adjacent"
    assert read_spec(path).options.voxel.hidden_hydrogens == "adjacent"
    with safe_open(path, framework="pt") as handle:
        known = json.loads(json.loads(handle.metadata()[KEY])["spec"])
    del known["options"]["voxel"]["hidden_hydrogens"]
    rewrite(path, entries={"spec": json.dumps(known)})
    assert read_spec(path).options.voxel.hidden_hydrogens == "chain"


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
    rewrite(path, entries={"format": "deepbackmap-model-9"})
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
    rewrite(path, entries={"spec": change(dataclasses.asdict(model.spec))})
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
    rewrite(path, entries={"spec": json.dumps(spec)})
    with pytest.raises(InputError, match=r"weights do not fit the model's options \(size mismatch"):
        load_model(path)
    spec["options"]["network"] = dataclasses.asdict(NetworkOptions())
    rewrite(path, entries={"spec": json.dumps(spec)})
    with pytest.raises(InputError, match="weights do not fit"):
        load_model(path)


# --- checksum, ranges, precision --------------------------------------------------------------


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = random_model()
    names = [tmp_path / f"{k}.safetensors" for k in range(6)]
    for path in names:
        save_model(model, path)
    assert len({path.read_bytes() for path in names}) == 1


def test_a_changed_bit_anywhere_is_found(tmp_path):
    """In weights, specification and header: refused, or (in padding) without effect."""
    path = tmp_path / "m.safetensors"
    model = saved(path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    places = {*random.integers(0, len(content), 60).tolist(), 0, 8, len(content) - 1}
    start = 8 + int.from_bytes(content[:8], "little")
    places |= set(random.integers(8, start, 60).tolist())
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = load_model(path)
        except InputError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
        else:
            assert place < start
            assert found.spec == model.spec


def test_weights_that_are_not_what_was_written_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewrite(path, weights=lambda w: {k: v + 1e-6 for k, v in w.items()}, sealed=False)
    with pytest.raises(InputError, match="the model is damaged: expected checksum"):
        load_model(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(tmp_path, value):
    path = tmp_path / "m.safetensors"
    saved(path)
    rewrite(path, weights=lambda w: {**w, "leave.bias": torch.full_like(w["leave.bias"], value)})
    with pytest.raises(InputError, match=r"expected finite weights, found others in leave\.bias"):
        load_model(path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("", "temperature", float("nan")), ("", "temperature", -5.0), ("", "reach", 1e9),
        ("", "reach", float("inf")), ("", "temperature", "warm"), ("", "temperatures", [0.0]),
        ("", "temperatures", ["a"]), ("", "handedness", {"A": ["a", 1]}),
        ("", "handedness", {"A": [1]}), ("", "rigid", 1), ("", "mapping", 3),
        ("", "method", "fields"), ("", "method", ["voxel"]),
        ("voxel", "voxels", 10**7), ("voxel", "radius", float("nan")), ("voxel", "edge", 0.0),
        ("voxel", "voxels", 8.5), ("network", "channels", 10**12), ("network", "noise", 0),
        ("network", "condition_blocks", 10**9), ("network", "slope", "steep"),
    ],
)  # fmt: skip
def test_headers_that_cannot_be_are_refused_before_anything_is_made(tmp_path, part, name, value):
    path = tmp_path / "m.safetensors"
    spec = json.loads(json.dumps(dataclasses.asdict(saved(path).spec)))
    (spec["options"][part] if part else spec)[name] = value
    rewrite(path, entries={"spec": json.dumps(spec)})
    refused(path, name if isinstance(value, (int, float)) else "specification is damaged")


def test_half_precision_holds_what_was_learned_to_three_digits_and_statistics_exactly(tmp_path):
    model = point_model()
    save_model(model, tmp_path / "full.safetensors")
    save_model(model, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < sizes[1]
    found = load_model(tmp_path / "half.safetensors").generator
    buffers = dict(model.generator.named_buffers())
    for name, value in found.state_dict().items():
        assert value.dtype == model.generator.state_dict()[name].dtype
        true = model.generator.state_dict()[name]
        if name in buffers:
            assert torch.equal(value, true)
        else:
            torch.testing.assert_close(value, true, rtol=5e-4, atol=1e-7)


def test_a_file_of_the_first_format_is_read(tmp_path):
    """Its header held the options of both methods side by side, and no checksum."""
    path = tmp_path / "m.safetensors"
    model = saved(path)
    spec = dataclasses.asdict(model.spec)
    old = {k: v for k, v in spec.items() if k not in ("method", "options", "temperatures", "rigid")}
    old |= spec["options"] | {"defaults": {"relaxation": 7, "sweeps": 1}}
    with safe_open(path, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"format": FIRST_FORMAT, "spec": json.dumps(old)})
    found = load_model(path)
    defaults = {"block_relaxation": 7, "sweeps": 1}
    assert found.spec == dataclasses.replace(model.spec, defaults=defaults)
    assert torch.equal(found.generator.leave.weight, model.generator.leave.weight)
