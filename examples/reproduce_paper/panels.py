"""Pictures and their tables: the sheets of Fig. 5 and S3 to S5, the map of Fig. 6, and Fig. S7."""

from __future__ import annotations

import csv
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

REFERENCE, PAPER, BASELINE = "reference", "paper", "paper baseline"
OURS, ADVERSARIAL = "ours", "ours adversarial"
COLOURS = {
    REFERENCE: "black", PAPER: "#0072B2", BASELINE: "#E69F00", OURS: "#009E73",
    ADVERSARIAL: "#CC79A7",
}  # fmt: skip
"""Of Okabe and Ito, told apart by everybody."""
MARKERS = {REFERENCE: "o", PAPER: "s", BASELINE: "^", OURS: "D", ADVERSARIAL: "v"}
ANGLE, DIHEDRAL = "angle C-C-C", "dihedral C-C-C-C"
CARBONS, IMPROPERS = "impropers of carbons", "impropers"
OF_CARBONS = {"improper C_AR-C_AR-C_AR-C_AR": 6, "improper C-C_AR-C_AR-C_AR": 1}
"""The impropers of four carbons, by their names in metrics.json, and how many a ring has. The
other five of a ring hold a hydrogen."""
LJ, RDF = "LJ per chain", "g(r), mean absolute error"
LABELS = {
    ANGLE: "backbone angle C-C-C / degrees",
    DIHEDRAL: "backbone dihedral C-C-C-C / degrees",
    CARBONS: "impropers of carbons (dashed: all) / degrees",
    LJ: "Lennard-Jones energy of a chain / kJ mol$^{-1}$",
    RDF: "r / nm",
}
"""The rows of a sheet from top to bottom, and what their axes say."""
REACH = 30.0
"""Energies beyond so many standard deviations of the reference make the axis bend."""
BEND = 3.0
"""Standard deviations up to which a bent axis is about straight."""
ENERGY_BINS = 100


@dataclass(frozen=True)
class Shown:
    """What one temperature has to show."""

    metrics: Mapping[str, Any]
    """Of ``deepbackmap evaluate``."""
    energies: Mapping[str, np.ndarray]
    """Lennard-Jones energy of every chain by sample, kJ/mol, the reference first."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    quantity: str
    sample: str
    x: np.ndarray
    y: np.ndarray


def sheet(output: Path, stem: str, shown: Mapping[int, Shown]) -> None:
    """All quantities of some temperatures on one sheet, a column each, and the same as a table.

    Args:
        output: folder.
        stem: of the names of both files.
        shown: by temperature in K, from left to right.
    """
    figure = Figure(figsize=(4.6 * len(shown) + 0.4, 13.0), layout="constrained")
    axes = figure.subplots(len(LABELS), len(shown), squeeze=False)
    letters = iter(string.ascii_lowercase)
    rows: list[list[object]] = []
    for row, (quantity, label) in enumerate(LABELS.items()):
        for column, (temperature, found) in enumerate(shown.items()):
            place = axes[row, column]
            letter = next(letters)
            place.set_title(f"{letter})", loc="left", fontsize=10)
            place.set_xlabel(label)
            if row == 0:
                place.set_title(f"{temperature} K")
            for curve in draw(place, quantity, found):
                rows += [
                    [temperature, letter, curve.quantity, curve.sample, x, y]
                    for x, y in zip(curve.x, curve.y, strict=True)
                ]
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", fontsize=8, ncols=3 if len(shown) > 1 else 2
    )
    figure.savefig(output / f"{stem}.png", dpi=150)
    write_csv(
        output / f"{stem}.csv", ["temperature", "panel", "quantity", "sample", "x", "y"], rows
    )


def draw(axes: Axes, quantity: str, shown: Shown) -> list[Curve]:
    """One panel; returns its lines."""
    if quantity == LJ:
        return _energies(axes, shown.energies)
    if quantity == RDF:
        found = next(c for c in shown.metrics["curves"] if c["name"] == RDF)
        axes.set_ylabel("g(r) of carbons")
        return _lines(axes, RDF, np.array(found["r"]), found)
    axes.set_yticks([])
    axes.set_ylabel("probability")
    if quantity != CARBONS:
        return _distribution(axes, quantity, _named(shown.metrics, quantity))
    curves = _distribution(axes, CARBONS, carbon_impropers(shown.metrics))
    everything = _named(shown.metrics, IMPROPERS)
    return curves + _distribution(axes, IMPROPERS, everything, style="--", narrow=False)


def carbon_impropers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The distribution of all impropers of four carbons: that of their kinds by their numbers.

    The band is the mean of the kinds' bands: a little wider than their sum's own would be.
    """
    kinds = {name: _named(metrics, name) for name in OF_CARBONS}
    total = sum(OF_CARBONS.values())

    def mean(of: Any) -> Any:
        return sum(OF_CARBONS[n] / total * np.array(of(k), dtype=float) for n, k in kinds.items())

    first = next(iter(kinds.values()))
    return {
        "edges": first["edges"],
        "reference": mean(lambda k: k["reference"]),
        "band": mean(lambda k: k["band"]),
        "methods": {m: mean(lambda k, m=m: k["methods"][m]) for m in first["methods"]},
    }


def _named(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(d for d in metrics["distributions"] if d["name"] == name)
    return found


def _distribution(
    axes: Axes, quantity: str, found: Mapping[str, Any], *, style: str = "-", narrow: bool = True
) -> list[Curve]:
    edges = np.array(found["edges"])
    curves = _lines(axes, quantity, 0.5 * (edges[1:] + edges[:-1]), found, style=style)
    if narrow:
        # where there is something to see; the bins reach much farther than that
        seen = np.flatnonzero(np.max([c.y for c in curves], axis=0) > 0)
        axes.set_xlim(edges[seen[0]], edges[seen[-1] + 1])
    return curves


def _lines(
    axes: Axes, quantity: str, x: np.ndarray, found: Mapping[str, Any], *, style: str = "-"
) -> list[Curve]:
    """The band of the reference's halves, and a line for each sample."""
    solid = style == "-"
    if solid:
        low, high = (np.array([np.nan if v is None else v for v in e]) for e in found["band"])
        axes.fill_between(x, low, high, color="0.85", label="halves of the reference")
    lines = {REFERENCE: found["reference"], **found["methods"]}
    curves = [Curve(quantity, name, x, np.array(y, dtype=float)) for name, y in lines.items()]
    for curve in curves:
        axes.plot(
            x, curve.y, style, label=curve.sample if solid else None,
            color=COLOURS.get(curve.sample, "0.5"), linewidth=1.5 if solid else 0.8,
        )  # fmt: skip
    return curves


def _energies(axes: Axes, energies: Mapping[str, np.ndarray]) -> list[Curve]:
    """Shares of chains by energy: every chain is shown, on an axis that bends if it must."""
    mean, sd = float(energies[REFERENCE].mean()), float(energies[REFERENCE].std())
    values = np.concatenate([v.ravel() for v in energies.values()])
    low, high = float(values.min()), float(values.max())
    if max(high - mean, mean - low) > REACH * sd:
        bend, straighten = bent(mean, BEND * sd)
        axes.set_xscale("function", functions=(bend, straighten))
        ticks = energy_ticks(low, high, mean, sd)
        axes.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
        axes.tick_params(axis="x", labelsize=7)
    else:
        bend = straighten = np.asarray
    steps = np.linspace(*bend(np.array([low, high])), ENERGY_BINS + 1)
    edges = straighten(steps)
    edges[0], edges[-1] = low, high  # not a rounding away from the outermost chains
    middles = straighten(0.5 * (steps[1:] + steps[:-1]))
    curves = []
    for name, sample in energies.items():
        share = np.histogram(sample, edges)[0] / sample.size
        curves.append(Curve(LJ, name, middles, share))
        axes.plot(middles, share, color=COLOURS.get(name, "0.5"), drawstyle="steps-mid")
    axes.set_ylabel("share of chains")
    return curves


def bent(centre: float, width: float) -> tuple[Any, Any]:
    """A scale that is straight within ``width`` of ``centre`` and logarithmic far off, and back."""

    def bend(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.arcsinh((np.asarray(x) - centre) / width))

    def straighten(y: np.ndarray) -> np.ndarray:
        return np.asarray(centre + width * np.sinh(y))

    return bend, straighten


def energy_ticks(low: float, high: float, mean: float, sd: float) -> list[float]:
    """The reference's mean, and powers of ten as far as the energies reach."""
    powers = [s * 10.0**k for s in (-1.0, 1.0) for k in range(3, 16)]
    far = [p for p in powers if low <= p <= high and abs(p - mean) > 10 * sd]
    return sorted({round(mean), *far})


def structure_map(output: Path, found: Mapping[str, Any]) -> None:
    """Fig. 6: one map, filled marks for its first temperature, hollow ones for the others."""
    points, sample = np.array(found["points"]), np.array(found["sample"])
    figure = Figure(figsize=(8.0, 7.4), layout="constrained")
    axes = figure.add_subplot()
    first = found["temperatures"][0]
    for k, (name, temperature) in enumerate(
        zip(found["samples"], found["temperatures"], strict=True)
    ):
        colour = COLOURS.get(name, "0.5")
        axes.scatter(
            *points[sample == k].T, s=18, label=f"{name}, {temperature} K", alpha=0.7,
            marker=MARKERS.get(name, "o"), linewidths=0.9, edgecolors=colour,
            facecolors=colour if temperature == first else "none",
        )  # fmt: skip
    axes.set_xlabel("sketch-map 1")
    axes.set_ylabel("sketch-map 2")
    axes.set_title("Fig. 6: one point a chain", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(output / "fig6.png", dpi=150)
    rows = [
        [found["temperatures"][s], found["samples"][s], f, m, x, y]
        for s, f, m, (x, y) in zip(
            sample, found["frame"], found["molecule"], points, strict=True
        )
    ]  # fmt: skip
    head = ["temperature", "sample", "frame", "molecule", "x", "y"]
    write_csv(output / "fig6.csv", head, rows)


def molecular_dynamics(
    output: Path, temperature: int, runs: Mapping[str, Path], failed: Sequence[str] = ()
) -> None:
    """Fig. S7: potential energy from each start, single values thin, picoseconds thick.

    Args:
        output: folder.
        temperature: K.
        runs: folder of ``deepbackmap md`` by start.
        failed: starts that could not be run, which the legend names.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    rows: list[list[object]] = []
    means = []
    for name, (series, run, band) in zip(runs, map(md_run, runs.values()), strict=True):
        colour = COLOURS.get(name, "black")
        axes.plot(*series.T, color=colour, alpha=0.25, linewidth=0.5)
        windows = np.array(run["windows"])
        steps = run["minimisation"]
        label = f"{name}, minimised ({steps} force evaluations)" if steps else name
        axes.plot(np.arange(len(windows)) + 0.5, windows, "o-", ms=2, color=colour, label=label)
        means.append(windows)
        rows += [[name, t, e] for t, e in series]
        if band is not None and len(means) == 1:
            label = "reference, mean ± 2 sd"
            axes.axhspan(band["low"], band["high"], color="0.85", label=label)
            means.append(np.array([band["low"], band["high"]]))
    for name in failed:
        axes.plot([], [], "x", color=COLOURS.get(name, "black"), label=f"{name}: could not be run")
    values = np.concatenate(means)
    room = 0.05 * (values.max() - values.min())
    axes.set_ylim(values.min() - room, values.max() + room)
    axes.set_xlabel("time / ps")
    axes.set_ylabel("potential energy without bonds / kJ mol$^{-1}$")
    axes.set_title(f"Fig. S7: no heat-up, {temperature} K", fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(output / "figS7.png", dpi=150)
    write_csv(output / "figS7.csv", ["start", "time / ps", "potential / kJ mol-1"], rows)


def md_run(folder: Path) -> tuple[np.ndarray, dict[str, Any], dict[str, Any] | None]:
    """Time and potential energy of a folder's only run, its summary, and the reference's band."""
    summary = json.loads((folder / "md.json").read_text(encoding="utf-8"))["summary"]
    with (folder / "energy.csv").open(encoding="utf-8") as handle:
        lines = list(csv.reader(handle))[1:]
    series = np.array([[float(v) for v in line[1:3]] for line in lines])
    return series, summary["runs"][0], summary["band"]


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table with a head."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(head)
        table.writerows(rows)
