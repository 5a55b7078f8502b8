"""The benchmark's command line, in its smoke mode."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from deepbackmap.geometry.cell import minimum_image
from evaluation_systems import reference_folder


@pytest.fixture
def physics(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as a module."""
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("physics_benchmark", folder / "physics.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("gmx") is None, reason="the force field comes with GROMACS")
def test_smoke_run(physics: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    data = reference_folder().parent
    if not (data / "liquids").is_dir():
        pytest.skip("needs the reference data of the liquids")
    assert physics.main(["--smoke", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    assert "octane, 10 steps" in out
    rows = [row for row in out.splitlines() if row.startswith("  ") and "floor" in row]
    figures = {row[:52].strip(): float(row.split("floor")[0].split()[-1]) for row in rows}
    # so few conformations start so far off that beads may be held softly
    assert figures["re-mapped beads, rms distance"] < 0.03
    assert 0.0 < figures["dihedral C-C-C-C"] < 0.2


def test_missing_data_is_one_line(
    physics: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert physics.main(["--smoke", "--data", str(tmp_path)]) == 2
    assert "expected the reference data" in capsys.readouterr().err


def test_beads_of_polystyrene_are_the_published_ones(physics: ModuleType) -> None:
    """They are mapped from the atoms, so that other mappings can be tried on the same frames."""
    root = reference_folder().parent
    two, one = (physics.polystyrene(name, root) for name in ("ps313", "ps313-one"))
    published = physics.frames(root / "sps" / "cg.gro", root / "sps" / "test_313K_cg.xtc")
    assert len(two.beads) == len(published) == len(one.beads)
    for made, given in zip(two.beads[::7], published[::7], strict=True):
        off = minimum_image(made.positions - given.positions, given.box)
        assert abs(off).max() < 2e-3  # three digits of either file
    assert 2 * len(one.beads[0].positions) == len(two.beads[0].positions)
