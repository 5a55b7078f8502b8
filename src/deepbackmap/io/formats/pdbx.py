"""PDBx/mmCIF files: the table of atoms and the cell, all models; for systems of any size.

Only what coordinates need is read: the loop `_atom_site` and the items `_cell`. Lengths are in Å.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from deepbackmap.io.formats.base import (
    NM_PER_ANGSTROM,
    FormatError,
    FrameReader,
    FrameWriter,
    box_from_lengths_and_angles,
    lengths_and_cosines,
)
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_WORD = re.compile(r"""'(?:[^']|'(?=\S))*'|"(?:[^"]|"(?=\S))*"|[^\s]+""")
"""A value: in quotes that end before a blank, or up to the next blank."""
_CELL = tuple(f"_cell.{word}" for word in ("length_a", "length_b", "length_c", "angle_alpha",
                                           "angle_beta", "angle_gamma"))  # fmt: skip


class PdbxReader(FrameReader):
    """Frames of an mmCIF file, one a model."""

    def __init__(self, path: Path) -> None:
        lines = path.read_bytes().decode(errors="replace").splitlines()
        if not any(line.startswith("data_") for line in lines[:1000]):
            raise FormatError("an mmCIF file, which has a line data_NAME, found none")
        columns, rows = _atom_site(lines)
        self._box = _cell(lines)
        models = _column(columns, rows, "pdbx_PDB_model_num") or ["1"] * len(rows)
        names = list(dict.fromkeys(models))
        self.n_frames, rest = len(names), len(rows) % len(names)
        self.n_particles = len(rows) // len(names)
        whole = [name for name in names for _ in range(self.n_particles)]
        if rest or models != whole:
            raise FormatError("models of one number of atoms, found others")
        _check_whole(lines, self.n_particles)
        _check_order(_column(columns, rows, "id"), self.n_particles)
        self._positions = _numbers(columns, rows).reshape(self.n_frames, -1, 3) * NM_PER_ANGSTROM
        first = rows[: self.n_particles]
        self.table = ParticleTable(
            names=tuple(_named(columns, first, "atom_id")),
            resnames=tuple(_named(columns, first, "comp_id")),
            resids=_residues(_named(columns, first, "seq_id")),
        )

    def read(self, index: int) -> Structure:
        """One frame."""
        return Structure(self._positions[index].copy(), self._box.copy(), float(index))

    def close(self) -> None:
        """Nothing is open."""


class PdbxWriter(FrameWriter):
    """Writes mmCIF, one model a frame: names of any length, any number of atoms.

    Every molecule is a chain, where molecules are known. The cell is that of the first frame, since
    the format has one for all models. Bonds stand in ``_chem_comp_bond`` where all residues of a
    name have them, else in ``_struct_conn``; atoms of one residue that share a name have none.
    """

    def __init__(self, path: Path, table: ParticleTable) -> None:
        symbols = [s if s != "X" else "." for s in table.elements] or ["."] * table.n
        chains = ["A"] * table.n
        if table.molecules is not None:
            letters = {m: _letters(m) for m in np.unique(table.molecules).tolist()}
            chains = [letters[m] for m in table.molecules.tolist()]
        self._rows = []
        for k, (name, resname, number, symbol, chain) in enumerate(
            zip(table.names, table.resnames, table.resids.tolist(), symbols, chains, strict=True)
        ):
            atom, residue = _quoted(name), _quoted(resname)
            head = f"ATOM {k + 1} {symbol} {atom} . {residue} {chain} 1 {number} ?"
            self._rows.append((head, f"{number} {residue} {chain} {atom}"))
        self._bonds = [*_bond_lines(table, chains)]
        self._box: Float64[np.ndarray, "3 3"] | None = None
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame.

        Raises:
            FormatError: its cell is not that of the first frame.
        """
        if self._box is None:
            self._box = structure.box
            self._file.write(_head(structure.box, structure.n, self._bonds))
        elif np.abs(structure.box - self._box).max() > 1e-6:
            raise FormatError(
                "one cell for all frames, which is all that .cif holds, found another one; a "
                "trajectory (.xtc, .trr) has one for each"
            )
        positions = structure.positions / NM_PER_ANGSTROM
        self._file.writelines(
            f"{head} {x:.4f} {y:.4f} {z:.4f} 1.00 0.00 {tail} {index + 1}\n"
            for (head, tail), (x, y, z) in zip(self._rows, positions.tolist(), strict=True)
        )

    def close(self) -> None:
        """Finishes the file."""
        if self._box is not None:
            self._file.write("#\n")
        self._file.close()


_COUNT = "_deepbackmap.atoms_of_a_model"
"""Of files of our own: by it a file that is cut short is found out."""
_COLUMNS = (
    "group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id",
    "label_asym_id", "label_entity_id", "label_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y",
    "Cartn_z", "occupancy", "B_iso_or_equiv", "auth_seq_id", "auth_comp_id", "auth_asym_id",
    "auth_atom_id", "pdbx_PDB_model_num",
)  # fmt: skip


def _head(box: Float64[np.ndarray, "3 3"], n: int, bonds: list[str]) -> str:
    """All that stands before the rows of the atoms."""
    lines = ["data_deepbackmap", "#", f"{_COUNT} {n}", "#"]
    if box.any():
        lengths, cosines = lengths_and_cosines(box)
        values = [*(lengths / NM_PER_ANGSTROM), *np.rad2deg(np.arccos(cosines))]
        lines += [f"{name:<20s} {value:.6f}" for name, value in zip(_CELL, values, strict=True)]
        lines.append("#")
    lines += [*bonds, "loop_", *(f"_atom_site.{name}" for name in _COLUMNS)]
    return "\n".join(lines) + "\n"


_Bond = tuple[str, str, str]
"""Names of a residue and of two of its atoms."""


def _bond_lines(table: ParticleTable, chains: list[str]) -> Iterator[str]:
    """Both tables of bonds; none where names do not tell the atoms apart."""
    places = list(zip(chains, table.resids.tolist(), table.names, strict=True))
    if table.bonds is None or not len(table.bonds) or len(set(places)) < len(places):
        return
    residues = [place[:2] for place in places]
    inside: dict[_Bond, list[tuple[int, int]]] = {}
    between: list[tuple[int, int]] = []
    for i, j in table.bonds.tolist():
        if residues[i] == residues[j]:
            first, last = sorted((table.names[i], table.names[j]))
            inside.setdefault((table.resnames[i], first, last), []).append((i, j))
        else:
            between.append((i, j))
    common, others = _common(table, residues, inside)
    if common:
        words = ("comp_id", "atom_id_1", "atom_id_2", "value_order")
        yield from ("loop_", *(f"_chem_comp_bond.{word}" for word in words))
        yield from (" ".join([*map(_quoted, bond), "sing"]) for bond in common)
        yield "#"
    if between or others:
        ends = [
            f"ptnr{k}_label_{word}_id" for k in (1, 2) for word in ("asym", "comp", "seq", "atom")
        ]
        yield from ("loop_", *(f"_struct_conn.{w}" for w in ("id", "conn_type_id", *ends)))
        for k, pair in enumerate(sorted(between + others), 1):
            said = [f"{chains[a]} {_quoted(table.resnames[a])} {residues[a][1]} "
                    f"{_quoted(table.names[a])}" for a in pair]  # fmt: skip
            yield f"covale{k} covale {' '.join(said)}"
        yield "#"


def _common(
    table: ParticleTable,
    residues: list[tuple[str, int]],
    inside: dict[_Bond, list[tuple[int, int]]],
) -> tuple[list[_Bond], list[tuple[int, int]]]:
    """Bonds of all residues of a name that have their atoms, and pairs of the others."""
    holders: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for resname, name, residue in zip(table.resnames, table.names, residues, strict=True):
        holders.setdefault((resname, name), set()).add(residue)
    common: list[_Bond] = []
    others: list[tuple[int, int]] = []
    for (resname, first, last), pairs in inside.items():
        if len(holders[resname, first] & holders[resname, last]) == len(pairs):
            common.append((resname, first, last))
        else:
            others += pairs
    return common, others


def _letters(number: int) -> str:
    """A name of a chain: A, ..., Z, AA, AB, ..."""
    found = ""
    while number > 0:
        number, rest = divmod(number - 1, 26)
        found = chr(ord("A") + rest) + found
    return found or "A"


def _quoted(word: str) -> str:
    """A value as the format takes it."""
    plain = word and word[0] not in "_#$'\";[]" and not set(word) & set(" \t")
    reserved = word.lower().startswith(("data_", "loop_", "save_", "stop_", "global_"))
    if plain and not reserved and word not in ".?":
        return word
    return f"'{word}'" if "'" not in word else f'"{word}"'


def _check_whole(lines: list[str], n: int) -> None:
    """Refuses a file of our own that lacks atoms or its end."""
    said = next((line.split()[1] for line in lines[:20] if line.startswith(_COUNT)), None)
    if said is not None and (str(n) != said or lines[-1] != "#"):
        raise FormatError(f"{said} atoms a model and an end ('#'), found {n} or no end")


def _check_order(ids: list[str], n: int) -> None:
    """Refuses rows that their numbers say are not in order, model by model."""
    if not all(word.isdecimal() and len(word) < 18 for word in ids):
        return  # any words may be names of rows
    numbers = np.array([int(word) for word in ids], dtype=np.int64).reshape(-1, n or 1)
    bad = np.argwhere(np.diff(numbers, axis=1) <= 0)
    if len(bad):
        model, k = bad[0].tolist()
        raise FormatError(
            f"atoms in the order of their numbers (_atom_site.id), found {numbers[model, k + 1]} "
            f"after {numbers[model, k]}"
        )


def _words(line: str) -> list[str]:
    if "'" not in line and '"' not in line:
        return line.split()
    found = _WORD.findall(line)
    return [w[1:-1] if len(w) > 1 and w[0] in "'\"" and w[-1] == w[0] else w for w in found]


def _atom_site(lines: list[str]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns and rows of the table of atoms."""
    head = next((k for k, s in enumerate(lines) if s.startswith("_atom_site.")), None)
    if head is None:
        raise FormatError("a table _atom_site, found none")
    columns: list[str] = []
    while head < len(lines) and lines[head].startswith("_atom_site."):
        columns.append(lines[head].split()[0].removeprefix("_atom_site."))
        head += 1
    rows: list[list[str]] = []
    for number, line in enumerate(lines[head:], head + 1):
        if not line.strip() or line[0] in "#_" or line.startswith(("loop_", "data_")):
            break
        rows.append(_words(line))
        if len(rows[-1]) != len(columns):
            raise FormatError(
                f"{len(columns)} values for an atom in line {number}, found {len(rows[-1])}"
            )
    if not rows:
        raise FormatError("at least one atom, found none")
    return columns, rows


def _column(columns: list[str], rows: list[list[str]], name: str) -> list[str]:
    """A column; empty if there is none."""
    if name not in columns:
        return []
    k = columns.index(name)
    return [row[k] for row in rows]


def _named(columns: list[str], rows: list[list[str]], name: str) -> list[str]:
    """The author's column, or else the archive's."""
    found = _column(columns, rows, f"auth_{name}") or _column(columns, rows, f"label_{name}")
    if not found:
        raise FormatError(f"a column label_{name} of the atoms, found none")
    return found


def _residues(words: list[str]) -> np.ndarray:
    """Residue numbers; a point or question mark, for none, repeats the one before."""
    numbers: list[int] = []
    for word in words:
        whole = word.removeprefix("-").isdecimal() and len(word) < 18
        numbers.append(int(word) if whole else (numbers[-1] if numbers else 1))
    return np.array(numbers, dtype=np.int64)


def _numbers(columns: list[str], rows: list[list[str]]) -> Float64[np.ndarray, "n 3"]:
    axes = [_column(columns, rows, f"Cartn_{axis}") for axis in "xyz"]
    if not all(axes):
        raise FormatError("columns Cartn_x, Cartn_y and Cartn_z of the atoms, found fewer")
    try:
        return np.array([[float(word) for word in axis] for axis in axes]).T.copy()
    except ValueError as error:
        raise FormatError(f"numbers as coordinates, found {error}") from error


def _cell(lines: list[str]) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors in nm; zeros if the file has no cell, or one of 1 Å, which means none."""
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("_cell."):
            words = _words(line)
            if len(words) == 2:
                found[words[0]] = words[1]
    if not all(name in found for name in _CELL):
        return np.zeros((3, 3))
    try:
        numbers = np.array([float(found[name]) for name in _CELL])
    except ValueError as error:
        raise FormatError(f"numbers for the cell, found {error}") from error
    if (numbers[:3] == 1.0).all():
        return np.zeros((3, 3))
    return box_from_lengths_and_angles(numbers[:3] * NM_PER_ANGSTROM, numbers[3:])
