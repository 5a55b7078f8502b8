"""Lays out an evaluation as one self-contained page."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import get_args

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from deepbackmap import __version__
from deepbackmap.evaluation.result import (
    Curve,
    Distribution,
    Estimate,
    Evaluation,
    Figure,
    Group,
    Level,
    Method,
)
from deepbackmap.report import svg
from deepbackmap.report.definitions import DEFINITIONS, Definition, definition_of
from deepbackmap.report.molecules import excerpt, payload
from deepbackmap.report.numbers import plain, ratio, rich
from deepbackmap.similarity.containers import StructureMap

SUMMARY: Mapping[Level, str] = {
    "good": "as good as MD",
    "fair": "usable after finish",
    "bad": "not usable",
}
"""What the worst sentence on a method makes of it."""
LEVELS: tuple[Level, ...] = ("good", "fair", "bad")
TITLES: Mapping[Group, str] = {
    "bonds": "Bonds",
    "angles": "Angles",
    "dihedrals": "Dihedrals",
    "impropers": "Impropers",
    "energies": "Energies",
    "structure": "Structure",
    "contacts": "Contacts",
    "stereochemistry": "Stereochemistry",
    "rings": "Rings",
    "beads": "Beads",
}
_AXIS: Mapping[Group, str] = {
    "bonds": "length",
    "angles": "angle",
    "dihedrals": "dihedral",
    "impropers": "improper",
    "energies": "energy",
    "structure": "distance",
    "contacts": "distance",
    "beads": "distance",
}
_WARM = 9
"""Shades of the table's cells."""


@dataclass(frozen=True)
class Key:
    """How a sample is drawn everywhere."""

    number: int
    """From 0; of a method."""
    name: str
    css: str
    marker: str


@dataclass(frozen=True)
class Cell:
    """A method's figure."""

    key: Key
    value: Markup
    ratio: str
    shade: str
    """Class of the cell's tint."""
    best: bool
    order: str
    """The distance from the target, to sort by."""


@dataclass(frozen=True)
class TableRow:
    """A figure of the table."""

    name: str
    unit: str
    scored: bool
    definition: Definition
    reference: Markup
    floor: Markup
    floored: bool
    """Whether there is a floor."""
    cells: tuple[Cell | None, ...]
    """In the order of the methods; nothing where a method lacks the figure."""


@dataclass(frozen=True)
class Strip:
    """A scored figure on the logarithmic axis at the top; places in percent from the left."""

    name: str
    floor: float
    """NaN where there is none."""
    marks: tuple[tuple[Key, float, float, float, str], ...]
    """Key, place, ends of the error bar, and the words for it."""
    words: str


@dataclass(frozen=True)
class Chart:
    """The strips with their axis."""

    strips: tuple[Strip, ...]
    ticks: tuple[tuple[float, int], ...]
    """Place and power of ten."""
    shown: int = 24
    """Strips before the fold."""


@dataclass(frozen=True)
class Plot:
    """A plot with its caption."""

    name: str
    drawing: Markup
    row: TableRow | None
    entries: tuple[tuple[Key, Cell | None], ...]
    """The methods drawn, with the figure of each."""
    banded: bool


@dataclass(frozen=True)
class Verdict:
    """What is said of a method."""

    key: Key
    method: Method
    level: Level | None
    summary: str
    score: Markup
    ratio: str


def render_report(evaluation: Evaluation, structure_map: StructureMap | None) -> str:
    """Draws an evaluation as one HTML page that needs no other file and no network.

    Args:
        evaluation: what was measured.
        structure_map: of the same samples, or nothing.

    Returns:
        The page; the same evaluation gives the same page.
    """
    keys = {
        m.name: Key(k, m.name, f"k{k} m{k % 7} d{k % 4}", svg.marker(k + 1))
        for k, m in enumerate(evaluation.methods)
    }
    rows = {f.name: _row(f, keys) for f in evaluation.figures}
    molecules = [(view, excerpt(view)) for m in evaluation.methods for view in m.worst]
    style, script = _asset("report.css"), _asset("viewer.js") + _asset("report.js")
    return _template().render(
        evaluation=evaluation,
        version=__version__,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        keys=tuple(keys.values()),
        verdicts=[_verdict(m, keys[m.name], evaluation.score_floor) for m in evaluation.methods],
        score_floor=rich(evaluation.score_floor),
        chart=_chart(evaluation.figures, keys),
        table=_grouped(evaluation.figures, rows),
        plots=_plots(evaluation, keys, rows),
        structure_map=structure_map,
        maps=_maps(structure_map, keys) if structure_map else (),
        overlaps=_overlaps(structure_map, keys) if structure_map else (),
        permutations=_permutations(structure_map) if structure_map else "",
        molecules=[payload(shown) for _, shown in molecules],
        shown=[(view, len(shown.positions)) for view, shown in molecules],
        definitions=DEFINITIONS,
        plain=plain,
        reference_marker=svg.marker(0),
    )


def _asset(name: str) -> str:
    return (files("deepbackmap.report") / "assets" / name).read_text(encoding="utf-8")


def _template() -> Template:
    """The page's template: everything that is filled in is escaped."""
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _policy(style: str, script: str) -> str:
    """What the browser may do: use this very style and script, and fetch nothing."""

    def source(text: str) -> str:
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


# The verdict and the strips below it


def _verdict(method: Method, key: Key, floor: float) -> Verdict:
    """The worst sentence decides on the summary."""
    worst = max((s.level for s in method.verdict), key=LEVELS.index, default=None)
    times = _quotient(method.score.value, floor)
    return Verdict(
        key=key,
        method=method,
        level=worst,
        summary=SUMMARY[worst] if worst else "no verdict",
        score=rich(method.score.value, method.score.error),
        ratio=ratio(times),
    )


def _chart(figures: Sequence[Figure], keys: Mapping[str, Key]) -> Chart | None:
    """The scored figures on one logarithmic axis; nothing where none is scored."""
    scored = [f for f in figures if f.scored]
    shown = [f.floor for f in scored] + [e.value for f in scored for e in f.methods.values()]
    positive = [v for v in shown if math.isfinite(v) and v > 0.0]
    if not positive:
        return None
    low = max(math.floor(math.log10(min(positive))), -7)
    high = max(math.ceil(math.log10(max(positive))), low + 1)

    def place(value: float) -> float:
        if not math.isfinite(value):
            return math.nan
        power = math.log10(value) if value > 0.0 else low
        return round(100.0 * min(max((power - low) / (high - low), 0.0), 1.0), 2)

    return Chart(
        strips=tuple(_strip(f, keys, place) for f in scored),
        ticks=tuple((place(10.0**k), k) for k in range(low, high + 1)),
    )


def _strip(figure: Figure, keys: Mapping[str, Key], place: Callable[[float], float]) -> Strip:
    """One figure's marks."""
    marks = []
    for name, estimate in figure.methods.items():
        if math.isfinite(estimate.value):
            error = estimate.error if math.isfinite(estimate.error) else 0.0
            ends = place(estimate.value - error), place(estimate.value + error)
            said = f"{name} {_with_error(estimate)}"
            marks.append((keys[name], place(estimate.value), *ends, said))
    words = [m[4] for m in marks]
    if math.isfinite(figure.floor):
        words.append(f"floor {plain(figure.floor)}")
    return Strip(figure.name, place(figure.floor), tuple(marks), "; ".join(words))


def _with_error(estimate: Estimate) -> str:
    text = plain(estimate.value, estimate.error)
    return f"{text} ± {plain(estimate.error, estimate.error)}" if estimate.error > 0.0 else text


# The table


def _row(figure: Figure, keys: Mapping[str, Key]) -> TableRow:
    """A figure's cells, and which method is best."""
    away = {name: _distance(figure, e.value) for name, e in figure.methods.items()}
    least = min((d for d in away.values() if not math.isnan(d)), default=math.nan)
    several = sum(not math.isnan(d) for d in away.values()) > 1
    return TableRow(
        name=figure.name,
        unit=figure.unit,
        scored=figure.scored,
        definition=definition_of(figure),
        reference=rich(figure.reference),
        floor=rich(figure.floor),
        floored=math.isfinite(figure.floor),
        cells=tuple(
            _cell(figure, figure.methods[name], key, best=several and away[name] == least)
            if name in figure.methods
            else None
            for name, key in keys.items()
        ),
    )


def _cell(figure: Figure, estimate: Estimate, key: Key, *, best: bool) -> Cell:
    times = _quotient(
        abs(estimate.value - figure.target), abs(figure.floor - figure.target)
    )  # NaN without a target
    away = _distance(figure, estimate.value)
    return Cell(
        key=key,
        value=rich(estimate.value, estimate.error),
        ratio=ratio(times),
        shade=f"h{_shade(times)}",
        best=best,
        order="" if math.isnan(away) else f"{away:.6g}",
    )


def _distance(figure: Figure, value: float) -> float:
    """How far a figure is from its target, or from the reference where it has no target."""
    return abs(value - (figure.reference if math.isnan(figure.target) else figure.target))


def _quotient(value: float, floor: float) -> float:
    """A distance in floors; infinite above a floor of zero."""
    if floor == 0.0:
        return math.nan if math.isnan(value) else math.inf if value > 0.0 else 1.0
    return value / floor


def _shade(times: float) -> int:
    """Tint of a cell: none up to the floor, the deepest from a thousand times on."""
    if math.isnan(times) or times <= 1.0:
        return 0
    return (
        min(round((_WARM - 1) * math.log10(times) / 3.0), _WARM - 1) if times < 1e3 else _WARM - 1
    )


def _grouped(
    figures: Sequence[Figure], rows: Mapping[str, TableRow]
) -> list[tuple[str, list[TableRow]]]:
    """The rows of each group that has any."""
    grouped = [
        (TITLES[group], [rows[f.name] for f in figures if f.group == group])
        for group in get_args(Group)
    ]
    return [(title, found) for title, found in grouped if found]


# Plots


def _plots(
    evaluation: Evaluation, keys: Mapping[str, Key], rows: Mapping[str, TableRow]
) -> list[tuple[str, str, list[Plot]]]:
    """Anchor, title and plots of each group: structure, then energies, then functions of r."""
    groups = [g for g in get_args(Group) if g not in ("energies", "structure")]
    found = []
    for group in (*groups, "energies", "structure"):
        plots = [
            _histogram(d, keys, rows.get(d.name))
            for d in evaluation.distributions
            if d.group == group
        ]
        if group == "structure":
            plots += [_curve(c, keys, rows.get(c.name)) for c in evaluation.curves]
        if plots:
            title = "g(r) and structure" if group == "structure" else TITLES[group]
            found.append((group, title, plots))
    return found


def _histogram(d: Distribution, keys: Mapping[str, Key], row: TableRow | None) -> Plot:
    unit = d.unit or "1"
    drawing = svg.histogram(
        _spoken(d.name, "histogram", row),
        d.edges,
        d.reference,
        d.band,
        [svg.Line(n, keys[n].css, v) for n, v in d.methods.items()],
        x_label=f"{_AXIS.get(d.group, 'value')} ({unit})" if d.unit else "value",
        y_label=f"density (1/{unit})" if d.unit else "density",
    )
    return Plot(d.name, drawing, row, _entries(d, keys, row), _banded(d))


def _curve(c: Curve, keys: Mapping[str, Key], row: TableRow | None) -> Plot:
    name = c.name.removesuffix(", mean absolute error")
    drawing = svg.curve(
        _spoken(name, "curve", row),
        c.r,
        c.reference,
        c.band,
        [svg.Line(n, keys[n].css, v) for n, v in c.methods.items()],
        x_label="r (nm)",
        y_label="g(r)",
    )
    return Plot(name, drawing, row, _entries(c, keys, row), _banded(c))


def _entries(
    shown: Distribution | Curve, keys: Mapping[str, Key], row: TableRow | None
) -> tuple[tuple[Key, Cell | None], ...]:
    return tuple(
        (key, row.cells[key.number] if row else None)
        for name, key in keys.items()
        if name in shown.methods
    )


def _banded(shown: Distribution | Curve) -> bool:
    return bool(np.isfinite(shown.band).all(axis=0).any())


def _spoken(name: str, kind: str, row: TableRow | None) -> str:
    """What a plot says to those who cannot see it."""
    text = f"{name}: {kind} of the reference and of every method"
    if row is None:
        return text
    said = [f"{c.key.name} {c.value.striptags()}" for c in row.cells if c]
    return f"{text}. {'; '.join([*said, f'floor {row.floor.striptags()}'])}"


# The structure map


def _maps(shown: StructureMap, keys: Mapping[str, Key]) -> list[tuple[str, Key | None, Markup]]:
    """Title, method and drawing: all samples in one map, then each method over the reference."""
    numbers = range(len(shown.samples))
    points = {k: shown.points[shown.sample == k] for k in numbers}
    colours = {k: f"s{k} {_sample_css(shown.samples[k], keys)}" for k in numbers}
    data = {
        k: {
            "name": shown.samples[k],
            "frame": " ".join(map(str, shown.frame[shown.sample == k])),
            "molecule": " ".join(map(str, shown.molecule[shown.sample == k])),
        }
        for k in numbers
    }

    def drawn(title: str, samples: Iterable[int], *, large: bool = False) -> Markup:
        chosen = {k: points[k] for k in samples}
        return svg.scatter(title, chosen, shown.points, colours, data, large=large)

    named = ", ".join(shown.samples)
    maps: list[tuple[str, Key | None, Markup]] = [
        ("All samples", None, drawn(f"Structure map of {named}", numbers, large=True))
    ]
    if len(shown.samples) > 2:
        maps += [
            (name, keys.get(name), drawn(f"Structure map of {name} over the reference", (0, k)))
            for k, name in enumerate(shown.samples)
            if k > 0
        ]
    return maps


def _sample_css(name: str, keys: Mapping[str, Key]) -> str:
    return keys[name].css if name in keys else "ref"


def _overlaps(
    shown: StructureMap, keys: Mapping[str, Key]
) -> list[tuple[str, Key | None, Markup, Markup, str, str]]:
    """Sample, method, discrepancy, what chance gives, p-value and what they say together."""
    return [
        (
            name,
            keys.get(name),
            rich(o.mmd2),
            rich(o.chance),
            plain(o.p_value) if o.p_value > 0.0 else f"< {plain(1.0 / o.permutations)}",
            "yes" if o.p_value < 0.05 else "not seen",
        )
        for name, o in shown.overlap.items()
    ]


def _permutations(shown: StructureMap) -> str:
    """What was exchanged to find out what chance gives."""
    ways = {o.permuted: o.permutations for o in shown.overlap.values() if o.permuted}
    words = (f"{n:,} permutations of {what}".replace(",", "\u202f") for what, n in ways.items())
    return "; ".join(words)
