"""One table: what the paper says of its model, and our figure for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panels import (
    ADVERSARIAL,
    ANGLE,
    BASELINE,
    DIHEDRAL,
    IMPROPERS,
    LJ,
    OURS,
    PAPER,
    RDF,
    REFERENCE,
    md_run,
    write_csv,
)

NAMES = (PAPER, BASELINE, OURS, ADVERSARIAL)
HEAD = ("the paper says", "where", "K", "figure", "floor (halves of the reference)", *NAMES)


@dataclass(frozen=True)
class Sentence:
    """One of its sentences, in our words."""

    says: str
    where: str
    figures: Mapping[str, str]
    """Names in metrics.json, and what they are called in the table."""


SENTENCES = (
    Sentence(
        "Trained on 12 snapshots of the melt at 568 K, the model makes structures that need no "
        "minimisation and no dynamics, at other temperatures and in the crystal as well",
        "abstract; Fig. 5, S3 to S5",
        {"score": "score: mean of eleven divergences"},
    ),
    Sentence(
        "Backbone angles are distributed as in the reference; the baseline's are too narrow",
        "Fig. 5 a, b", {ANGLE: "divergence"},
    ),
    Sentence(
        "So are the backbone's dihedrals, trans and gauche",
        "Fig. 5 c, d", {DIHEDRAL: "divergence"},
    ),
    Sentence(
        "So are the impropers that keep rings flat", "Fig. 5 e, f",
        {
            "improper C_AR-C_AR-C_AR-C_AR": "divergence, ring carbons",
            "improper C-C_AR-C_AR-C_AR": "divergence, ring and chain carbon",
            IMPROPERS: "divergence, all",
            "improper energy, ratio": "energy over the reference's",
        },
    ),
    Sentence(
        "Lennard-Jones energies of chains are the reference's; the baseline's are far off",
        "Fig. 5 g, h",
        {
            LJ: "divergence",
            f"{LJ}, shift of the mean": "shift of the mean / sd",
            f"{LJ}, shift of the median": "shift of the median / sd",
        },
    ),
    Sentence(
        "The packing is the reference's", "Fig. 5 i, j", {RDF: "mean absolute error of g(r)"},
    ),
    Sentence(
        "(of hands it says nothing)", "-",
        {"inverted stereocentres": "inverted stereocentres / %"},
    ),
)  # fmt: skip


def rows(metrics: Mapping[int, Mapping[str, Any]]) -> Iterator[list[object]]:
    """The table's rows from the evaluations, by temperature in K."""
    for sentence in SENTENCES:
        says, where = sentence.says, sentence.where
        for temperature, found in metrics.items():
            for name, title in sentence.figures.items():
                floor, values = figure(found, name)
                if values:
                    cells = [values.get(n) for n in NAMES]
                    yield [says, where, temperature, title, floor, *cells]
                    says = where = ""
    yield from map_rows(metrics)


def figure(metrics: Mapping[str, Any], name: str) -> tuple[float | None, dict[str, float]]:
    """The floor of a figure, and its value by method; nothing where it was not measured."""
    if name == "score":
        scores = {m["name"]: m["score"]["value"] for m in metrics["methods"]}
        return metrics["score_floor"], scores
    for found in metrics["figures"]:
        if found["name"] == name:
            return found["floor"], {k: v["value"] for k, v in found["methods"].items()}
    return None, {}


def map_rows(metrics: Mapping[int, Mapping[str, Any]]) -> Iterator[list[object]]:
    """How far the clouds of Fig. 6 overlap."""
    says, where = "Chains lie where the reference's lie on a map of local surroundings", "Fig. 6"
    for temperature, found in metrics.items():
        if found["structure_map"] is None:
            continue
        overlap = found["structure_map"]["overlap"]
        halves = overlap.get(f"{REFERENCE} (halves)", {}).get("mmd2")
        cells = [overlap[n]["mmd2"] if n in overlap else None for n in NAMES]
        yield [says, where, temperature, "MMD²; between halves of the reference", halves, *cells]
        says = where = ""


def md_rows(temperature: int, runs: Mapping[str, Path]) -> Iterator[list[object]]:
    """How dynamics begins (Fig. S7): the reference's own run beside the others."""
    found = {name: md_run(folder) for name, folder in runs.items()}

    def first(name: str) -> float | None:
        if name not in found:
            return None
        _, run, band = found[name]
        return None if band is None else (run["windows"][0] - band["mean"]) / band["sd"]

    def until(name: str) -> float | str | None:
        if name not in found:
            return None
        inside = found[name][1]["inside_from"]
        return "never" if inside is None else inside

    def minimised(name: str) -> int | None:
        return found[name][1]["minimisation"] if name in found else None

    says = "Dynamics goes on from them at once, without a heat-up"
    title = "first picosecond's energy, from the reference's mean / sd"
    yield [says, "Fig. S7", temperature, title, first(REFERENCE), *map(first, NAMES)]
    title = "in the reference's band from / ps"
    yield ["", "", temperature, title, until(REFERENCE), *map(until, NAMES)]
    title = "force evaluations of a minimisation without which it could not be run"
    yield ["", "", temperature, title, minimised(REFERENCE), *map(minimised, NAMES)]


def write(output: Path, found: list[list[object]]) -> None:
    """``sentences.csv`` and ``sentences.md``."""
    write_csv(output / "sentences.csv", HEAD, found)
    lines = [list(HEAD), ["---"] * len(HEAD), *([text(v) for v in row] for row in found)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    (output / "sentences.md").write_text(body + "\n", encoding="utf-8")


def text(value: object) -> str:
    """A cell for a person."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
