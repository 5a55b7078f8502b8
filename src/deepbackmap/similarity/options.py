"""Options of a structure map."""

from __future__ import annotations

from dataclasses import dataclass

SPECIES = ("elements", "types")
STRUCTURES = ("molecule", "frame")


@dataclass(frozen=True)
class MapOptions:
    """How structures are compared and drawn; lengths in nm.

    The paper states none of these numbers. SOAP's and REMatch's defaults follow the ranges that
    the authors of those methods use; docs/structure-map.md says what others change.
    """

    selection: str | None = None
    """Centres in MDAnalysis's selection language (``name CH``, ``type C``), applied to each
    molecule type; None: backbone atoms that carry a side group (``centres.find_centres``)."""
    species: str = "elements"
    """What SOAP tells apart: ``elements`` (as the paper) or ``types``, the atom types."""
    unit: str = "molecule"
    """What one structure is: ``molecule``, whose environments see its neighbours as well, or
    ``frame``."""
    structures: int = 150
    """Most structures of each sample, drawn evenly over its frames."""
    cutoff: float = 0.5
    """Radius of an environment."""
    n_max: int = 8
    """Radial functions."""
    l_max: int = 6
    """Highest degree of the spherical harmonics."""
    width: float = 0.05
    """Standard deviation of an atom's Gaussian."""
    zeta: int = 2
    """Power of the overlap of two environments; higher tells more apart."""
    alpha: float = 0.1
    """Entropy's weight in REMatch: towards 0 the best match of environments, towards infinity
    their average kernel."""
    sigma: float | None = None
    """Distance at which both switching functions are 1/2; None: the median distance."""
    high: tuple[float, float] = (4.0, 4.0)
    """a and b of the switching function of the kernel's distances."""
    low: tuple[float, float] = (2.0, 2.0)
    """a and b of the switching function of the distances on the map."""
    searches: int = 1
    """Passes of the pointwise global search over the map after the descent."""
    permutations: int = 1000
    """Of the labels, for the p-values."""
    workers: int = 1
    """Processes that compute SOAP."""
    seed: int = 0
    """Of the draw of structures and of the permutations."""

    def __post_init__(self) -> None:
        for name, known in (("species", SPECIES), ("unit", STRUCTURES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, got '{getattr(self, name)}'"
                )
        for name, least in (
            ("structures", 4), ("n_max", 1), ("l_max", 0), ("zeta", 1), ("searches", 0),
            ("permutations", 1), ("workers", 1), ("seed", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("width", "alpha", "sigma"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if not self.cutoff > 0.1:  # of dscribe's radial functions
            raise ValueError(f"cutoff: expected more than 0.1 nm, got {self.cutoff}")
        for name in ("high", "low"):
            a, b = getattr(self, name)
            if not (a >= 1 and b > 0):
                raise ValueError(f"{name}: expected a of at least 1 and b above 0, got {a}, {b}")
