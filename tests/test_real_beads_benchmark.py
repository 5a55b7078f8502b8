"""The benchmark of beads that users bring: its smoke mode, and the mirror image it makes."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepbackmap.geometry.cell import minimum_image
from deepbackmap.system import Structure
from evaluation_systems import SKEWED, reference_folder


@pytest.fixture(scope="module")
def real_beads():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "real_beads.py"
    sys.path.insert(0, str(path.parent))  # as for a script that is run: they import each other
    try:
        spec = importlib.util.spec_from_file_location("real_beads_benchmark", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def test_smoke_run(real_beads, capsys):
    data = reference_folder().parent
    if not (data / "sps_cg").is_dir():
        pytest.skip("needs the beads of coarse-grained simulations")
    assert real_beads.main(["--smoke", "--parts", "real", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| default | ")]
    assert len(rows) == 2
    for row in rows:
        mean, p99 = (float(v) for v in row[1].split(" / "))
        assert 40.0 < mean < 65.0 and mean < p99
        assert 0.01 < float(row[8]) < 0.1


def test_a_mirror_image_keeps_distances_and_turns_hands(real_beads):
    points = np.random.default_rng(1).uniform(size=(5, 3)) @ SKEWED
    frame = Structure(points, SKEWED)
    turned = real_beads.mirrored(frame)

    def ways(one):
        return minimum_image(one.positions[1:] - one.positions[0], one.box)

    assert np.linalg.norm(ways(turned), axis=1) == pytest.approx(
        np.linalg.norm(ways(frame), axis=1)
    )
    first, second = np.linalg.det(ways(frame)[:3]), np.linalg.det(ways(turned)[:3])
    assert first == pytest.approx(-second)
    again = real_beads.mirrored(turned)
    assert again.positions == pytest.approx(frame.positions)
    assert again.box == pytest.approx(frame.box)


def test_dynamics_is_judged_by_every_energy_against_the_last_picosecond(real_beads, tmp_path):
    """Hand values: 3 ps, angles 108 at their highest, 100 in the last picosecond, 2 monomers."""
    lines = ["start,time / ps,angle,temperature"]
    for k in range(31):
        angle = 216.0 if k == 4 else 200.0
        kelvin = 900.0 if k <= 10 else 568.0 if k <= 20 else 570.0
        lines.append(f"default,{0.1 * k:.1f},{angle},{kelvin}")
    (tmp_path / "energy.csv").write_text("\n".join(lines) + "\n")
    run = SimpleNamespace(new=(), last=SimpleNamespace(bonds=SimpleNamespace(largest=0.00012)))
    summary = SimpleNamespace(time=3.0, seconds=7.0, runs=(run,))
    cells = real_beads.md_cells(summary, tmp_path, 2)
    assert cells == ["3", "568 to 570", "108.0 / 100.0", "1.080", "0", "0.0001", "7"]
    summary.runs = (SimpleNamespace(new=("C1 turned over", "C2"), last=run.last),)
    assert real_beads.md_cells(summary, tmp_path, 2)[4] == "C1 turned over; C2"


def test_missing_data_is_one_line(real_beads, tmp_path, capsys):
    assert real_beads.main(["--smoke", "--data", str(tmp_path)]) == 2
    assert "expected the reference data" in capsys.readouterr().err
