"""Plots as small inline SVG.

Own writer: 60 plots with five lines of 140 bins measured 42 KiB and 0.11 s each with
matplotlib's SVG backend (2.5 MB and 6.5 s a page), so the page would neither be made nor
opened fast. Lines are written here as relative moves in whole tenths of a pixel, which the
page's script can also read back to show values under the pointer. Colours and dashes come from
classes, so that the page's style sheet decides on light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup

from deepbackmap.report.numbers import MINUS

SIZE = 372, 238
"""Pixels of a drawing, across and down."""
LARGE = 744, 470
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 18, 38
FINE = 10
"""Units of a path in a pixel of the drawing."""
CUT = 4.0
"""How many times as high as the reference's a method's peak is drawn, and the other way round:
beyond, it is cut and named, so that the lower lines keep a shape."""
KEPT = 2.5
"""Least height of a cut axis, in peaks of the lower lines."""
_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),  # a disc
    ((0.0, -1.25), (1.15, 0.8), (-1.15, 0.8)),  # triangle
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),  # square
    ((0.0, -1.3), (1.15, 0.0), (0.0, 1.3), (-1.15, 0.0)),  # diamond
    ((0.0, 1.25), (1.15, -0.8), (-1.15, -0.8)),  # triangle, point down
    ((-1.1, 0.0), (-0.55, -1.0), (0.55, -1.0), (1.1, 0.0), (0.55, 1.0), (-0.55, 1.0)),  # hexagon
    ((0.0, -1.3), (0.35, -0.35), (1.3, 0.0), (0.35, 0.35),
     (0.0, 1.3), (-0.35, 0.35), (-1.3, 0.0), (-0.35, -0.35)),  # star
)  # fmt: skip
"""Outlines of the markers by sample, with a radius of about one."""

_HEADROOM = 1.06
Values = Float64[np.ndarray, " b"]
Places = Float64[np.ndarray, " at"]
"""Edges of the bins, one more than values, or as many points."""


@dataclass(frozen=True)
class Frame:
    """The rectangle in which data are drawn."""

    low: float
    high: float
    """Of the horizontal axis."""
    bottom: float
    top: float
    """Of the vertical axis."""
    size: tuple[int, int] = SIZE
    """Of the whole drawing."""

    @property
    def across(self) -> int:
        """Width of the rectangle in pixels."""
        return self.size[0] - LEFT - RIGHT

    @property
    def down(self) -> int:
        """Height of the rectangle in pixels."""
        return self.size[1] - TOP - BOTTOM

    def x(self, value: float) -> float:
        """Pixels from the left of the rectangle."""
        return (value - self.low) / (self.high - self.low) * self.across

    def y(self, value: float) -> float:
        """Pixels from the top of the rectangle."""
        return (self.top - value) / (self.top - self.bottom) * self.down


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    css: str
    """Its class, which is its colour and dash."""
    values: Values


def marker(sample: int, size: float = 4.0) -> str:
    """The outline of a marker around the place where the path stands; sample 0 is the reference."""
    outline = _SHAPES[sample % len(_SHAPES)]
    if not outline:
        r = f"{size:g}"
        return f"m-{r} 0a{r} {r} 0 1 0 {2 * size:g} 0a{r} {r} 0 1 0 -{2 * size:g} 0z"
    moves = np.round(np.diff([(0.0, 0.0), *outline], axis=0) * size, 1).tolist()
    (x, y), *rest = moves
    return f"m{x:g} {y:g}" + "".join(f"l{a:g} {b:g}" for a, b in rest) + "z"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two ends, about as many as asked for."""
    span = high - low
    if not span > 0.0 or not math.isfinite(span):
        return []
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if span / (power * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float, step: float) -> str:
    """A tick's number with the digits its spacing needs."""
    if step >= 1e5 or (value != 0.0 and step < 1e-4):
        return f"{value:.2g}".replace("e+0", "e").replace("e-0", "e-").replace("-", MINUS)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if not math.isclose(step, round(step, decimals), rel_tol=1e-6, abs_tol=1e-12):
        decimals += 1  # 0.25
    text = f"{value + 0.0:.{decimals}f}"
    return ("0" if float(text) == 0.0 else text).replace("-", MINUS)


def histogram(
    title: str,
    edges: Places,
    reference: Values,
    band: Float64[np.ndarray, "2 b"],
    methods: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
) -> Markup:
    """A plot of step lines over bins.

    Args:
        title: what the plot shows, for those who cannot see it.
        edges: of the bins.
        reference: density in each bin.
        band: where halves of the reference lie; not drawn where it is NaN.
        methods: one line a method.
        x_label: below.
        y_label: beside.

    Returns:
        An ``<svg>`` element.
    """
    lines = [*methods, Line("reference", "ref", reference)]
    first, last = _occupied(line.values for line in lines)
    part = slice(first, last + 1)
    top, peaks = _top(reference[part], [line.values[part] for line in methods])
    frame = Frame(float(edges[first]), float(edges[last + 1]), 0.0, top)
    steps = edges[first : last + 2]
    drawn = [_band(frame, steps, band[:, part], stepped=True)]
    drawn += [_path(frame, steps, line, line.values[part], stepped=True) for line in lines]
    return _plot(title, frame, drawn, x_label, y_label, peaks, "steps")


def curve(
    title: str,
    r: Values,
    reference: Values,
    band: Float64[np.ndarray, "2 b"],
    methods: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
) -> Markup:
    """A plot of functions of a distance; arguments as for ``histogram``."""
    lines = [*methods, Line("reference", "ref", reference)]
    top, peaks = _top(reference, [line.values for line in methods])
    frame = Frame(*_spread(float(r[0]), float(r[-1])), 0.0, top)
    drawn = [_band(frame, r, band, stepped=False)]
    drawn += [_path(frame, r, line, line.values, stepped=False) for line in lines]
    return _plot(title, frame, drawn, x_label, y_label, peaks, "curve")


def scatter(
    title: str,
    points: Mapping[int, Float64[np.ndarray, "n 2"]],
    everything: Float64[np.ndarray, "m 2"],
    colours: Mapping[int, str],
    data: Mapping[int, Mapping[str, str]],
    *,
    large: bool = False,
) -> Markup:
    """A map of points with as much scale on one axis as on the other.

    Args:
        title: what the map shows.
        points: of every sample that is drawn, by its number; drawn in this order.
        everything: all points of all samples: the maps of one page show the same window.
        colours: class of each sample.
        data: further attributes of each sample's markers.
        large: the one map that is drawn over the whole width.

    Returns:
        An ``<svg>`` element.
    """
    frame = _window(everything, LARGE if large else SIZE)
    size = 2.6 if len(everything) < 1000 else 2.0
    size *= 1.35 if large else 1.0
    drawn = []
    for sample, xy in points.items():
        shape = marker(sample, size * FINE)
        placed = (f"M{round(FINE * frame.x(x))} {round(FINE * frame.y(y))}{shape}" for x, y in xy)
        extra = Markup(" ").join(Markup('data-{}="{}"').format(*kv) for kv in data[sample].items())
        drawn.append(
            Markup('<path class="dot {}" {} d="{}"/>').format(
                colours[sample], extra, "".join(placed)
            )
        )
    return _plot(title, frame, drawn, "sketch-map 1", "sketch-map 2")


def _window(points: Float64[np.ndarray, "n 2"], size: tuple[int, int]) -> Frame:
    """The rectangle around all points, stretched to the shape of the plot."""
    if not len(points):
        return Frame(0.0, 1.0, 0.0, 1.0, size)
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2.0, np.maximum((high - low) / 2.0, 1e-6) * 1.06
    shape = (size[0] - LEFT - RIGHT) / (size[1] - TOP - BOTTOM)
    half = np.array([max(half[0], half[1] * shape), max(half[1], half[0] / shape)])
    (x0, y0), (x1, y1) = middle - half, middle + half
    return Frame(float(x0), float(x1), float(y0), float(y1), size)


def _spread(low: float, high: float) -> tuple[float, float]:
    """Ends that differ."""
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _occupied(rows: Iterable[Values]) -> tuple[int, int]:
    """First and last bin in which any line stands above the axis, and one more on each side."""
    stacked = np.nan_to_num(np.array(list(rows)))
    filled = np.flatnonzero((stacked > 0.0).any(axis=0))
    if not len(filled):
        return 0, stacked.shape[1] - 1
    return max(int(filled[0]) - 1, 0), min(int(filled[-1]) + 1, stacked.shape[1] - 1)


def _top(reference: Values, rows: Sequence[Values]) -> tuple[float, str]:
    """Height of the axis, and what to say of the peaks above it.

    Args:
        reference: its densities.
        rows: densities of the methods.
    """
    own, peaks = _peak(reference), [_peak(row) for row in rows]
    highest = max(peaks, default=0.0)
    if 0.0 < CUT * own < highest:
        whole = max((p for p in peaks if p <= CUT * own), default=0.0)
        return max(KEPT * own, _HEADROOM * whole), f"cut: up to {highest / own:.0f}× the reference"
    if 0.0 < CUT * highest < own:
        return KEPT * highest, f"cut: the reference reaches {own / highest:.0f}× the methods"
    return _HEADROOM * max(own, highest) or 1.0, ""


def _peak(row: Values) -> float:
    finite = row[np.isfinite(row)]
    return float(finite.max()) if len(finite) else 0.0


def _runs(finite: Sequence[bool] | np.ndarray) -> Iterable[tuple[int, int]]:
    """Stretches of neighbours that are all there: first and one past the last."""
    padded = np.concatenate([[False], np.asarray(finite, dtype=bool), [False]])
    turns = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(a), int(b)) for a, b in zip(turns[::2], turns[1::2], strict=True)]


def _fine(values: Iterable[float]) -> list[int]:
    return [round(FINE * v) for v in values]


def _path(frame: Frame, at: Places, line: Line, values: Values, *, stepped: bool) -> Markup:
    """One line."""
    return Markup('<path class="line {}" data-name="{}" d="{}"/>').format(
        line.css, line.name, _trace(frame, at, values, stepped=stepped)
    )


def _trace(frame: Frame, at: Places, values: Values, *, stepped: bool) -> str:
    """Moves along a line; it is broken where a value is not finite."""
    xs = _fine(frame.x(v) for v in at)
    ys = [round(FINE * frame.y(v)) if math.isfinite(v) else 0 for v in values]
    moves = []
    for a, b in _runs(np.isfinite(values)):
        moves.append(f"M{xs[a]} {ys[a]}")
        if stepped:
            moves += [
                f"h{xs[k + 1] - xs[k]}" + (f"v{ys[k + 1] - ys[k]}" if k + 1 < b else "")
                for k in range(a, b)
            ]
        else:
            pairs = zip(range(a, b - 1), range(a + 1, b), strict=True)
            moves += [f"l{xs[j] - xs[i]} {ys[j] - ys[i]}" for i, j in pairs]
    return "".join(moves)


def _band(frame: Frame, at: Places, band: Float64[np.ndarray, "2 b"], *, stepped: bool) -> Markup:
    """The area between two lines."""
    ends = []
    for a, b in _runs(np.isfinite(band).all(axis=0)):
        index = [k // 2 for k in range(2 * a, 2 * b)] if stepped else list(range(a, b))
        where = [(k + 1) // 2 for k in range(2 * a, 2 * b)] if stepped else index
        xs = _fine(frame.x(at[k]) for k in where)
        low, high = (_fine(frame.y(row[k]) for k in index) for row in band)
        there = list(zip(xs, high, strict=True))
        back = list(zip(xs, low, strict=True))[::-1]
        ends.append("M" + "L".join(f"{x} {y}" for x, y in _thin([*there, *back])) + "z")
    return Markup('<path class="band" d="{}"/>').format("".join(ends)) if ends else Markup()


def _thin(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same outline without points that lie on the way."""
    kept = points[:1]
    for here, after in zip(points[1:], [*points[2:], None], strict=True):
        before = kept[-1]
        level = after is not None and before[1] == here[1] == after[1]
        upright = after is not None and before[0] == here[0] == after[0]
        if here != before and not level and not upright:
            kept.append(here)
    return kept


def _plot(
    title: str,
    frame: Frame,
    drawn: Sequence[Markup],
    x_label: str,
    y_label: str,
    cut: str = "",
    kind: str = "points",
) -> Markup:
    """Axes around what is drawn; the attributes tell the page's script how to read it back."""
    wide, high = frame.across, frame.down
    head = Markup(
        '<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {} {}" data-kind="{}" '
        'data-frame="{:.7g} {:.7g} {:.7g} {:.7g}" data-label="{}"><g transform="translate({} {})">'
    ).format(
        title, *frame.size, kind, frame.low, frame.high, frame.bottom, frame.top, x_label,
        LEFT, TOP,
    )  # fmt: skip
    data = Markup('<svg class="data" width="{}" height="{}" viewBox="0 0 {} {}">{}</svg>').format(
        wide, high, wide * FINE, high * FINE, Markup("").join(drawn)
    )
    note = Markup('<text class="cut" x="{}" y="-6">▲ {}</text>').format(wide - 4, cut)
    axes = _axes(frame, x_label, y_label)
    return Markup("").join([head, axes, data, note if cut else "", Markup("</g></svg>")])


def _axes(frame: Frame, x_label: str, y_label: str) -> Markup:
    """Grid, axes, ticks and labels."""
    wide, high = frame.across, frame.down
    across, up = ticks(frame.low, frame.high, 6), ticks(frame.bottom, frame.top, 4)
    grid = "".join(f"M0 {frame.y(v):.1f}h{wide}" for v in up if v != frame.bottom)
    notches = "".join(f"M{frame.x(v):.1f} {high}v4" for v in across)
    parts = [
        Markup('<path class="grid" d="{}"/>').format(grid),
        Markup('<path class="axis" d="M0 0V{}H{}{}"/>').format(high, wide, notches),
        *(_text("tx", frame.x(v), high + 15.0, t) for v, t in _labelled(across)),
        *(_text("ty", -5.0, frame.y(v) + 3.5, t) for v, t in _labelled(up)),
        _text("name", wide / 2, high + 31.0, x_label),
        Markup('<text class="name" transform="translate(-44 {})rotate(-90)">{}</text>').format(
            high / 2, y_label
        ),
    ]
    return Markup("").join(parts)


def _labelled(places: Sequence[float]) -> Iterable[tuple[float, str]]:
    step = places[1] - places[0] if len(places) > 1 else abs(places[0]) if places else 1.0
    return [(v, label(v, step or 1.0)) for v in places]


def _text(css: str, x: float, y: float, words: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(css, x, y, words)
