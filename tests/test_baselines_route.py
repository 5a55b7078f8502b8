"""The benchmark of the classical route, in its smoke mode."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from evaluation_systems import reference_folder


@pytest.fixture(scope="module")
def route():
    path = Path(__file__).parents[1] / "benchmarks" / "classical_route.py"
    sys.path.insert(0, str(path.parent))  # as for a script that is run: they import each other
    spec = importlib.util.spec_from_file_location("classical_route", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gmx") is None, reason="needs GROMACS")
def test_the_route_repairs_and_goes_on_where_it_stopped(route, tmp_path, capsys):
    """Dynamics takes out the bad contacts; a second run makes nothing anew."""
    folder = reference_folder()
    options = ["--work", str(tmp_path), "--data", str(folder.parent), "--smoke",
               "--engine", "gromacs", "--threads", "1"]  # fmt: skip
    assert route.main(options) == 0
    first = json.loads((tmp_path / "classical-route.json").read_text())
    placed, finished = first["568"]
    assert (placed["evaluations"], finished["evaluations"]) == (0, 30)
    assert placed["inverted stereocentres"] == finished["inverted stereocentres"] == 0
    assert finished["score"] < placed["score"] < 0.04
    assert finished["bond length deviation, largest"] < 1e-4
    assert abs(finished["LJ per chain, shift of the median"]) < 1.0
    (made,) = tmp_path.glob("*/568K-0.npz")
    before = made.stat().st_mtime_ns
    capsys.readouterr()
    assert route.main(options) == 0
    assert made.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "classical-route.json").read_text())["568"] == first["568"]


def test_missing_data_is_one_sentence(route, tmp_path, capsys):
    assert route.main(["--work", str(tmp_path / "w"), "--data", str(tmp_path)]) == 2
    assert "expected the reference data" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
