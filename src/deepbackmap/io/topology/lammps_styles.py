"""Coefficients of LAMMPS' bond, angle, dihedral and improper styles in our kinds and columns.

Styles that no kind of ours equals become tables of it: a cubic through values and slopes at points
so near each other that it is right to about ten digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex128, Float64

from deepbackmap.quantities import COULOMB

AVOGADRO = 6.02214076e23


@dataclass(frozen=True)
class Units:
    """One of LAMMPS' systems of units, in ours."""

    energy: float
    """kJ/mol."""
    length: float
    """nm."""
    mass: float
    """u."""
    charge: float
    """e."""


UNITS = {
    "real": Units(4.184, 0.1, 1.0, 1.0),
    "metal": Units(96.48533212, 0.1, 1.0, 1.0),
    "si": Units(AVOGADRO * 1e-3, 1e9, AVOGADRO * 1e3, 1.0 / 1.602176634e-19),
    # reduced: epsilon stands for 1 kJ/mol, sigma for 1 nm, the mass for 1 u
    "lj": Units(1.0, 1.0, 1.0, 1.0 / math.sqrt(COULOMB)),
}

WEIGHT = "1-4 weight"
"""Not a kind: the factor of the pair of the first and last atom of a dihedral."""
LISTED = "listed pair"
"""Not a kind: C6, C12 and product of charges of a pair, kJ/mol, nm and e^2."""
POINTS = 3601
"""Of tables made of formulas."""
SMALLEST = 1e-3
"""Of the range of a table of distances, where it begins."""


@dataclass(frozen=True)
class Curve:
    """A table of energies at even spacing."""

    start: float
    """nm or rad."""
    spacing: float
    values: Float64[np.ndarray, "2 points"]
    """Energies in kJ/mol and their slopes."""


@dataclass(frozen=True)
class Made:
    """A term in our words."""

    kind: str
    """In ``system.kinds.KINDS``, or ``WEIGHT`` or ``LISTED``."""
    parameters: tuple[float, ...] = ()
    """Columns of the kind; none for tables."""
    curve: Curve | None = None


Formula = Callable[[Complex128[np.ndarray, " p"]], Complex128[np.ndarray, " p"]]
"""An energy in LAMMPS' unit at distances in its unit or angles in rad, analytic where it is asked
for, so that a small step along the imaginary axis gives its slope."""


def tabulated(energy: Formula, first: float, last: float, scale: float, length: float) -> Curve:
    """A formula as a table.

    Args:
        energy: in LAMMPS' unit.
        first: where the table begins, LAMMPS' unit or rad.
        last: where it ends.
        scale: of energies, kJ/mol.
        length: of the argument: nm of LAMMPS' unit, 1 for angles.

    Raises:
        ValueError: there is nothing between the ends, or the energy is not finite.
    """
    x = np.linspace(first, last, POINTS)
    step = 1e-20
    with np.errstate(all="ignore"):
        slope = energy(x + 1j * step).imag / step
        values = np.stack([energy(x.astype(np.complex128)).real * scale, slope * scale / length])
    if not (last > first and np.isfinite(values).all()):
        raise ValueError("a finite energy")
    return Curve(first * length, (last - first) / (POINTS - 1) * length, values)


# --- bonds


def _spring(v: list[float], u: Units) -> list[Made]:
    k, length = v
    return [Made("bond", (length * u.length, 2.0 * k * u.energy / u.length**2))]


def _morse(v: list[float], u: Units) -> list[Made]:
    depth, alpha, length = v
    return [Made("morse", (length * u.length, depth * u.energy, alpha / u.length))]


def _gromos(v: list[float], u: Units) -> list[Made]:
    k, length = v
    return [Made("bond_g96", (length * u.length, 4.0 * k * u.energy / u.length**4))]


def _spring_class2(v: list[float], u: Units) -> list[Made]:
    length, k2, k3, k4 = v
    if k4 or not k2:
        return _bond_table(
            lambda r: (r - length) ** 2 * (k2 + k3 * (r - length) + k4 * (r - length) ** 2),
            3.0 * length,
            u,
        )
    return [
        Made("bond_cubic", (length * u.length, k2 * u.energy / u.length**2, k3 / k2 / u.length))
    ]


def _bond_table(energy: Formula, last: float, u: Units, kind: str = "bond_table") -> list[Made]:
    return [Made(kind, (), tabulated(energy, SMALLEST * last, last, u.energy, u.length))]


def _repulsion(epsilon: float, sigma: float) -> Formula:
    """Lennard-Jones up to its minimum, raised to end at zero (WCA)."""

    def energy(r: np.ndarray) -> np.ndarray:
        inside = r.real < sigma * 2.0 ** (1.0 / 6.0)
        power = np.where(inside, sigma / r, 0.0) ** 6
        return 4.0 * epsilon * power * (power - 1.0) + np.where(inside, epsilon, 0.0)

    return energy


def _fene(v: list[float], u: Units) -> list[Made]:
    k, longest, epsilon, sigma = v
    spring = Made("fene", (longest * u.length, k * u.energy / u.length**2))
    if not epsilon or not sigma:
        return [spring]
    first = 0.4 * sigma
    curve = tabulated(_repulsion(epsilon, sigma), first, 2.0 * longest, u.energy, u.length)
    return [spring, Made("bond_table_nc", (), curve)]


def _fene_expand(v: list[float], u: Units) -> list[Made]:
    k, longest, epsilon, sigma, shift = v
    wall = _repulsion(epsilon, sigma)

    def energy(r: np.ndarray) -> np.ndarray:
        x = r - shift
        return -0.5 * k * longest**2 * np.log(1.0 - (x / longest) ** 2) + wall(x)

    first = shift + 0.4 * sigma if epsilon and sigma else max(1e-3, shift - 0.995 * longest)
    last = shift + 0.995 * longest
    return [Made("bond_table", (), tabulated(energy, first, last, u.energy, u.length))]


def _nonlinear(v: list[float], u: Units) -> list[Made]:
    epsilon, length, reach = v

    def energy(r: np.ndarray) -> np.ndarray:
        return epsilon * (r - length) ** 2 / (reach**2 - (r - length) ** 2)

    first, last = max(1e-3, length - 0.995 * reach), length + 0.995 * reach
    return [Made("bond_table", (), tabulated(energy, first, last, u.energy, u.length))]


def _shifted(v: list[float], u: Units) -> list[Made]:
    depth, length, critical = v
    k = depth / (critical - length) ** 2
    return _bond_table(
        lambda r: k * ((r - length) ** 2 - (critical - length) ** 2), 3.0 * critical, u
    )


def _quartic(v: list[float], u: Units) -> list[Made]:
    """Breaks at its end; its Lennard-Jones is in reduced units whatever the others are."""
    k, b1, b2, critical, height = v
    wall = _repulsion(1.0, 1.0)

    def energy(r: np.ndarray) -> np.ndarray:
        x = r - critical
        return k * x**2 * (x - b1) * (x - b2) + height + wall(r)

    return [Made("bond_table", (), tabulated(energy, 0.4, critical, u.energy, u.length))]


def _shifted_cut(v: list[float], u: Units) -> list[Made]:
    _, _, critical = v
    (whole,) = _shifted(v, u)
    assert whole.curve is not None
    x = whole.curve.start + whole.curve.spacing * np.arange(POINTS)
    values = np.where(x < critical * u.length, whole.curve.values, 0.0)
    return [Made("bond_table", (), Curve(whole.curve.start, whole.curve.spacing, values))]


def _bond_mm3(v: list[float], u: Units) -> list[Made]:
    k, length = v

    def energy(r: np.ndarray) -> np.ndarray:
        x = (r - length) * (u.length / 0.1)  # its numbers are those of angstroms
        return k * (r - length) ** 2 * (1.0 - 2.55 * x + 7.0 / 12.0 * 2.55**2 * x * x)

    return _bond_table(energy, 3.0 * length, u)


# --- angles


def _bend(v: list[float], u: Units) -> list[Made]:
    k, theta = v
    return [Made("angle", (math.radians(theta), 2.0 * k * u.energy))]


def _bend_charmm(v: list[float], u: Units) -> list[Made]:
    k, theta, spring, length = v
    columns = (length * u.length, 2.0 * spring * u.energy / u.length**2)
    return [Made("urey_bradley", (math.radians(theta), 2.0 * k * u.energy, *columns))]


def _bend_squared(v: list[float], u: Units) -> list[Made]:
    k, theta = v
    return [Made("angle_g96", (math.radians(theta), 2.0 * k * u.energy))]


def _bend_quartic(v: list[float], u: Units) -> list[Made]:
    theta, *powers = v
    k2, k3, k4 = (k * u.energy for k in powers)
    return [Made("angle_quartic", (math.radians(theta), 0.0, 0.0, k2, k3, k4))]


def _bend_class2(v: list[float], u: Units) -> list[Made]:
    _, _, _, _ = v
    return _bend_quartic(v, u)


def _bond_bond(v: list[float], u: Units) -> list[Made]:
    k, first, second = v
    columns = (first * u.length, second * u.length, k * u.energy / u.length**2)
    return [Made("bond_bond", columns)] if k else []


def _bond_bend(k1: float, k2: float, lengths: list[float], theta: float, u: Units) -> list[Made]:
    if not (k1 or k2):
        return []
    scale = u.energy / u.length
    first, second = (r * u.length for r in lengths)
    return [Made("bond_bend", (math.radians(theta), first, second, k1 * scale, k2 * scale))]


def _bend_bonds(v: list[float], u: Units) -> list[Made]:
    k1, k2, first, second, theta = v
    return _bond_bend(k1, k2, [first, second], theta, u)


def _bend_cross(v: list[float], u: Units) -> list[Made]:
    bonds, k1, k2, first, second, theta = v
    return [
        *_bond_bond([bonds, first, second], u),
        *_bond_bend(k1, k2, [first, second], theta, u),
    ]


def _bend_restricted(v: list[float], u: Units) -> list[Made]:
    k, theta = v
    return [Made("angle_restricted", (math.radians(theta), 2.0 * k * u.energy))]


def _angle_table(energy: Formula, u: Units) -> list[Made]:
    return [Made("angle_table", (), tabulated(energy, 0.0, math.pi, u.energy, 1.0))]


def _cosine(v: list[float], u: Units) -> list[Made]:
    (k,) = v
    return _angle_table(lambda x: k * (1.0 + np.cos(x)), u)


def _cosine_delta(v: list[float], u: Units) -> list[Made]:
    k, theta = v[0], math.radians(v[1])
    return _angle_table(lambda x: k * (1.0 - np.cos(x - theta)), u)


def _cosine_shift(v: list[float], u: Units) -> list[Made]:
    depth, theta = v[0], math.radians(v[1])
    return _angle_table(lambda x: -0.5 * depth * (1.0 + np.cos(x - theta)), u)


def _cosine_periodic(v: list[float], u: Units) -> list[Made]:
    c, b, n = v
    # LAMMPS divides by the square of n when it reads the coefficient
    return _angle_table(lambda x: 2.0 * c / n**2 * (1.0 - b * (-1) ** int(n) * np.cos(n * x)), u)


def _bend_fourier(v: list[float], u: Units) -> list[Made]:
    k, c0, c1, c2 = v
    return _angle_table(lambda x: k * (c0 + c1 * np.cos(x) + c2 * np.cos(2.0 * x)), u)


def _bend_fourier_simple(v: list[float], u: Units) -> list[Made]:
    k, c, n = v
    return _angle_table(lambda x: k * (1.0 + c * np.cos(n * x)), u)


def _bend_mm3(v: list[float], u: Units) -> list[Made]:
    k, theta = v[0], math.radians(v[1])
    powers = (2.2e-8, -7.0e-7, 5.6e-5, -0.014, 1.0)  # of degrees, the fourth first

    def energy(x: np.ndarray) -> np.ndarray:
        off = (x - theta) * (180.0 / math.pi)
        return k * (x - theta) ** 2 * np.polyval(powers, off)

    return _angle_table(energy, u)


# --- dihedrals


def _turn(v: list[float], u: Units) -> list[Made]:
    k, sign, n = v
    return [Made("proper", (0.0 if sign > 0 else math.pi, k * u.energy, n))]


def _turn_charmm(v: list[float], u: Units) -> list[Made]:
    k, n, phase, weight = v
    pair = [Made(WEIGHT, (weight,))] if weight else []
    return [Made("proper", (math.radians(phase), k * u.energy, n)), *pair]


def _turns(v: list[float], u: Units) -> list[Made]:
    rows = np.array(v[1:]).reshape(int(v[0]), 3).tolist()
    return [Made("proper", (math.radians(phase), k * u.energy, n)) for k, n, phase in rows]


def _opls(v: list[float], u: Units) -> list[Made]:
    f1, f2, f3, f4 = (x * u.energy for x in v)
    c = (f2 + (f1 + f3) / 2, (3 * f3 - f1) / 2, 4 * f4 - f2, -2 * f3, -4 * f4, 0.0)
    return [Made("ryckaert_bellemans", c)]


def _powers(v: list[float], u: Units) -> list[Made]:
    c = [x * u.energy * (-1) ** n for n, x in enumerate(v)]
    if len(c) > 6:
        return _dihedral_table(lambda x: np.polyval(v[::-1], np.cos(x)), u)
    if not c:
        raise ValueError("at least one power")
    return [Made("ryckaert_bellemans", (*c, *(0.0,) * (6 - len(c))))]


def _nharmonic(v: list[float], u: Units) -> list[Made]:
    if len(v) != int(v[0]) + 1:
        raise ValueError("as many powers as it says")
    return _powers(v[1:], u)


def _multi(v: list[float], u: Units) -> list[Made]:
    if len(v) != 5:
        raise ValueError("five powers")
    return _powers(v, u)


def _helix(v: list[float], u: Units) -> list[Made]:
    a, b, c = (x * u.energy for x in v)
    rows = ((math.pi, a, 1.0), (0.0, b, 3.0), (-math.pi / 4.0, c, 1.0))
    return [Made("proper", row) for row in rows]


def _quadratic(v: list[float], u: Units) -> list[Made]:
    k, phi = v
    return [Made("improper", (math.radians(phi), 2.0 * k * u.energy))]


def _shift_exp(v: list[float], u: Units) -> list[Made]:
    depth, theta, a = v[0], math.radians(v[1]), v[2]
    if abs(a) < 1e-3:
        return _dihedral_table(lambda x: -0.5 * depth * (1.0 + np.cos(x - theta)), u)
    top = math.exp(a) - 1.0
    return _dihedral_table(
        lambda x: -depth * (np.exp(0.5 * a * (1.0 + np.cos(x - theta))) - 1.0) / top, u
    )


def _turn_restricted(v: list[float], u: Units) -> list[Made]:
    k, phi = v
    return [Made("dihedral_restricted", (math.radians(phi), 2.0 * k * u.energy))]


def _turn_class2(v: list[float], u: Units) -> list[Made]:
    rows = np.array(v).reshape(3, 2).tolist()
    return [
        Made("proper", (math.radians(phase) + math.pi, k * u.energy, float(n)))
        for n, (k, phase) in enumerate(rows, 1)
        if k
    ]


def _bond_torsion(k: list[float], lengths: list[float], u: Units) -> list[Made]:
    columns = (*(r * u.length for r in lengths), *(x * u.energy / u.length for x in k))
    return [Made("bond_torsion", columns)] if any(k) else []


def _middle_bond_torsion(v: list[float], u: Units) -> list[Made]:
    *k, length = v
    _, _, _ = k
    return _bond_torsion([0.0] * 3 + k + [0.0] * 3, [0.0, length, 0.0], u)


def _end_bond_torsion(v: list[float], u: Units) -> list[Made]:
    *k, first, last = v
    _, _, _, _, _, _ = k
    return _bond_torsion(k[:3] + [0.0] * 3 + k[3:], [first, 0.0, last], u)


def _angle_torsion(v: list[float], u: Units) -> list[Made]:
    *k, first, second = v
    _, _, _, _, _, _ = k
    columns = (*map(math.radians, (first, second)), *(x * u.energy for x in k), 0.0)
    return [Made("angle_torsion", columns)] if any(k) else []


def _angle_angle_torsion(v: list[float], u: Units) -> list[Made]:
    k, first, second = v
    columns = (*map(math.radians, (first, second)), *(0.0,) * 6, k * u.energy)
    return [Made("angle_torsion", columns)] if k else []


def _bond_bond_13(v: list[float], u: Units) -> list[Made]:
    k, first, last = v
    columns = (first * u.length, last * u.length, k * u.energy / u.length**2)
    return [Made("bond_bond_13", columns)] if k else []


def _dihedral_table(energy: Formula, u: Units) -> list[Made]:
    return [Made("dihedral_table", (), tabulated(energy, -math.pi, math.pi, u.energy, 1.0))]


# --- impropers


def _flat(v: list[float], u: Units) -> list[Made]:
    """LAMMPS' angle is without sign, so that the energy has a kink at 0 unless it rests there."""
    k, chi = v[0], math.radians(v[1])
    if not chi:
        return [Made("improper", (0.0, 2.0 * k * u.energy))]
    return _dihedral_table(lambda x: k * (np.where(x.real < 0.0, -x, x) - chi) ** 2, u)


def _wilson(v: list[float], u: Units) -> list[Made]:
    k, chi = v
    return [Made("out_of_plane", (math.radians(chi), 2.0 * k * u.energy))] if k else []


def _angle_angle(v: list[float], u: Units) -> list[Made]:
    k, theta = v[:3], v[3:]
    _, _, _ = theta
    columns = (*map(math.radians, theta), *(x * u.energy for x in k))
    return [Made("angle_angle", columns)] if any(k) else []


def _umbrella(v: list[float], u: Units) -> list[Made]:
    k, omega = v
    return [Made("umbrella", (math.radians(omega), k * u.energy))]


def _nothing(v: list[float], u: Units) -> list[Made]:
    return []


STYLES: dict[tuple[str, str], Callable[[list[float], Units], list[Made]]] = {
    ("bond", "harmonic"): _spring,
    ("bond", "morse"): _morse,
    ("bond", "gromos"): _gromos,
    ("bond", "class2"): _spring_class2,
    ("bond", "fene"): _fene,
    ("bond", "fene/expand"): _fene_expand,
    ("bond", "nonlinear"): _nonlinear,
    ("bond", "quartic"): _quartic,
    ("bond", "harmonic/shift"): _shifted,
    ("bond", "harmonic/shift/cut"): _shifted_cut,
    ("bond", "mm3"): _bond_mm3,
    ("bond", "zero"): lambda v, u: [Made("connection")],
    ("angle", "harmonic"): _bend,
    ("angle", "charmm"): _bend_charmm,
    ("angle", "quartic"): _bend_quartic,
    ("angle", "mm3"): _bend_mm3,
    ("angle", "cosine"): _cosine,
    ("angle", "cosine/delta"): _cosine_delta,
    ("angle", "cosine/periodic"): _cosine_periodic,
    ("angle", "cosine/shift"): _cosine_shift,
    ("angle", "class2"): _bend_class2,
    ("angle", "cosine/squared"): _bend_squared,
    ("angle", "cosine/squared/restricted"): _bend_restricted,
    ("angle", "cross"): _bend_cross,
    ("angle", "fourier"): _bend_fourier,
    ("angle", "fourier/simple"): _bend_fourier_simple,
    ("angle", "zero"): _nothing,
    ("dihedral", "harmonic"): _turn,
    ("dihedral", "charmm"): _turn_charmm,
    ("dihedral", "class2"): _turn_class2,
    ("dihedral", "cosine/squared/restricted"): _turn_restricted,
    ("dihedral", "fourier"): _turns,
    ("dihedral", "helix"): _helix,
    ("dihedral", "opls"): _opls,
    ("dihedral", "multi/harmonic"): _multi,
    ("dihedral", "nharmonic"): _nharmonic,
    ("dihedral", "quadratic"): _quadratic,
    ("dihedral", "cosine/shift/exp"): _shift_exp,
    ("dihedral", "zero"): _nothing,
    ("improper", "harmonic"): _flat,
    ("improper", "class2"): _wilson,
    ("improper", "cvff"): _turn,
    ("improper", "umbrella"): _umbrella,
    ("improper", "zero"): _nothing,
}
"""By kind of term and style; ``table`` is read by ``lammps_tables``."""

COUPLINGS: dict[tuple[str, str], Callable[[list[float], Units], list[Made]]] = {
    ("angle", "bb"): _bond_bond,
    ("angle", "ba"): _bend_bonds,
    ("dihedral", "mbt"): _middle_bond_torsion,
    ("dihedral", "ebt"): _end_bond_torsion,
    ("dihedral", "at"): _angle_torsion,
    ("dihedral", "aat"): _angle_angle_torsion,
    ("dihedral", "bb13"): _bond_bond_13,
    ("improper", "aa"): _angle_angle,
}
"""What a term of style ``class2`` has besides, by kind of term and the word that it is given by;
the coefficients of ``ba`` are followed by the angle of rest."""
