"""What every format offers to ``io.trajectory``."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from deepbackmap.errors import Notice
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

NM_PER_ANGSTROM = 0.1


class FormatError(Exception):
    """A file is not what its extension promises; the message says what was found."""


class FrameReader(ABC):
    """Random access to the frames of one open file."""

    n_particles: int
    n_frames: int
    table: ParticleTable | None = None
    """None for formats that hold coordinates only."""

    @abstractmethod
    def read(self, index: int) -> Structure:
        """One frame in nm and ps; a missing box is all zeros."""

    def check_end(self) -> None:  # noqa: B027 - most formats find that out when they open
        """Raises ``FormatError`` if the file goes on behind its last whole frame.

        Called right after the last frame has been read.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go of the file."""


class FrameWriter(ABC):
    """Writes frames to one open file."""

    @abstractmethod
    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame, the ``index``-th of the file."""

    @abstractmethod
    def close(self) -> None:
        """Finishes the file."""


def box_from_lengths_and_angles(
    lengths: Float64[np.ndarray, "3"], angles: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors, lower triangular, from a, b, c and alpha, beta, gamma in degrees.

    Right angles give exact zeros. Without a cell (all zeros) the box is all zeros.

    Raises:
        FormatError: there is no such cell.
    """
    if not lengths.any():
        return np.zeros((3, 3))
    if not (np.isfinite([*lengths, *angles]).all() and (lengths > 0.0).all() and _possible(angles)):
        raise FormatError(
            f"a cell that can be, found lengths {lengths.tolist()} nm and angles {angles.tolist()}"
        )
    # sin(90 - x) is exactly zero at 90 degrees, cos(x) is not.
    alpha, beta, gamma = np.sin(np.deg2rad(90.0 - angles))
    sin_gamma = np.sqrt(1.0 - gamma**2)
    a, b, c = lengths
    yz = (alpha - beta * gamma) / sin_gamma
    height = np.sqrt(max(0.0, 1.0 - beta**2 - yz**2))
    return np.array(
        [[a, 0.0, 0.0], [b * gamma, b * sin_gamma, 0.0], [c * beta, c * yz, c * height]]
    )


def _possible(angles: Float64[np.ndarray, "3"]) -> bool:
    """Whether three angles, in degrees, can meet in a corner that has a volume."""
    half = angles.sum() / 2.0
    return bool((angles > 0.0).all() and half < 180.0 and (angles < half).all())


def lengths_and_cosines(
    box: Float64[np.ndarray, "3 3"],
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """Lengths a, b, c and cosines of alpha, beta, gamma of a cell; zeros for none."""
    if not box.any():
        return np.zeros(3), np.zeros(3)
    lengths = np.linalg.norm(box, axis=1)
    a, b, c = box / lengths[:, None]
    return lengths, np.array([b @ c, a @ c, a @ b])


def check_widths(table: ParticleTable, path: Path, width: int) -> ParticleTable:
    """Refuses atom names that the columns of a format cannot hold, and cuts those of residues.

    GROMACS and MDAnalysis cut both; but atoms are told apart by their names.

    Args:
        table: names of the particles.
        path: file to be, for its extension.
        width: of the columns of both.

    Returns:
        The table with the names of residues as they will stand in the file.

    Raises:
        FormatError: a name of an atom is too long.
    """
    longest = max(table.names, key=len, default="")
    if len(longest) > width:
        raise FormatError(
            f"atom names of at most {width} characters, which is all that {path.suffix} holds, "
            f"found '{longest[:40]}'"
        )
    longest = max(table.resnames, key=len, default="")
    if len(longest) <= width:
        return table
    warnings.warn(
        f"residue names are cut to the {width} characters that {path.suffix} holds: "
        f"{longest[:40]} is written as {longest[:width]}",
        Notice,
        stacklevel=2,
    )
    return replace(table, resnames=tuple(name[:width] for name in table.resnames))
