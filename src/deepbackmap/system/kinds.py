"""The one table of kinds of term: what each acts on, its columns, units, energy and where it is
found in a GROMACS topology.

``forcefield.terms.FUNCTIONS`` holds the energy of each kind as a function under the same name, and
a compiled kernel may stand in for it. Readers of other formats convert to these kinds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of term."""

    n_atoms: int
    """Atoms of a term, in the order of the formula (i, j, k, l)."""
    columns: tuple[str, ...]
    """Names and units of its parameters."""
    energy: str
    """The energy in kJ/mol as a formula; empty for none."""
    counted: str | None
    """Name of ``forcefield.system.TERMS`` that the energy is counted under; None: no energy."""
    gromacs: tuple[tuple[str, int], ...] = ()
    """Sections and function types of a GROMACS topology that become this kind; what is written
    is the first. None: GROMACS has no such term."""
    chemical: bool = False
    """Whether the two atoms are chemically bonded, so that exclusions are counted over it."""
    degrees: int = 0
    """How many of its first columns are angles, which GROMACS' files state in degrees."""
    grids: int = 0
    """Dimensions of the tables behind it (1: a curve, 2: a surface); 0: none."""


def _bond(columns: tuple[str, ...], energy: str, function: int, chemical: bool = True) -> Kind:
    return Kind(2, columns, energy, "bond", (("bonds", function),), chemical)


def _angle(columns: tuple[str, ...], energy: str, function: int | None, degrees: int = 0) -> Kind:
    section = () if function is None else (("angles", function),)
    return Kind(3, columns, energy, "angle", section, degrees=degrees)


_SPRING = ("length / nm", "k / kJ mol-1 nm-2")
_CURVE = ("k", "row of the table", "start / {0}", "spacing / {0}", "points")
_CURVE_NM = tuple(c.format("nm") for c in _CURVE)
_CURVE_RAD = tuple(c.format("rad") for c in _CURVE)

KINDS: dict[str, Kind] = {
    # two atoms; r is their distance
    "bond": _bond(_SPRING, "k/2 (r - length)^2", 1),
    "bond_g96": _bond(("length / nm", "k / kJ mol-1 nm-4"), "k/4 (r^2 - length^2)^2", 2),
    "morse": _bond(
        ("length / nm", "depth / kJ mol-1", "beta / nm-1"),
        "depth (1 - exp(-beta (r - length)))^2",
        3,
    ),
    "bond_cubic": _bond(
        ("length / nm", "k / kJ mol-1 nm-2", "cubic / nm-1"),
        "k (r - length)^2 (1 + cubic (r - length))",
        4,
    ),
    "connection": Kind(2, (), "", None, (("bonds", 5),), True),
    "harmonic": _bond(_SPRING, "k/2 (r - length)^2", 6, chemical=False),
    "fene": _bond(("longest / nm", "k / kJ mol-1 nm-2"), "-k/2 longest^2 ln(1 - (r/longest)^2)", 7),
    "bond_table": Kind(2, _CURVE_NM, "k f(r)", "bond", (("bonds", 8),), True, grids=1),
    "bond_table_nc": Kind(2, _CURVE_NM, "k f(r)", "bond", (("bonds", 9),), grids=1),
    "bond_restraint": _bond(
        ("low / nm", "up1 / nm", "up2 / nm", "k / kJ mol-1 nm-2"),
        "k/2 (r - low)^2 below low, 0 up to up1, k/2 (r - up1)^2 up to up2, then a straight line",
        10,
        chemical=False,
    ),
    "constraint": Kind(
        2, ("length / nm",), "", None, (("constraints", 1), ("constraints", 2)), True
    ),
    # three atoms; theta is the angle at j
    "angle": _angle(("theta0 / rad", "k / kJ mol-1 rad-2"), "k/2 (theta - theta0)^2", 1, 1),
    "angle_g96": _angle(("theta0 / rad", "k / kJ mol-1"), "k/2 (cos theta - cos theta0)^2", 2, 1),
    "bond_bond": _angle(
        ("length ij / nm", "length jk / nm", "k / kJ mol-1 nm-2"),
        "k (rij - length ij) (rjk - length jk)",
        3,
    ),
    "bond_angle": _angle(
        ("length ij / nm", "length jk / nm", "length ik / nm", "k / kJ mol-1 nm-2"),
        "k (rik - length ik) (rij - length ij + rjk - length jk)",
        4,
    ),
    "urey_bradley": _angle(
        ("theta0 / rad", "k / kJ mol-1 rad-2", "length ik / nm", "k ik / kJ mol-1 nm-2"),
        "k/2 (theta - theta0)^2 + k ik/2 (rik - length ik)^2",
        5,
        1,
    ),
    "angle_quartic": _angle(
        ("theta0 / rad", *(f"c{n} / kJ mol-1 rad-{n}" for n in range(5))),
        "sum over n of cn (theta - theta0)^n",
        6,
        1,
    ),
    "angle_table": Kind(3, _CURVE_RAD, "k f(theta)", "angle", (("angles", 8),), grids=1),
    "angle_linear": _angle(
        ("a", "k / kJ mol-1 nm-2"), "k/2 |a (ri - rj) + (1 - a) (rk - rj)|^2", 9
    ),
    "angle_restricted": _angle(
        ("theta0 / rad", "k / kJ mol-1"), "k/2 (cos theta - cos theta0)^2 / sin^2 theta", 10, 1
    ),
    "bond_bend": _angle(
        (
            "theta0 / rad",
            "length ij / nm",
            "length jk / nm",
            "k ij / kJ mol-1 nm-1 rad-1",
            "k jk / kJ mol-1 nm-1 rad-1",
        ),
        "(k ij (rij - length ij) + k jk (rjk - length jk)) (theta - theta0)",
        None,
        1,
    ),
    # four atoms; phi is their dihedral, 180 degrees for trans
    "proper": Kind(
        4,
        ("phase / rad", "k / kJ mol-1", "multiplicity"),
        "k (1 + cos(multiplicity phi - phase))",
        "proper",
        (("dihedrals", 9), ("dihedrals", 1), ("dihedrals", 4)),
        degrees=1,
    ),
    "ryckaert_bellemans": Kind(
        4,
        tuple(f"c{n} / kJ mol-1" for n in range(6)),
        "sum over n of cn cos(phi - 180 degrees)^n",
        "proper",
        (("dihedrals", 3), ("dihedrals", 5)),
    ),
    "improper": Kind(
        4,
        ("xi0 / rad", "k / kJ mol-1 rad-2"),
        "k/2 (xi - xi0)^2, the difference within half a turn",
        "improper",
        (("dihedrals", 2),),
        degrees=1,
    ),
    "dihedral_table": Kind(4, _CURVE_RAD, "k f(phi)", "proper", (("dihedrals", 8),), grids=1),
    "dihedral_restricted": Kind(
        4,
        ("phi0 / rad", "k / kJ mol-1"),
        "k/2 (cos phi - cos phi0)^2 / sin^2 phi",
        "proper",
        (("dihedrals", 10),),
        degrees=1,
    ),
    "bending_torsion": Kind(
        4,
        ("k / kJ mol-1", *(f"a{n}" for n in range(5))),
        "k sin^3 theta(ijk) sin^3 theta(jkl) sum over n of an cos(phi)^n",
        "proper",
        (("dihedrals", 11),),
    ),
    "bond_torsion": Kind(
        4,
        (
            *(f"length {b} / nm" for b in ("ij", "jk", "kl")),
            *(f"{b}{n} / kJ mol-1 nm-1" for b in ("ij", "jk", "kl") for n in (1, 2, 3)),
        ),
        "sum over the bonds b of (rb - length b) (b1 cos phi + b2 cos 2 phi + b3 cos 3 phi)",
        "proper",
    ),
    "angle_torsion": Kind(
        4,
        (
            "theta ijk / rad",
            "theta jkl / rad",
            *(f"{a}{n} / kJ mol-1 rad-1" for a in ("ijk", "jkl") for n in (1, 2, 3)),
            "both / kJ mol-1 rad-2",
        ),
        "sum over the angles a of (angle a - theta a) (a1 cos phi + a2 cos 2 phi + a3 cos 3 phi) "
        "+ both (angle ijk - theta ijk) (angle jkl - theta jkl) cos phi",
        "proper",
        degrees=2,
    ),
    "bond_bond_13": Kind(
        4,
        ("length ij / nm", "length kl / nm", "k / kJ mol-1 nm-2"),
        "k (rij - length ij) (rkl - length kl)",
        "proper",
    ),
    # four atoms of which i or j is bonded to the three others
    "angle_angle": Kind(
        4,
        (
            *(f"theta {a} / rad" for a in ("ijk", "ijl", "kjl")),
            *(f"k {a} / kJ mol-1 rad-2" for a in ("ijk kjl", "ijk ijl", "ijl kjl")),
        ),
        "sum over pairs of the angles at j of k (angle - theta) (angle' - theta')",
        "improper",
        degrees=3,
    ),
    "out_of_plane": Kind(
        4,
        ("chi0 / rad", "k / kJ mol-1 rad-2"),
        "k/2 (chi - chi0)^2, chi the mean of the angles of ji, jk, jl with the plane of the others",
        "improper",
        degrees=1,
    ),
    "umbrella": Kind(
        4,
        ("omega0 / rad", "k / kJ mol-1"),
        "k/2 (cos omega - cos omega0)^2 / sin^2 omega0, k (1 - cos omega) for omega0 = 0; omega is "
        "the angle of il with the plane ijk, above 90 degrees where il leans towards j and k",
        "improper",
        degrees=1,
    ),
    # five atoms; phi and psi are the dihedrals of the first and of the last four
    "cmap": Kind(5, ("row of the table",), "f(phi, psi)", "proper", (("cmap", 1),), grids=2),
    # listed pairs, no cut-off
    "lj14": Kind(
        2,
        ("sigma / nm", "epsilon / kJ mol-1"),
        "4 epsilon ((sigma/r)^12 - (sigma/r)^6)",
        "lj14",
        (("pairs", 1),),
    ),
    "lj14_powers": Kind(
        2,
        ("c6 / kJ mol-1 nm6", "c12 / kJ mol-1 nm12"),
        "c12/r^12 - c6/r^6",
        "lj14",
        (("pairs", 2), ("pairs_nb", 1)),
    ),
    "coulomb14": Kind(
        2, ("charge product / e2",), "138.935 q/r", "coulomb14", (("pairs", 2), ("pairs_nb", 1))
    ),
}
"""Every kind of term. A dihedral of GROMACS' type 4 (a periodic improper) is a ``proper``, a
Fourier dihedral (type 5) a ``ryckaert_bellemans``, an angle of type 5 without a spring an
``angle``."""

CHEMICAL = tuple(name for name, kind in KINDS.items() if kind.chemical)
"""Kinds whose two atoms are chemically bonded."""
SPRINGS = ("bond", "bond_g96", "morse", "bond_cubic")
"""Kinds of bond with a length of rest, in their first column."""
HELD = ("constraint", *SPRINGS)
"""Kinds that are constraints where all bonds are held at their lengths."""

SITES: dict[str, Kind] = {
    "site1": Kind(2, (), "rj", None, (("virtual_sites1", 1),)),
    "site2": Kind(3, ("a",), "rj + a jk", None, (("virtual_sites2", 1),)),
    "site2_distance": Kind(
        3, ("distance / nm",), "rj + distance jk/|jk|", None, (("virtual_sites2", 2),)
    ),
    "site3": Kind(4, ("a", "b"), "rj + a jk + b jl", None, (("virtual_sites3", 1),)),
    "site3_distance": Kind(
        4,
        ("a", "distance / nm"),
        "rj + distance v/|v|, v = jk + a kl",
        None,
        (("virtual_sites3", 2),),
    ),
    "site3_angle": Kind(
        4,
        ("theta / rad", "distance / nm"),
        "rj + distance (cos theta jk/|jk| + sin theta v/|v|), v = kl across jk",
        None,
        (("virtual_sites3", 3),),
        degrees=1,
    ),
    "site3_out": Kind(
        4,
        ("a", "b", "c / nm-1"),
        "rj + a jk + b jl + c (jk x jl)",
        None,
        (("virtual_sites3", 4),),
    ),
    "site4_normal": Kind(
        5,
        ("a", "b", "c / nm"),
        "rj + c n/|n|, n = (a jl - jk) x (b jm - jk)",
        None,
        (("virtual_sites4", 2),),
    ),
    "site_mean": Kind(
        2, ("weight",), "sum of weight rj over the rows of a site", None, (("virtual_sitesn", 3),)
    ),
}
"""Kinds of virtual site. The first atom of a row is the site, the others (j, k, ...) are what it
is constructed from; ``energy`` is where it lies. ``site_mean`` has one row for each atom of a site,
and the weights of a site add up to one."""
