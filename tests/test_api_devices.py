"""Where to compute, and in which precision."""

from pathlib import Path

import pytest
import torch

from deepbackmap.api.devices import choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_precision_that_is_named_stays(name):
    assert choose_precision(name, CPU) == name


def test_the_processor_is_asked():
    """As the operating system lists its instructions."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("not a system that lists the instructions of its processor")
    flags = info.read_text().split()
    asked = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    has = any(f in flags and hasattr(torch.cpu, name) for f, name in asked.items())
    assert choose_precision("auto", CPU) == ("bf16-mixed" if has else "32-true")


@pytest.mark.parametrize(
    ("capability", "bf16", "amx", "expected"),
    [
        ("AVX512", True, False, "bf16-mixed"),
        ("AVX512", False, True, "bf16-mixed"),
        ("AVX512", False, False, "32-true"),  # emulated, and slow
        ("AVX2", False, False, "32-true"),
        ("NO AVX", True, True, "32-true"),
    ],
)
def test_processors_with_and_without(monkeypatch, capability, bf16, amx, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert choose_precision("auto", CPU) == expected


def test_a_library_that_cannot_be_asked_means_no(monkeypatch):
    """PyTorch 2.4 has neither question."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_precision("auto", CPU) == "32-true"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), "32-true"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")],
)
def test_cards_with_and_without(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", GPU) == expected
