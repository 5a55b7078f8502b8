"""``deepbackmap md``: same velocities for every start, the band, what GROMACS takes, refusals."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest

from cli_systems import command, contents, refused
from deepbackmap.api.demo import melt_folder
from deepbackmap.api.md import (
    Band,
    first_inside,
    potential,
    reference_band,
    start_velocities,
    windows,
)
from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.quantities import BOLTZMANN
from finish_systems import write_chains

MELT = melt_folder()
GOOD = ("--temperature", 568, "--time", 1, "--engine", "openmm-cpu", "--threads", 1)
gromacs = pytest.mark.skipif(shutil.which("gmx") is None, reason="GROMACS is not installed")


@pytest.fixture
def melt(tmp_path, monkeypatch):
    """A copy of the packaged melt."""
    folder = tmp_path / "melt"
    shutil.copytree(MELT, folder)
    monkeypatch.chdir(folder)
    return folder


def test_velocities_are_thermal_and_the_same_for_the_same_seed():
    topology = read_topology(MELT / "topol.top")
    velocities = start_velocities(topology, 500.0, 3)
    assert np.array_equal(velocities, start_velocities(topology, 500.0, 3))
    assert not np.allclose(velocities, start_velocities(topology, 500.0, 4))
    masses = topology.masses()
    assert np.abs(masses @ velocities).max() < 1e-9  # the system as a whole stands still
    kinetic = 0.5 * masses @ (velocities**2).sum(axis=1)
    expected = 1.5 * len(masses) * BOLTZMANN * 500.0
    assert kinetic == pytest.approx(expected, rel=4.0 / np.sqrt(1.5 * len(masses)))
    # half of it and more is along bonds, which are held
    fixed = Constraints.of(topology, bonds=True)
    assert len(fixed.atoms) > len(masses)


def test_windows_leave_the_start_out():
    assert windows(np.array([100.0, 1, 2, 3, 4, 5, 6, 7]), 3).tolist() == [2.0, 5.0]


@pytest.mark.parametrize(
    ("means", "expected"),
    [([0.0, 1.0], 0.0), ([9.0, 0.0, 0.0], 1.0), ([0.0, -3.0, 0.0], 2.0), ([0.0, 0.0, 3.0], None)],
)
def test_when_a_run_is_inside_the_band_for_good(means, expected):
    assert first_inside(np.array(means), Band(0.0, 1.0, 10)) == expected


def test_the_band_is_that_of_the_frames_without_bonds():
    topology = read_topology(MELT / "topol.top")
    band = reference_band(topology, MELT / "aa.gro", MELT / "aa.xtc", ":3")
    forcefield = ForceField.from_topology(topology)
    with read_frames(MELT / "aa.gro", MELT / "aa.xtc", frames=":3") as source:
        energies = [forcefield.energies_by_term(frame) for frame in source]
    values = [sum(e.values()) - e["bond"] for e in energies]
    assert (band.mean, band.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert potential(energies[0]) == pytest.approx(values[0])
    with pytest.raises(InputError, match="at least 2 frames"):
        reference_band(topology, MELT / "aa.gro", MELT / "aa.xtc", "0")


def test_md_writes_energies_a_picture_a_record_and_starts(tmp_path, monkeypatch):
    write_chains(tmp_path)
    monkeypatch.chdir(tmp_path)
    starts = ("--start", "one=aa.gro", "--start", "the same=aa.gro", "--minimise", 50)
    given = ("-p", "topol.top", "-s", "aa.gro", "--reference", "aa.trr", "--pressure", "none")
    outcome = command("md", *starts, *given, "-o", "out", *GOOD)
    assert outcome.code == 0, outcome
    assert "reference:" in outcome.out
    with (tmp_path / "out" / "energy.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 * 101
    first, second = rows[:101], rows[101:]
    assert first[0]["start"] == "one"
    assert second[0]["start"] == "the same"
    # the same start, thermostat and velocities: the same run
    assert [r["potential / kJ mol-1"] for r in first] == [r["potential / kJ mol-1"] for r in second]
    record = json.loads((tmp_path / "out" / "md.json").read_text())
    run, band = record["summary"]["runs"][0], record["summary"]["band"]
    assert run["minimisation"] == 51
    assert run["first"] < run["windows"][0]  # a minimum warms up
    assert 300.0 < run["temperature"] < 700.0
    assert band["low"] == pytest.approx(band["mean"] - 2.0 * band["sd"])
    assert band["frames"] == 2
    assert len(run["windows"]) == 1
    times = [float(r["time / ps"]) for r in first]
    assert times == pytest.approx(np.linspace(0.0, 1.0, 101))
    assert (tmp_path / "out" / "energy.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "the-same" / "last.gro").is_file()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_start_that_cannot_be_run_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    write_chains(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = (tmp_path / "aa.gro").read_text().splitlines()
    lines[3] = lines[3][:20] + lines[2][20:]  # the second atom where the first is
    (tmp_path / "bad.gro").write_text("\n".join(lines) + "\n")
    given = ("-p", "topol.top", "--pressure", "none", "--minimise", 50, "-o", "out", *GOOD)
    said = refused("md", "--start", "bad=bad.gro", *given)
    assert "start bad: expected atoms in places of their own" in said
    assert not (tmp_path / "out").exists()
    outcome = command("md", "--start", "bad=bad.gro", "--start", "good=aa.gro", *given)
    assert outcome.code == 0, outcome
    assert "bad   could not be run: expected atoms in places of their own" in outcome.out
    summary = json.loads((tmp_path / "out" / "md.json").read_text())["summary"]
    assert [run["name"] for run in summary["runs"]] == ["good"]
    assert list(summary["failed"]) == ["bad"]
    assert not (tmp_path / "out" / "bad").exists()


@gromacs
def test_gromacs_takes_what_is_written(melt, monkeypatch):
    given = ("-p", "topol.top", "--temperature", 568, "--engine", "gromacs", "--threads", 1)
    finished = command("finish", "aa.gro", *given, "-o", "start.gro", "--steps", 20)
    assert finished.code == 0, finished
    outcome = command("md", "--start", "ours=start.gro", *given, "-o", "out", "--time", 1)
    assert outcome.code == 0, outcome
    folder = melt / "out" / "ours"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = ("-f", "run.mdp", "-c", "conf.gro", "-p", "topol.top", "-o", "run.tpr")
    _gmx(folder, "grompp", *names)  # without -maxwarn
    _gmx(folder, "mdrun", "-deffnm", "run", "-nsteps", "50", "-ntmpi", "1", "-ntomp", "1")
    assert (folder / "run.gro").is_file()
    # GROMACS' own first step is the first row of ours
    log = (folder / "run.log").read_text().split("Energies (kJ/mol)")[1].splitlines()
    names, values = [], []
    for head, line in ((1, 2), (3, 4), (5, 6)):
        names += [log[head][k : k + 15].strip() for k in range(0, len(log[head]), 15)]
        values += [float(x) for x in log[line].split()]
    theirs = dict(zip(names, values, strict=False))
    with (melt / "out" / "energy.csv").open() as handle:
        ours = next(csv.DictReader(handle))
    assert theirs["Angle"] == pytest.approx(float(ours["angle"]), rel=1e-4)
    assert theirs["LJ (SR)"] == pytest.approx(float(ours["lj"]), rel=1e-4)


def _gmx(folder, *words):
    done = subprocess.run(
        ["gmx", "-quiet", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


REFUSALS = {
    "no temperature": (("--start", "a=aa.gro"), "temperature: expected one in K"),
    "cold": (("--start", "a=aa.gro", "--temperature", -5), "temperature: expected a number above"),
    "name": (("--start", "aa.gro", "--temperature", 300), "start: expected NAME=FILE, found 'aa"),
    "twice": (("--start", "a=aa.gro", "--start", "a=aa.gro", "--temperature", 300), "'a' again"),
    "odd name": (("--start", "a/b=aa.gro", "--temperature", 300), "expected a name of letters"),
    "pressure": (("--start", "a=aa.gro", "--temperature", 300, "--pressure", "high"), "'high'"),
    "time": (("--start", "a=aa.gro", "--temperature", 300, "--time", 0.1), "at least 1 ps"),
    "no names": (("--start", "a=aa.xtc", "--temperature", 300), "aa.xtc: expected a structure"),
    "no file": (("--start", "a=no.gro", "--temperature", 300), "no.gro: expected a file"),
    "frame": (("--start", "a=aa.gro", "--temperature", 300, "--frame", 5), "frames 5 to choose"),
    "beads": (("--start", "a=cg.gro", "--temperature", 300), "cg.gro: expected atom"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_run_is_one_line(case, melt):
    given, expected = REFUSALS[case]
    before = contents(melt)
    said = refused("md", *given, "-p", "topol.top", "-o", "out")
    assert expected in said
    assert contents(melt) == before


def test_a_folder_that_is_there_is_kept(melt):
    (melt / "out").mkdir()
    (melt / "out" / "mine.txt").write_text("mine")
    given = ("md", "--start", "a=aa.gro", "-p", "topol.top", "-o", "out", *GOOD)
    assert "out: expected no such folder, found one" in refused(*given)
    assert "out: expected a folder with md.json to replace" in refused(*given, "--force")
    assert (melt / "out" / "mine.txt").read_text() == "mine"
