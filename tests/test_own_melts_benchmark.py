"""The benchmark of melts of our own: what it prints is of the melt that it was given."""

import importlib.util
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import deepbackmap

PACKAGED = Path(deepbackmap.__file__).parent / "packaged" / "melt"


@pytest.fixture(scope="module")
def own_melts():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "own_melts.py"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location("own_melts_benchmark", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def test_a_packaged_melt(own_melts, capsys):
    assert own_melts.main([str(PACKAGED), "--frames", "1"]) == 0
    head, _, line = capsys.readouterr().out.splitlines()
    names, values = ([c.strip() for c in x.strip("|").split("|")] for x in (head, line))
    found = dict(zip(names, values, strict=True))
    assert found["melt"] == "melt"
    assert found["frames"] == "1"
    assert found["wrong hands"] == "0 of 108"
    assert found["pierced"] == found["pairs under 0.6 sigma"] == "0"
    assert 0.9 < float(found["angle energy, ratio"]) < 1.1
    assert 0.5 < float(found["ratio"]) < 2.0
    assert float(found["ratio"]) == pytest.approx(
        float(found["score"]) / float(found["floor"]), rel=0.02
    )


def test_frames_of_a_run_are_found_by_their_names(own_melts, tmp_path):
    for end in ("gro", "xtc"):
        shutil.copyfile(PACKAGED / f"aa.{end}", tmp_path / f"prod.{end}")
    assert len(own_melts.melt_frames(tmp_path, 1)) == 5
    assert len(own_melts.melt_frames(tmp_path, 2)) == 3


def test_a_folder_without_a_melt_is_one_line(own_melts, tmp_path, capsys):
    assert own_melts.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("expected a melt, found neither") == 1
    shutil.copyfile(PACKAGED / "aa.gro", tmp_path / "aa.gro")
    with pytest.raises(deepbackmap.errors.InputError, match="expected a melt"):
        own_melts.melt_frames(tmp_path, 1)


def test_later_frames_are_compared_with_those_before(own_melts):
    def chosen(count, **options):
        later, before = own_melts.choose(count, Namespace(**options))
        return list(later), list(before)

    assert chosen(10, after=6, stride=1, frames=2) == ([6, 9], [0, 1, 2, 3, 4, 5])
    # of every second frame those from number 7 on are 8, 10 and so on
    assert chosen(6, after=7, stride=2, frames=9) == ([4, 5], [0, 1, 2, 3])
    for wrong in (0, 10, -1):
        with pytest.raises(deepbackmap.errors.InputError, match="after: expected a frame with"):
            own_melts.choose(10, Namespace(after=wrong, stride=1, frames=1))
