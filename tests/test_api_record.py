"""The record of a run: everything that would be needed to make it again."""

import hashlib
import json
import os
import stat

import openmm
import torch

from deepbackmap.api import record
from deepbackmap.api.record import engine_version, file_hash, gromacs_version, make_record


def made(tmp_path, **more):
    given = tmp_path / "beads.gro"
    given.write_bytes(b"some beads")
    text = make_record(
        "backmap",
        inputs={
            "beads": given,
            "trajectory": None,
            "mapping": "ps-two-bead",
            "starts": {"a": given},
        },
        output=tmp_path / "out.xtc",
        options={"steps": 10},
        summary={"frames": 1},
        **more,
    )
    return json.loads(text)


def test_files_have_their_hash_and_names_are_names(tmp_path):
    found = made(tmp_path)["input"]
    digest = hashlib.sha256(b"some beads").hexdigest()
    assert found["beads"] == {"file": str(tmp_path / "beads.gro"), "sha256": digest}
    assert found["starts"]["a"]["sha256"] == digest == file_hash(tmp_path / "beads.gro")
    assert found["trajectory"] is None
    assert found["mapping"] == "ps-two-bead"


def test_what_ran_is_named(tmp_path):
    found = made(tmp_path, seed=3, engine="openmm-cpu", threads=2, device="cuda", extra=[1])
    assert found["program"].startswith("deepbackmap ")
    assert found["versions"]["OpenMM"] == found["engine"]["version"]
    assert openmm.version.short_version.startswith(found["engine"]["version"].rsplit(".", 1)[0])
    assert torch.__version__.startswith(found["versions"]["torch"])  # without its build, perhaps
    assert (found["seed"], found["threads"], found["device"]) == (3, 2, "cuda")
    assert (found["options"], found["summary"], found["extra"]) == (
        {"steps": 10}, {"frames": 1}, [1]
    )  # fmt: skip
    assert made(tmp_path)["engine"] is None
    assert made(tmp_path)["threads"] >= 1


def test_gromacs_is_asked_for_its_version(tmp_path, monkeypatch):
    program = tmp_path / "gmx"
    program.write_text("#!/bin/sh\necho 'GROMACS version:    2031.4-mine'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gromacs_version.cache_clear()
    assert gromacs_version() == engine_version("gromacs") == "2031.4-mine"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    gromacs_version.cache_clear()
    assert gromacs_version() is None
    gromacs_version.cache_clear()


def test_a_package_that_is_not_there_is_none():
    assert record._installed("no-such-package-anywhere") is None
