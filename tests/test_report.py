import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepbackmap.evaluation.result import Sentence
from deepbackmap.report import render_report, svg
from deepbackmap.report.definitions import DEFINITIONS, definition_of
from deepbackmap.report.molecules import excerpt, laid_flat, payload
from deepbackmap.report.numbers import plain, ratio, rich
from report_systems import (
    HOSTILE,
    chain,
    evaluation,
    figure,
    molecule,
    renamed,
    structure_map,
)

NAN = float("nan")
VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """What a browser would see of a page: its elements and the text of some."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.stack, self.texts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.stack[-1] if self.stack else "", []).append(data)

    def all(self, tag, **wanted):
        return [
            a
            for t, a in self.elements
            if t == tag and all(v in (a.get(k) or "").split() for k, v in wanted.items())
        ]


@pytest.fixture(scope="module")
def shown():
    return evaluation(n_distributions=12, n_worst=2), structure_map(n=40)


@pytest.fixture(scope="module")
def html(shown):
    return render_report(*shown)


@pytest.fixture(scope="module")
def page(html):
    parsed = Page(html)
    assert parsed.stack == []  # every element is closed
    return parsed


def cells(html, name):
    """Text of the cells of one row of the table: reference, floor, methods."""
    row = next(r for r in re.findall(r"<tr.*?</tr>", html, re.S) if f">{name}</a>" in r)
    plain_text = (re.sub(r"<[^>]+>", " ", c) for c in re.findall(r"<td.*?</td>", row, re.S))
    return [" ".join(text.replace("&nbsp;", " ").split()) for text in plain_text]


# The page


def test_has_every_part_in_order(page):
    ids = [a["id"] for a in page.all("section")]
    assert ids == [
        "verdict", "table", "bonds", "angles", "dihedrals", "impropers", "energies", "structure",
        "map", "molecules", "notes", "definitions", "cite",
    ]  # fmt: skip


def test_draws_every_distribution_curve_and_map(page, shown):
    result, a_map = shown
    kinds = [a["data-kind"] for a in page.all("svg", **{"class": "plot"})]
    assert kinds.count("steps") == len(result.distributions)
    assert kinds.count("curve") == len(result.curves)
    assert kinds.count("points") == len(a_map.samples)  # all together, then each method
    assert len(page.all("canvas")) == sum(len(m.worst) for m in result.methods)


def test_links_lead_somewhere_and_nowhere_else(page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for a in page.all("a")]
    assert targets
    assert all(t.startswith("#") and t[1:] in ids for t in targets)
    assert not [a for _, a in page.elements if "src" in a or "srcset" in a]
    assert not page.all("link") and not page.all("iframe")


def test_the_policy_allows_this_script_and_style_only(html, page):
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert "default-src 'none'" in policy
    for kind in ("script", "style"):
        text = re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.S)
        assert len(text) == 1
        digest = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in page.elements if "style" in a or any(k[:2] == "on" for k in a)]


def test_names_from_files_stay_text():
    result = renamed(evaluation(("model", "paper"), n_distributions=6, n_worst=1), "model", HOSTILE)
    result = replace(
        result,
        topology=HOSTILE,
        reference=HOSTILE,
        notes=(HOSTILE,),
        figures=tuple(replace(f, name=f"{f.name} {HOSTILE}", unit=HOSTILE) for f in result.figures),
        distributions=tuple(
            replace(d, name=f"{d.name} {HOSTILE}", unit=HOSTILE) for d in result.distributions
        ),
        methods=tuple(
            replace(
                m,
                verdict=(Sentence("bad", HOSTILE),),
                worst=tuple(
                    replace(
                        w,
                        name=HOSTILE,
                        reason=HOSTILE,
                        atom_names=(HOSTILE,) * len(w.atom_names),
                    )
                    for w in m.worst
                ),
            )
            for m in result.methods
        ),
    )
    a_map = replace(structure_map((HOSTILE, "paper"), 20), settings={HOSTILE: HOSTILE})
    text = render_report(result, a_map)
    parsed = Page(text)
    assert parsed.stack == []
    assert "<script>alert" not in text
    assert len(parsed.all("script")) == 2  # the molecules and the page's own
    assert HOSTILE in parsed.texts["dd"] and HOSTILE in parsed.texts["li"]
    assert json.loads("".join(parsed.texts["script"][:1]))[0]["n"][0] == HOSTILE


def test_the_same_evaluation_gives_the_same_page(shown, html):
    assert render_report(*shown) == html


def test_says_what_was_compared(html, shown):
    for words in ("topol.top", "test_568K_aa.xtc", "36 reference frames", "5 832 atoms", "568 K"):
        assert words in html
    without = render_report(replace(shown[0], temperature=None), None)
    assert "not given" in without and "568 K" not in without
    assert "no structure map" in without


@pytest.mark.parametrize(
    ("levels", "summary"),
    [
        (("good", "good"), "as good as MD"),
        (("fair", "good"), "usable after finish"),
        (("good", "bad", "fair"), "not usable"),
        ((), "no verdict"),
    ],
)
def test_the_worst_sentence_decides(levels, summary):
    result = evaluation(("paper",), n_distributions=1, n_worst=0)
    only = replace(result.methods[0], verdict=tuple(Sentence(x, f"is {x}") for x in levels))
    text = render_report(replace(result, methods=(only,)), None)
    assert re.findall(r"<p class=\"badge.*?<strong>(.*?)</strong>", text, re.S) == [summary]
    assert re.findall(r"</b> is (\w+)</span>", text) == list(levels)


def test_the_overlap_says_what_differs(html):
    table = re.search(r"<table class=\"overlap\">.*?</table>", html, re.S)[0]
    rows = [
        re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", table, re.S)[1:]
    ]
    assert [row[-1] for row in rows] == ["seen", "seen", "yes", "yes", "yes"]
    assert " ".join(rows[0]) == "reference (halves) −0.00010 0.0010 0.610 not seen"
    assert "&lt; 0.0010" in table  # none of 1000 was as large
    assert "1\u202f000 permutations of frames" in table


# The table


def table_of(*figures, methods=("a", "b")):
    result = evaluation(methods, n_distributions=0, n_worst=0)
    return render_report(replace(result, figures=figures), None)


def test_a_row_shows_value_error_floor_and_ratio():
    row = figure("shift", "energies", ("a", "b"), unit="sd", target=0.0, reference=0.0, floor=0.03,
                 values=(0.97, -8.1), error=0.02)  # fmt: skip
    assert cells(table_of(row), "shift") == ["0", "0.030", "★ best: 0.970 ± 0.020 32×",
                                             "−8.100 ± 0.020 270×"]  # fmt: skip


def test_a_ratio_is_judged_by_its_distance_from_one():
    row = figure("angle energy, ratio", "energies", ("a", "b"), unit="", target=1.0, reference=1.0,
                 floor=1.01, values=(1.05, 0.97), error=NAN)  # fmt: skip
    reference, floor, a, b = cells(table_of(row), "angle energy, ratio")
    assert (reference, floor) == ("1.00", "1.01")
    assert a == "1.05 5.0×" and b == "★ best: 0.970 3.0×"


def test_a_floor_of_zero_and_a_tie():
    row = figure("bonds through rings", "rings", ("a", "b", "c"), unit="a frame", target=0.0,
                 reference=0.0, floor=0.0, values=(0.0, 0.0, 3.8), error=NAN)  # fmt: skip
    _, _, a, b, c = cells(table_of(row, methods=("a", "b", "c")), "bonds through rings")
    assert a == b == "★ best: 0 1.0×"
    assert c == "3.80 floor 0"


def test_without_target_the_reference_is_what_to_be_near():
    row = figure("smallest distance", "contacts", ("a", "b"), unit="sigma", target=NAN,
                 reference=0.76, floor=NAN, values=(0.85, 0.70), error=NAN)  # fmt: skip
    assert cells(table_of(row), "smallest distance") == ["0.760", "–", "0.850", "★ best: 0.700"]


def test_what_cannot_be_said_is_a_dash_and_never_best():
    row = figure("shift", "energies", ("a",), unit="", target=0.0, reference=NAN, floor=NAN,
                 values=(NAN,), error=NAN)  # fmt: skip
    assert cells(table_of(row), "shift") == ["–", "–", "–", "–"]  # and method b lacks it


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("angle C-C_AR-C_AR", "angles"),
        ("dihedral C-C-C-C", "dihedrals"),
        ("impropers", "impropers"),
        ("LJ per chain", "lj"),
        ("LJ per chain, shift of the median", "shift"),
        ("angle energy, ratio", "energy-ratio"),
        ("g(r), mean absolute error", "rdf"),
        ("overlapping pairs", "contacts"),
        ("swapped prochiral hydrogens", "stereo"),
        ("bonds through rings", "rings"),
        ("bent rings", "rings"),
        ("bond length deviation, rms", "bonds"),
        ("re-mapped beads, largest distance", "beads"),
    ],
)
def test_figures_are_explained(name, key):
    row = figure(name, "energies", ("a",), unit="", target=0.0, reference=0.0, floor=0.0,
                 values=(0.0,))  # fmt: skip
    assert definition_of(row).key == key


def test_the_glossary_has_one_entry_a_key():
    keys = [d.key for d in DEFINITIONS]
    assert len(keys) == len(set(keys))


# Numbers


@given(
    st.floats(-1e12, 1e12, allow_nan=False),
    st.one_of(st.just(NAN), st.just(0.0), st.floats(1e-9, 1e6)),
)
def test_numbers_read_back_within_their_digits(value, error):
    text = plain(value, error).replace("−", "-")
    near = 0.05 * abs(value) + 1e-6  # two digits; six behind the point
    if error > 0.0:
        near = max(near, error)
    assert abs(float(text) - value) <= near


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.04213, 0.00114, "0.0421 ± 0.0011"),
        (0.04213, 0.0071, "0.042 ± 0.007"),
        (-8.1, 0.02, "−8.100 ± 0.020"),
        (0.0009, NAN, "0.00090"),
        (5.83, NAN, "5.83"),
        (0.0, NAN, "0"),
        (0.0, 0.0, "0"),
        (1.0, 3e-17, "1.00 ± 0"),
        (3.4e8, NAN, "3.4·10<sup>8</sup>"),
        (-2e-9, NAN, "−2.0·10<sup>−9</sup>"),
        (NAN, 0.1, "–"),
        (math.inf, NAN, "∞"),
    ],
)
def test_numbers_have_the_digits_of_their_error(value, error, text):
    shown = re.sub(r"</?span[^>]*>", "", str(rich(value, error))).replace("&nbsp;", " ")
    assert shown == text


def test_ratios():
    assert [ratio(v) for v in (0.4, 1.0, 9.96, 270.4, 12533.0, NAN, math.inf)] == [
        "0.4×", "1.0×", "10×", "270×", "12\u202f533×", "–", "floor 0",
    ]  # fmt: skip


# Plots


def corners(path):
    """Absolute corners of a path's moves."""
    x = y = 0
    points = []
    for command, text in re.findall(r"([MhvlL])([^MhvlLz]*)", path):
        v = [float(t) for t in text.split()]
        if command in "ML":
            x, y = v
        elif command == "l":
            x, y = x + v[0], y + v[1]
        else:
            x, y = (x + v[0], y) if command == "h" else (x, y + v[0])
        points.append((x, y))
    return np.array(points)


def line_of(drawing, css):
    return re.search(rf'<path class="line {css}"[^>]* d="([^"]*)"', str(drawing))[1]


def frame_of(drawing):
    low, high, bottom, top = map(float, re.search(r'data-frame="([^"]*)"', str(drawing))[1].split())
    wide, down = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)">', str(drawing)).groups())
    return low, high, bottom, top, wide, down


def drawn(reference, *, method=None, band=None, edges=None):
    n = len(reference)
    edges = np.linspace(-3.0, 5.0, n + 1) if edges is None else edges
    return svg.histogram(
        "title",
        edges,
        reference,
        np.full((2, n), NAN) if band is None else band,
        [] if method is None else [svg.Line("m", "m0", method)],
        x_label="x",
        y_label="y",
    )


def test_the_area_under_a_histogram_is_one():
    density = np.random.default_rng(0).random(50)
    density[[0, -1]] = 0.0
    density /= density.sum() * 0.16
    picture = drawn(density)
    low, high, bottom, top, wide, down = frame_of(picture)
    points = corners(line_of(picture, "ref"))
    steps = np.diff(points[:, 0])
    heights = (down - points[:-1, 1]) / down * (top - bottom)
    area = (heights * steps).sum() / wide * (high - low)
    assert area == pytest.approx(1.0, abs=0.005)


def test_empty_ends_are_not_drawn_but_outliers_in_the_end_bins_are():
    density = np.zeros(80)
    density[30:50] = 0.5
    low, high, *_ = frame_of(drawn(density))
    assert (low, high) == (pytest.approx(-0.1), pytest.approx(2.1))  # and a bin on each side
    outlying = np.where(np.arange(80) == 79, 0.2, density)
    assert frame_of(drawn(density, method=outlying))[1] == pytest.approx(5.0)


def test_a_peak_far_above_the_reference_is_cut_and_named():
    low = np.full(40, 0.1)
    peak = np.where(np.arange(40) == 20, 4.0, 0.0)
    picture = drawn(low, method=peak)
    assert "cut: up to 40× the reference" in picture
    assert frame_of(picture)[3] == pytest.approx(0.25)
    assert "cut:" not in drawn(low, method=2.0 * low)
    # what is not cut is whole, and a reference that stands far above the methods is cut likewise
    both = svg.histogram("t", np.arange(41.0), low, np.full((2, 40), NAN),
                         [svg.Line("p", "m0", peak), svg.Line("q", "m1", 3.9 * low)],
                         x_label="x", y_label="y")  # fmt: skip
    assert frame_of(both)[3] == pytest.approx(0.39 * 1.06)
    spike = drawn(peak, method=low)
    assert "cut: the reference reaches 40× the methods" in spike
    assert frame_of(spike)[3] == pytest.approx(0.25)
    # the line itself keeps its height, so that it can be read
    _, _, _, top, _, down = frame_of(picture)
    assert (1 - corners(line_of(picture, "m0"))[:, 1].min() / down) * top == pytest.approx(
        4.0, 0.01
    )


def test_the_band_is_there_where_it_is_known():
    density = np.full(10, 0.125)
    assert 'class="band"' not in drawn(density)
    band = np.array([density * 0.9, density * 1.1])
    band[:, 4:6] = NAN
    path = re.search(r'class="band" d="([^"]*)"', str(drawn(density, band=band)))[1]
    assert path.count("M") == 2  # before and behind the gap
    points = corners(path)
    _, _, _, top, _, down = frame_of(drawn(density, band=band))
    heights = (1 - points[:, 1] / down) * top
    assert heights.min() == pytest.approx(0.1125, abs=1e-4)
    assert heights.max() == pytest.approx(0.1375, abs=1e-4)


def test_what_is_not_finite_breaks_a_line():
    density = np.full(10, 0.125)
    density[5] = NAN
    assert line_of(drawn(density), "ref").count("M") == 2
    everything = drawn(np.full(10, NAN))
    assert line_of(everything, "ref") == ""
    assert "nan" not in str(everything).lower().replace("name", "")


@given(st.floats(-1e6, 1e6), st.floats(1e-5, 1e6), st.integers(3, 8))
def test_ticks_are_round_even_and_inside(low, span, count):
    high = low + span
    found = svg.ticks(low, high, count)
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= t <= high + slack for t in found)
    assert len(found) <= count + 1
    if span > 1e-3 * abs(low):
        assert len(found) >= 1
        steps = np.diff(found)
        assert np.allclose(steps, steps[0] if len(steps) else 0.0, rtol=1e-3)


def test_tick_labels_differ():
    windows = ((0.0, 1.0), (0.1, 0.105), (-1500.0, -1200.0), (0.0, 3e7), (0.0, 2e-6), (99.5, 100.5))
    for low, high in windows:
        places = svg.ticks(low, high)
        labels = [svg.label(t, places[1] - places[0]) for t in places]
        assert len(set(labels)) == len(labels), labels


def test_a_map_keeps_shapes():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    picture = svg.scatter("map", {0: points}, points, {0: "ref"}, {0: {"name": "reference"}})
    path = re.search(r'class="dot ref"[^>]* d="([^"]*)"', str(picture))[1]
    a, b, c = (np.array(m, dtype=float) for m in re.findall(r"M(-?\d+) (-?\d+)", path))
    assert np.linalg.norm(b - a) == pytest.approx(np.linalg.norm(c - a), abs=1)
    assert b[0] > a[0] and c[1] < a[1]


# Molecules


def volume(xyz):
    return float(np.linalg.det(xyz[1:4] - xyz[0]))


def test_molecules_are_turned_and_never_mirrored():
    rng = np.random.default_rng(1)
    for _ in range(20):
        before = rng.normal(size=(30, 3)) * [3.0, 1.0, 0.3] + rng.normal(size=3)
        turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        before = before @ turned
        after = laid_flat(before)
        assert volume(after) == pytest.approx(volume(before))
        spread = after.std(axis=0)
        assert spread[0] >= spread[1] >= spread[2]
        gram = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (before, after)]
        assert np.allclose(*gram)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_tiny_molecules(n):
    assert laid_flat(np.random.default_rng(0).normal(size=(n, 3))).shape == (n, 3)


def test_the_viewer_gets_whole_picometres():
    view = molecule("paper", 0, np.random.default_rng(0))
    given_to = payload(view)
    elements, _, bonds = chain()
    xyz = np.array(given_to["p"]).reshape(-1, 3) / 1000.0
    pairs = np.array(given_to["b"]).reshape(-1, 2)
    assert np.array_equal(pairs, bonds)
    lengths = np.linalg.norm(np.diff(xyz[pairs], axis=1), axis=-1)
    right = np.linalg.norm(np.diff(view.positions[bonds], axis=1), axis=-1)
    assert np.allclose(lengths, right, atol=0.0015)
    assert [given_to["s"][e] for e in given_to["e"]] == list(elements)
    assert given_to["m"] == list(view.marked)


def test_of_a_very_large_molecule_the_place_is_shown():
    view = molecule("paper", 0, np.random.default_rng(0))
    part = excerpt(view, 30)
    assert len(part.positions) == len(part.elements) == len(part.atom_names) == 30
    centre = view.positions[view.marked[0]]
    far = np.linalg.norm(part.positions - centre, axis=1).max()
    assert (np.linalg.norm(view.positions - centre, axis=1) < far - 1e-9).sum() == 29
    assert part.atom_names[part.marked[0]] == view.atom_names[view.marked[0]]
    names = {frozenset(np.array(view.atom_names)[b]) for b in view.bonds}
    assert {frozenset(np.array(part.atom_names)[b]) for b in part.bonds} <= names
    assert excerpt(view, 1000) is view
