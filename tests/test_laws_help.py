"""What the command line says of itself, and what the documents say of it."""

import re
from pathlib import Path

import pytest
import typer

from cli_systems import command
from deepbackmap.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"),
                    *(ROOT / "examples").rglob("*.md")])  # fmt: skip


def commands(group, path=()):
    """Every verb by its words."""
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name), found


VERBS = dict(commands(typer.main.get_command(app)))
PARAMETERS = [(verb, p) for verb, found in VERBS.items() for p in found.params]


def options(verb):
    return {o for p in VERBS[verb].params for o in (*p.opts, *p.secondary_opts) if o[:1] == "-"}


def test_the_verbs_are_those_of_the_documents():
    assert {" ".join(v) for v in VERBS} == {
        "map", "train", "backmap", "baseline", "finish", "md", "evaluate", "demo", "models",
        "data fetch", "mapping infer", "mapping draft", "check",
    }  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_names_every_option_and_does_nothing_else(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    done = command(*verb, "--help")
    assert done.code == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", done.out)
    assert not [o for o in options(verb) if o.startswith("--") and o not in shown]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("verb", "parameter"), PARAMETERS,
                         ids=lambda x: x.name if hasattr(x, "name") else " ".join(x))  # fmt: skip
def test_every_option_is_explained_in_a_sentence(verb, parameter):
    text = getattr(parameter, "help", None) or ""
    assert len(text) > 4, (verb, parameter.name)
    assert text[0].isupper() or not text[0].isalpha() or "=" in text.split()[0] or (
        text.split()[0].rstrip(",:") in ("auto", "backward", "graph", "residue", "template")
    )  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_an_option_that_no_verb_has_is_refused(verb):
    done = command(*verb, "--nobody-knows-this")
    assert done.code == 2
    assert "--nobody-knows-this" in done.err


COMMAND = r"\bdeepbackmap ((?:mapping |data )?[a-z]+)\b([^`|#;&]*)"


def uses():
    """Commands of the documents: file, verb, options used."""
    for path in DOCUMENTS:
        text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
        for line in text.splitlines():
            for found in re.finditer(COMMAND, line):
                verb = tuple(found[1].split())
                if verb in VERBS:
                    yield path, verb, set(re.findall(r"(?<=\s)--[a-z][a-z-]+", found[2]))


USES = list(uses())


def test_the_documents_use_the_command_line():
    assert len(USES) > 20
    assert {verb for _, verb, _ in USES} >= {("map",), ("backmap",), ("evaluate",), ("train",)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_options_in_documents_are_options_of_their_verb(path):
    for where, verb, used in USES:
        if where == path:
            assert used <= options(verb) | {"--help"}, (verb, used - options(verb))


def test_every_option_is_somewhere_in_the_documents():
    """By name, with or without its verb."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in DOCUMENTS)
    missing = {
        (" ".join(verb), o)
        for verb in VERBS for o in options(verb)
        if o.startswith("--") and not re.search(rf"{o}\b", text)
    }  # fmt: skip
    silent = {"--help", "--quiet", "--version", "--install-completion", "--show-completion",
              "--output",
              "--no-minimise", "--minimise"}  # fmt: skip
    assert {o for _, o in missing} - silent == set(), sorted(missing)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_version_is_that_of_the_package():
    import deepbackmap

    assert command("--version").out.strip() == f"deepbackmap {deepbackmap.__version__}"
