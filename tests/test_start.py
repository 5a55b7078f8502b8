"""What a command imports before it has anything to do."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numba", "lightning_fabric", "MDAnalysis", "openmm", "matplotlib", "scipy",
         "networkx", "ase", "distributed"}  # fmt: skip
RUN = """
import sys
sys.path[:] = {path!r}
sys.argv = ["deepbackmap", *{words!r}]
from deepbackmap.cli.main import run
try:
    run()
except SystemExit as end:
    print("code", end.code or 0)
print("imported", *sorted({{m.split(".")[0] for m in sys.modules}}))
"""


def imported(*words, program=RUN):
    """Exit code of a command and the packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", program.format(path=sys.path, words=words)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    code = next((int(line.split()[1]) for line in lines if line.startswith("code ")), 0)
    return code, set(lines[-1].split()[1:])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--help",), 0),
        (("--version",), 0),
        (("models",), 0),
        (("backmap", "--help"), 0),
        (("backmap", "--no-such-option"), 2),
        (("finish", "a.gro", "-p", "topol.top"), 2),
    ],
)
def test_help_lists_and_mistakes_import_nothing_heavy(words, code):
    found, packages = imported(*words)
    assert found == code
    assert packages & HEAVY == set()
    assert "deepbackmap" in packages


VERB = """
import sys
sys.path[:] = {path!r}
from deepbackmap.api import {words}
print("imported", *sorted({{m.split(".")[0] for m in sys.modules}}))
"""


@pytest.mark.parametrize("verb", ["backmap", "finish", "map_trajectory"])
def test_verbs_do_not_import_what_others_need(verb):
    _, packages = imported(verb, program=VERB.replace("{words}", "{words[0]}"))
    assert "torch" in packages  # or the lists below would say nothing
    assert packages & {"lightning_fabric", "MDAnalysis", "openmm", "matplotlib"} == set()
    assert packages & {"tensorboard", "dscribe", "distributed"} == set()


SELDOM = {
    "scipy.optimize", "scipy.sparse", "scipy.special", "scipy.spatial", "scipy.interpolate",
    "networkx", "deepbackmap.mechanics.card", "deepbackmap.methods.physics.sampler",
    "deepbackmap.methods.voxel.sampler", "deepbackmap.io.topology.lammps",
    "deepbackmap.io.topology.openmm",
}  # fmt: skip
"""What few systems need and takes long to import."""


def test_backmapping_imports_what_few_systems_need_when_they_need_it():
    program = VERB.replace("{words}", "{words[0]}").replace('m.split(".")[0]', "m")
    _, modules = imported("backmap", program=program)
    assert "deepbackmap.mechanics.engine" in modules  # or what follows would say nothing
    assert modules & SELDOM == set()


def test_verbs_stand_before_their_modules():
    program = """
import sys
sys.path[:] = {path!r}
import deepbackmap.api.models
from deepbackmap import api
assert callable(api.models) and callable(api.fetch)
assert api.models is deepbackmap.api.models is sys.modules["deepbackmap.api.models"].models
try:
    api.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
assert set(api.__all__) == set(api._MODULES)
print("imported", *sys.modules)
"""
    imported(program=program)


COLLECTED = """
import gc, sys
sys.path[:] = {path!r}
sys.argv = ["deepbackmap", *{words!r}]
from deepbackmap.cli.main import run
try:
    run()
except SystemExit as end:
    print("code", end.code)
print(gc.isenabled(), gc.get_freeze_count() > 50_000)
"""


@pytest.mark.parametrize("verb", ["backmap", "map"])
def test_garbage_is_collected_again_when_imports_are_done(verb):
    """What was imported is no longer looked through; what the work leaves is."""
    words = (verb, "no.gro", "-p", "no.top", "-o", "out.gro", "--mapping", "ps-two-bead")
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED.format(path=sys.path, words=words)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["code", "2", "True", "True"], done.stderr
