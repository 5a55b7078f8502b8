"""All mistakes of a mapping are said at once."""

import pytest

from cli_systems import command
from deepbackmap.errors import InputError, InputErrors, together
from deepbackmap.io.topology import read_topology
from deepbackmap.mapping import MappingFile
from sited_systems import HEAD

ATOMS = """[ moleculetype ]
TRI 3
[ atoms ]
1 C 1 ONE C1 1 0 14
2 C 2 TWO C2 1 0 14
3 C 3 SIX C3 1 0 14
[ bonds ]
1 2 1 0.15 1000
2 3 1 0.15 1000
[ moleculetype ]
ION 1
[ atoms ]
1 C 1 NA NA 1 0 23
[ system ]
x
[ molecules ]
TRI 1
ION 2
"""


@pytest.fixture
def topology(tmp_path):
    (tmp_path / "x.top").write_text(HEAD + ATOMS)
    return read_topology(tmp_path / "x.top")


def mistakes(text, topology):
    with pytest.raises(InputError) as error:
        MappingFile.from_text(text, "m.yaml").resolve(topology)
    return error.value


def test_residues_of_all_molecules_and_their_entries(topology):
    error = mistakes("residues:\n  ONE: {beads: [{name: A, type: A, atoms: [C1]}]}\n", topology)
    assert isinstance(error, InputErrors) and len(error.problems) == 3
    for residue in ("TWO", "SIX", "NA"):
        assert any(f"an entry for residue {residue} " in text for text in error.problems)
        assert f"\n  {residue}:\n" in "\n" + error.more
    whole = "residues:\n  ONE: {beads: [{name: A, type: A, atoms: [C1]}]}\n" + error.more + "\n"
    assert MappingFile.from_text(whole, "m.yaml").resolve(topology).n_beads == 5


def test_names_of_several_beads(topology):
    text = "residues:\n" + "".join(
        f"  {r}:\n    beads:\n      - {{name: B, type: B, atoms: [X{r}]}}\n"
        for r in ("ONE", "TWO", "SIX", "NA")
    )
    error = mistakes(text, topology)
    assert isinstance(error, InputErrors)
    assert [f"an atom X{r}" in p for r, p in zip(("ONE", "TWO", "SIX", "NA"), error.problems,
                                                 strict=True)] == [True] * 4  # fmt: skip


def test_one_mistake_stays_one_sentence(topology):
    text = "residues:\n  '*': {beads: [{name: B, type: B, atoms: [C1]}]}\n"
    error = mistakes(text.replace("'*'", "'?N*'"), topology)
    assert "'" not in str(error).split("expected")[0] and "found" in str(error)


def test_together_keeps_places_once():
    same = [InputError("a: expected b"), InputError("a: expected b")]
    assert not isinstance(together("head", same), InputErrors)
    assert str(together("head", same)) == "a: expected b"
    error = together("head, {} of them", [InputError("a\nstub"), InputError("b")])
    assert str(error) == "head, 2 of them:\n  a\n  b\nstub"
    nested = together("again {}", [error, InputError("c")])
    assert isinstance(nested, InputErrors)
    assert nested.problems == ("a", "b", "c") and nested.more == "stub"


def test_other_verbs_say_all_of_them_too(tmp_path, monkeypatch, topology):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(
        "residues:\n  ONE: {beads: [{name: A, type: A, atoms: [C1]}]}\n"
    )
    (tmp_path / "x.gro").write_text("x\n    1\n    1ONE     C1    1   0.1   0.1   0.1\n 3 3 3\n")
    done = command("map", "x.gro", "-p", "x.top", "--mapping", "m.yaml", "-o", "y.gro")
    assert done.code == 2 and done.err.count("expected an entry for residue") == 3
