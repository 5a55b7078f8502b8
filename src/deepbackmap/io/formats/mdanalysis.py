"""Formats that MDAnalysis reads and this package does not: names, frames, or both.

What is in these files is taken as MDAnalysis gives it; only what every frame is held against
(number of particles, finite numbers, a cell that can be) is checked here.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from deepbackmap.io.formats.base import NM_PER_ANGSTROM, FormatError, FrameReader
from deepbackmap.io.formats.base import box_from_lengths_and_angles as cell
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

NAMES = {
    "tpr": "TPR", "psf": "PSF", "prmtop": "PRMTOP", "crd": "CRD", "mol2": "MOL2", "xyz": "XYZ",
    "pqr": "PQR",
}  # fmt: skip
"""Formats with names, by MDAnalysis' parser."""
FRAMES = {
    "tpr": "TPR", "nc": "NCDF", "h5md": "H5MD", "tng": "TNG", "crd": "CRD", "inpcrd": "INPCRD",
    "mol2": "MOL2", "xyz": "XYZ", "pqr": "PQR", "trz": "TRZ",
}  # fmt: skip
"""Formats with frames, by MDAnalysis' reader."""
NEEDS = {"h5md": "h5py", "tng": "pytng"}
"""Packages that MDAnalysis wants for a format, and does not bring along."""
EXTENSIONS = {
    ".tpr": "tpr", ".psf": "psf", ".prmtop": "prmtop", ".parm7": "prmtop", ".nc": "nc",
    ".ncdf": "nc", ".h5md": "h5md", ".tng": "tng", ".crd": "crd", ".inpcrd": "inpcrd",
    ".rst7": "inpcrd", ".mol2": "mol2", ".xyz": "xyz", ".pqr": "pqr", ".trz": "trz",
}  # fmt: skip
FORMATS = tuple(dict.fromkeys(EXTENSIONS.values()))


class MdanalysisReader(FrameReader):
    """Names and frames of one file; ``n_frames`` is 0 where it holds names only."""

    def __init__(self, path: Path, kind: str) -> None:
        """Opens it.

        Args:
            path: the file, under a name that need not tell its format.
            kind: one of ``FORMATS``.

        Raises:
            FormatError: MDAnalysis cannot read it.
        """
        self._reader: Any = None
        self.n_frames = 0
        with _quietly(kind):
            if kind in NAMES:
                self.table = _table(path, NAMES[kind])
                self.n_particles = self.table.n
            # of .tpr MDAnalysis reads frames from 2.10 on, and names ever since
            if kind in FRAMES and (self.table is None or FRAMES[kind] in _known("_READERS")):
                given = {} if self.table is None else {"n_atoms": self.n_particles}
                self._reader = _known("_READERS")[FRAMES[kind]](str(path), **given)
                self.n_frames = self._reader.n_frames
                self.n_particles = self._reader.n_atoms

    def read(self, index: int) -> Structure:
        """One frame."""
        with _quietly("frame"):
            step = self._reader[index]
            positions = np.array(step.positions, dtype=np.float64) * NM_PER_ANGSTROM
            lengths = np.zeros(6) if step.dimensions is None else np.array(step.dimensions)
            lengths = lengths.astype(np.float64)
            box = cell(lengths[:3] * NM_PER_ANGSTROM, lengths[3:].round(4))
            return Structure(positions, box, float(step.time))

    def close(self) -> None:
        """Lets go of the file."""
        if self._reader is not None:
            self._reader.close()


class _quietly:
    """MDAnalysis' warnings are dropped, its errors say what was wrong with the file."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: Any) -> None:  # fmt: skip
        self._caught.__exit__(kind, error, trace)
        if error is None or isinstance(error, (FormatError, KeyboardInterrupt, MemoryError)):
            return
        said = " ".join(str(error).split())[:160]
        needed = NEEDS.get(self._kind)
        if needed and needed.lower() in said.lower():
            raise FormatError(
                f"the package {needed} for .{self._kind} files, found none (pip install {needed})"
            ) from error
        if self._kind == "h5md" and "readable units" in said:
            raise FormatError("an H5MD file that says its units (attributes 'unit'), found none")
        raise FormatError(
            f"a file that MDAnalysis can read, found: {said or type(error).__name__}"
        ) from error


def _known(registry: str) -> Any:
    """Readers or parsers of MDAnalysis, which is imported when it is needed: it takes seconds."""
    import MDAnalysis as mda

    return getattr(mda, registry)


def _table(path: Path, parser: str) -> ParticleTable:
    """Names as a topology parser of MDAnalysis finds them."""
    found = _known("_PARSERS")[parser](str(path)).parse()
    n = found.n_atoms
    residues = found.tt.atoms2residues(np.arange(n))

    def texts(name: str, place: np.ndarray) -> tuple[str, ...]:
        values = getattr(found, name).values if hasattr(found, name) else np.full(n, "")
        return tuple(str(v) for v in np.asarray(values)[place])

    numbers = np.asarray(found.resids.values)[residues] if hasattr(found, "resids") else residues
    return ParticleTable(
        names=texts("names", np.arange(n)),
        resnames=texts("resnames", residues),
        resids=numbers.astype(np.int64),
    )
