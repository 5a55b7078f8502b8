"""Files that are given as mappings and are something else: what they are, and the way in."""

from __future__ import annotations

import re

from deepbackmap.errors import InputError

_DRAFT = "'deepbackmap mapping draft -p TOPOLOGY' writes a first mapping from it"
_INFER = "'deepbackmap mapping infer ATOMS BEADS -p TOPOLOGY' finds the mapping between two"
_KINDS = (
    (r"\[\s*(moleculetype|defaults|atomtypes)\s*\]", "a GROMACS topology", _DRAFT),
    (r"^\[[^\]]*\]\s*\n(ATOM|HETATM)\b", "fragments of CG2AT",
     "write the atom names of each section as a bead of a YAML mapping"),
    (r"\A(HEADER|TITLE|REMARK|CRYST1|MODEL|ATOM|HETATM)\b", "a PDB structure", _INFER),
    (r"\A[^\n]*\n\s*\d+\s*\n\s*\d+\w+\s+\w+\s+\d+\s+-?\d+\.\d+", "a .gro structure", _INFER),
    (r"^site-types\s*:", "a map of OpenMSCG (cgmap)",
     "write each of its sites as a bead of a residue in a YAML mapping, its x-weight as weights"),
    (r"\A\s*(LAMMPS\b|#.*LAMMPS)", "a LAMMPS data file", _INFER),
)  # fmt: skip
"""What it looks like, what it is, and what to do."""


def refuse_foreign(text: str, source: str) -> None:
    """Refuses a file that is plainly of another kind.

    Args:
        text: the file.
        source: what to call it.

    Raises:
        InputError: with its kind, and what leads to a mapping.
    """
    for pattern, what, way in _KINDS:
        if re.search(pattern, text, flags=re.MULTILINE):
            raise InputError(f"{source}: expected a mapping, found {what}; {way}")
