"""Energies of pairs of atom types from LAMMPS' pair styles, mixed as LAMMPS does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.io.topology.lammps_lines import LammpsInput, Row, plain_style, real_number
from deepbackmap.io.topology.lammps_styles import Units
from deepbackmap.system.pair_forms import PairForms, pair_forms

LENNARD_JONES = (
    "lj/cut", "lj/cut/coul/cut", "lj/cut/coul/long", "lj/cut/coul/msm", "lj/cut/coul/dsf",
    "lj/cut/coul/wolf", "lj/charmm/coul/charmm", "lj/charmm/coul/long", "lj/charmm/coul/msm",
    "lj/charmmfsw/coul/charmmfsh", "lj/charmmfsw/coul/long", "lj/long/coul/long",
    "lj/gromacs", "lj/gromacs/coul/gromacs",
)  # fmt: skip
EXPANDED = ("lj/expand", "lj/expand/coul/long")
CLASS2 = ("lj/class2", "lj/class2/coul/cut", "lj/class2/coul/long")
NINE_SIX = ("lj96/cut",)
BUCKINGHAM = (
    "buck", "buck/coul/cut", "buck/coul/long", "buck/coul/msm", "buck/long/coul/long",
)  # fmt: skip
FORMS = (LENNARD_JONES, EXPANDED, CLASS2, NINE_SIX, BUCKINGHAM)
"""Pair styles by the form of their energy, but for cut-offs, shifts, switches and Ewald sums."""
FORM = {style: k for k, styles in enumerate(FORMS) for style in styles}
NUMBERS = (2, 3, 2, 2, 3)
"""Of the coefficients of each form."""
COULOMB_ALONE = ("coul/cut", "coul/long", "coul/msm", "coul/dsf", "coul/wolf", "zero", "none")
"""Sub-styles of hybrid styles without any other energy."""
HYBRIDS = ("hybrid", "hybrid/overlay", "hybrid/scaled")


@dataclass(frozen=True)
class TypePairs:
    """Energies by pair of atom types; kJ/mol and nm."""

    c6: Float64[np.ndarray, "t t"]
    c12: Float64[np.ndarray, "t t"]
    sigma: Float64[np.ndarray, "t t"]
    epsilon: Float64[np.ndarray, "t t"]
    sigma14: Float64[np.ndarray, "t t"]
    """Of pairs that dihedrals weigh."""
    epsilon14: Float64[np.ndarray, "t t"]
    other: Bool[np.ndarray, "t t"]
    """Which are not Lennard-Jones."""
    forms: PairForms | None = None
    """Of all pairs, if any is not Lennard-Jones."""


@dataclass(frozen=True)
class _Coefficients:
    """What is said of pairs of types."""

    form: Int64[np.ndarray, "t t"]
    """Place in ``FORMS``."""
    values: Float64[np.ndarray, "5 t t"]
    """Sigma and epsilon, those of weighted 1-4 pairs, and what the form has third. Buckingham
    has C, A and rho in the places of sigma, epsilon and the third."""
    given: Bool[np.ndarray, "t t"]


def pairs_of_types(found: LammpsInput, units: Units, numbers: Sequence[int]) -> TypePairs:
    """Energies by pair of types; what is not known is noted.

    Args:
        found: pair styles and coefficients.
        units: of the file.
        numbers: of the atom types, in the order of the rows.

    Raises:
        InputError: malformed coefficients, or numbers too large.
    """
    n = len(numbers)
    style = found.style("pair")
    if not _is_known(found, style):
        zero = np.zeros((n, n))
        return TypePairs(zero, zero, zero, zero, zero, zero, zero > 0.0)
    said = _said(found, style, units, numbers)
    if not said.given.diagonal().all():
        k = int(np.argmin(said.given.diagonal()))
        found.refuse(f"expected pair coefficients of atom type {numbers[k]}, found none",
                     str(found.path))  # fmt: skip
    form = _forms(found, said, numbers)
    sigma, epsilon, sigma14, epsilon14, third = _all_mixed(found, said, form)
    columns = np.zeros((6, n, n))
    with np.errstate(over="ignore", invalid="ignore"):
        for k, make in enumerate(_COLUMNS):
            here = form == k
            columns[:, here] = make(sigma[here], epsilon[here], third[here])
    if not np.isfinite(columns).all():
        raise InputError(f"{found.path}: expected Lennard-Jones numbers whose C12 is finite")
    forms = pair_forms(columns)
    c6, c12 = (columns[0], columns[2]) if forms is None else forms.lennard_jones()
    return TypePairs(c6, c12, sigma, epsilon, sigma14, epsilon14, form != 0, forms)


def _is_known(found: LammpsInput, style: str) -> bool:
    """Whether a pair style has an energy that we know; what has none, is noted."""
    if style in FORM or style in COULOMB_ALONE:
        return style in FORM
    if style in HYBRIDS:
        subs = {plain_style(w) for w in found.styles["pair"][1:] if w[0].isalpha()}
        unknown = sorted(subs - {*FORM, *COULOMB_ALONE, "off", "on", "long", "cut"})
        if not unknown:
            return True
        style = f"{style} {' '.join(unknown)}"
    if style:
        found.refuse(f"the energy of pair_style {style} is not known", str(found.path))
    else:
        found.refuse("expected a pair_style in the data file or an input, found none",
                     str(found.path))  # fmt: skip
    return False


def _said(found: LammpsInput, style: str, units: Units, numbers: Sequence[int]) -> _Coefficients:
    """The coefficients that are given."""
    n, row = len(numbers), {t: k for k, t in enumerate(numbers)}
    form = np.zeros((n, n), dtype=np.int64)
    values, given = np.zeros((5, n, n)), np.zeros((n, n), dtype=bool)
    for line in found.pair_rows:
        first, second = (found.type_range("atom", line.where, w) for w in line.words[:2])
        pair = _numbers_of_pair(style, line, units)
        for i in first:
            for j in second:
                if i in row and j in row and (i <= j or len(first) == len(second) == 1):
                    for a, b in ((row[i], row[j]), (row[j], row[i])):
                        given[a, b] = True
                        if pair is None:
                            continue
                        if values[:, a, b].any() and form[a, b] != pair[0]:
                            found.refuse("the sum of two pair styles is not known", line.where)
                        form[a, b], values[:, a, b] = pair
    return _Coefficients(form, values, given)


def _numbers_of_pair(style: str, line: Row, units: Units) -> tuple[int, tuple[float, ...]] | None:
    """Form and numbers of a line; None: the sub-style has none.

    A pair of types that any sub-style of a hybrid names is not mixed, by LAMMPS' rule.
    """
    words = line.words[2:]
    if style in HYBRIDS and words:
        style, words = plain_style(words[0]), words[1:]
        if style not in FORM:
            return None
    form = FORM[style]
    if len(words) < NUMBERS[form]:
        expected = ("epsilon and sigma", "epsilon, sigma and a shift", *("epsilon and sigma",) * 2,
                    "A, rho and C")[form]  # fmt: skip
        raise InputError(
            f"{line.where}: expected {expected} of a pair of types, found {' '.join(line.words)}"
        )
    depth, size, *more = (real_number(line.where, w) for w in words)
    e, r = units.energy, units.length
    if FORMS[form] is BUCKINGHAM:
        return form, (more[0] * e * r**6, depth * e, 0.0, 0.0, size * r)
    third = more[0] * r if FORMS[form] is EXPANDED else 0.0
    if not (style.startswith("lj/charmm") and len(more) > 1):
        more = [depth, size]
    return form, (size * r, depth * e, more[1] * r, more[0] * e, third)


def _forms(
    found: LammpsInput, said: _Coefficients, numbers: Sequence[int]
) -> Int64[np.ndarray, "t t"]:
    """The form of every pair; those that LAMMPS would not mix are noted."""
    own = said.form.diagonal()
    mixed = ~said.given
    alone = mixed & (
        (own[:, None] != own[None]) | (own[:, None] == FORMS.index(BUCKINGHAM))
    ) & said.given.diagonal()[:, None] & said.given.diagonal()[None]  # fmt: skip
    for i, j in np.argwhere(np.triu(alone)).tolist():
        found.refuse(
            f"expected pair coefficients of atom types {numbers[i]} and {numbers[j]}, whose "
            f"styles are not mixed, found none", str(found.path)
        )  # fmt: skip
    return np.where(mixed, np.where(alone, 0, own[:, None]), said.form)


def _all_mixed(
    found: LammpsInput, said: _Coefficients, form: Int64[np.ndarray, "t t"]
) -> Float64[np.ndarray, "5 t t"]:
    """Numbers of all pairs."""
    charmm = any(word.startswith("lj/charmm") for word in found.styles["pair"])
    usual = found.mix or ("arithmetic" if charmm else "geometric")
    rules = [usual, usual, "sixthpower", usual, usual]  # class2 mixes in its own way alone
    mixed = np.zeros_like(said.values)
    for k, rule in enumerate(rules):
        here = (form == k) & ~said.given
        if not here.any() and k:
            continue
        for first in (0, 2):
            pair = _mixed(found, rule, said.values[first], said.values[first + 1])
            mixed[first : first + 2, here] = np.stack(pair)[:, here]
    own = said.values[4].diagonal()
    mixed[4] = 0.5 * np.add.outer(own, own)
    return np.where(said.given, said.values, mixed)


def _mixed(
    found: LammpsInput,
    rule: str,
    sigma: Float64[np.ndarray, "t t"],
    epsilon: Float64[np.ndarray, "t t"],
) -> tuple[Float64[np.ndarray, "t t"], Float64[np.ndarray, "t t"]]:
    """Sigma and epsilon of all pairs from those of equal types."""
    s, e = np.diag(sigma), np.diag(epsilon)
    depth = np.sqrt(np.abs(np.outer(e, e)))
    if rule == "arithmetic":
        return 0.5 * np.add.outer(s, s), depth
    if rule == "sixthpower":
        mean = 0.5 * np.add.outer(s**6, s**6)
        depth = np.divide(
            depth * np.outer(s**3, s**3), mean, out=np.zeros_like(mean), where=mean > 0.0
        )
        return mean ** (1.0 / 6.0), depth
    if rule != "geometric":
        found.refuse(f"the mixing rule {rule} is not known", str(found.path))
    return np.sqrt(np.abs(np.outer(s, s))), depth


def _lj(s: np.ndarray, e: np.ndarray, shift: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(s)
    return np.stack([4.0 * e * s**6, zero, 4.0 * e * s**12, zero, zero, shift])


def _class2(s: np.ndarray, e: np.ndarray, _: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(s)
    return np.stack([3.0 * e * s**6, 2.0 * e * s**9, zero, zero, zero, zero])


def _nine_six(s: np.ndarray, e: np.ndarray, _: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(s)
    return np.stack([4.0 * e * s**6, 4.0 * e * s**9, zero, zero, zero, zero])


def _buckingham(c6: np.ndarray, a: np.ndarray, rho: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(a)
    steepness = np.divide(1.0, rho, out=np.zeros_like(rho), where=rho > 0.0)
    return np.stack([c6, zero, zero, a, steepness, zero])


_COLUMNS: tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], ...] = (
    _lj, _lj, _class2, _nine_six, _buckingham
)  # fmt: skip
"""Columns of ``PairForms`` from the numbers of each form."""
