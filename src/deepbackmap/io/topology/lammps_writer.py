"""LAMMPS data files with everything that a topology says, and the input that runs them.

A system that was read of a LAMMPS data file is written as that file again, line by line, with new
coordinates, image flags and cell: types, ids, coefficients and comments stay as they are, so that
the user's own input goes on to fit. Any other is converted to units real, with an input of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import wrap
from deepbackmap.io.tables import ParticleTable, atom_table
from deepbackmap.io.topology.lammps_lines import CLASS2, NAMED_ROWS, lines_of
from deepbackmap.io.topology.lammps_terms import (
    ANGSTROM,
    KCAL,
    TABLE_POINTS,
    LammpsTerms,
    Style,
    lammps_terms,
    number,
)
from deepbackmap.system import Structure, Topology
from deepbackmap.system.topology import Origin
from deepbackmap.system.whole import make_whole

SECTIONS = {
    # section: what its types are called
    "Bonds": "Bond",
    "Angles": "Angle",
    "Dihedrals": "Dihedral",
    "Impropers": "Improper",
}
BOX_LINES = ("xlo xhi", "ylo yhi", "zlo zhi", "xy xz yz", "avec", "bvec", "cvec", "abc origin")
"""Ends of the lines of a header that say the cell."""
CUTOFF = 10.0
"""A, of the input that we write."""
HUGE, TINY = 100.0, 1e-3
"""nm, sigma of pairs that only repel or only attract, which then have as good as no other part."""


@dataclass(frozen=True)
class LammpsFiles:
    """What is to be written of a system, but for its coordinates."""

    topology: Topology
    table: ParticleTable
    terms: LammpsTerms | None
    """None: the topology is a LAMMPS data file, which is followed."""
    companions: dict[str, str]
    """Texts of the files beside the data file, by the ends of their names."""

    def text(self, structure: Structure) -> str:
        """The data file.

        Args:
            structure: atoms in the order of the topology, nm.
        """
        if self.terms is None:
            assert self.topology.origin is not None
            return _like(self.topology, self.topology.origin, structure)
        return _converted(self.topology, self.table, self.terms, structure)


def lammps_files(topology: Topology, name: str) -> LammpsFiles:
    """Prepares to write a system; what LAMMPS has no style for is refused here.

    Args:
        topology: of the atoms.
        name: of the data file without its end, for the files beside it.

    Raises:
        InputError: terms without energies or without a style, all of them at once.
    """
    table = atom_table(topology)
    if is_followed(topology):
        return LammpsFiles(topology, table, None, {})
    terms = lammps_terms(topology, f"{name}.table")
    companions = {".in": _input_text(topology, terms, name)}
    if terms.tables:
        head = "# Tables by deepbackmap: A and kcal/mol, or degrees"
        companions[".table"] = "\n".join([head, *terms.tables]) + "\n"
    return LammpsFiles(topology, table, terms, companions)


def is_followed(topology: Topology) -> bool:
    """Whether the atoms are all those of a LAMMPS data file."""
    origin = topology.origin
    if origin is None or not Path(origin.path).is_file():
        return False
    return topology.n_atoms == sum(1 for _ in _rows_of_atoms(origin))


# --- places


def _placed(
    topology: Topology, structure: Structure, length: float
) -> tuple[Float64[np.ndarray, "n 3"], Int64[np.ndarray, "n 3"]]:
    """Coordinates inside the cell in units of the file, and flags that make molecules whole."""
    x, box = structure.positions, structure.box
    with suppress(InputError):  # a molecule that is bonded to its own image is never whole
        x = make_whole(x, box, topology, source="structure", endless=True)
    inside = wrap(x, box)
    flags = np.rint((x - inside) @ np.linalg.inv(box)).astype(np.int64)
    return inside / length, flags


def _box_lines(box: Float64[np.ndarray, "3 3"], tilted: bool) -> list[str]:
    """The cell in units of the file, its corner at the origin."""
    lines = [f"0 {box[k, k]:.12g} {a}lo {a}hi" for k, a in enumerate("xyz")]
    if tilted or np.tril(box, -1).any():
        lines.append(f"{box[1, 0]:.12g} {box[2, 0]:.12g} {box[2, 1]:.12g} xy xz yz")
    return lines


# --- a file that was there


def _rows_of_atoms(origin: Origin) -> Iterator[tuple[int, list[str]]]:
    """Number of the line, and words, of every atom."""
    inside = False
    for k, (_, text, _) in enumerate(lines_of(Path(origin.path))):
        if text and text[0].isalpha():
            inside = text == "Atoms" and k > 0
        elif inside and text:
            yield k, text.split()


def _like(topology: Topology, origin: Origin, structure: Structure) -> str:
    """The data file again, with other coordinates and another cell."""
    lines = Path(origin.path).read_text(encoding="utf-8", errors="replace").split("\n")
    x, flags = _placed(topology, structure, origin.length)
    rows = list(_rows_of_atoms(origin))
    decimals = max(0, 9 + round(math.log10(origin.length)))  # 1e-9 nm
    order = np.argsort([int(words[0]) for _, words in rows], kind="stable")
    for (xyz, image), r in zip(zip(x.tolist(), flags.tolist(), strict=True), order, strict=True):
        k, words = rows[r]
        _, mark, comment = lines[k].partition("#")
        columns = [*words[: origin.columns], *(f"{v:.{decimals}f}" for v in xyz)]
        columns += map(str, image)
        lines[k] = " ".join(columns) + (f" #{comment}" if mark else "")
    return "\n".join(_with_box(lines, structure.box / origin.length))


def _with_box(lines: list[str], box: Float64[np.ndarray, "3 3"]) -> list[str]:
    """The lines with another cell where they have theirs."""
    heads = [line.partition("#")[0].split() for line in lines]
    end = next(k for k, words in enumerate(heads) if k and words[:1] and words[0][0].isalpha())
    of_box = [
        k for k in range(1, end)
        if any(heads[k][-len(e.split()) :] == e.split() for e in BOX_LINES)
    ]  # fmt: skip
    tilted = any(heads[k][-3:] == ["xy", "xz", "yz"] for k in of_box)
    kept = [line for k, line in enumerate(lines[:end]) if k not in of_box]
    place = of_box[0] if of_box else end
    return [*kept[:place], *_box_lines(box, tilted), *kept[place:], *lines[end:]]


# --- a file of ours


def _converted(
    topology: Topology, table: ParticleTable, terms: LammpsTerms, structure: Structure
) -> str:
    numbers, names, masses = _atom_types(topology)
    x, flags = _placed(topology, structure, ANGSTROM)
    lines = [f"LAMMPS data file by deepbackmap, units = real; {NAMED_ROWS}", ""]
    lines += [f"{topology.n_atoms} atoms"]
    counts = {s: sum(len(t) for t, _ in terms.rows.get(s, [])) for s in SECTIONS}
    lines += [f"{n} {section.lower()}" for section, n in counts.items() if n]
    lines += [f"{len(names)} atom types"]
    lines += [
        f"{len(terms.numbers[s])} {kind.lower()} types" for s, kind in SECTIONS.items() if counts[s]
    ]
    lines += ["", *_box_lines(structure.box / ANGSTROM, False), "", "Masses", ""]
    lines += [
        f"{k} {number(mass)}  # {name}"
        for k, (mass, name) in enumerate(zip(masses, names, strict=True), 1)
    ]
    lines += _pair_lines(topology, names)
    for section, kind in SECTIONS.items():
        if counts[section]:
            lines += _coefficient_lines(kind, terms.numbers[section])
    lines += ["", "Atoms  # full", ""]
    rows = zip(
        _molecule_numbers(table), numbers.tolist(), topology.charges().tolist(), x.tolist(),
        flags.tolist(), table.names, table.resnames, table.resids.tolist(), strict=True,
    )  # fmt: skip
    lines += [
        f"{k} {m} {t} {number(q)} {a:.8f} {b:.8f} {c:.8f} {u} {v} {w}  # {name} {residue} {n}"
        for k, (m, t, q, (a, b, c), (u, v, w), name, residue, n) in enumerate(rows, 1)
    ]
    for section in SECTIONS:
        if counts[section]:
            lines += ["", section, "", *_term_lines(terms, section)]
    return "\n".join(lines) + "\n"


def _molecule_numbers(table: ParticleTable) -> list[int]:
    assert table.molecules is not None
    return table.molecules.tolist()


def _atom_types(topology: Topology) -> tuple[Int64[np.ndarray, " n"], list[str], list[float]]:
    """Type of every atom from 1, and names and masses of the types.

    A type of the topology that has several masses becomes several.
    """
    keys: dict[tuple[str, float], int] = {}
    runs = [np.zeros(0, dtype=np.int64)]
    for molecule, _, count in topology.runs():
        masses = molecule.masses.round(6).tolist()
        pairs = list(zip(molecule.atom_types, masses, strict=True)) if count else []
        own = [keys.setdefault(p, len(keys) + 1) for p in pairs]
        runs.append(np.tile(np.array(own, dtype=np.int64), count))
    return np.concatenate(runs), [name for name, _ in keys], [mass for _, mass in keys]


def _term_lines(terms: LammpsTerms, section: str) -> Iterator[str]:
    count = 0
    for types, atoms in terms.rows[section]:
        for t, row in zip(types.tolist(), (atoms + 1).tolist(), strict=True):
            count += 1
            yield f"{count} {t} {' '.join(map(str, row))}"


def _coefficient_lines(kind: str, styles: dict[Style, int]) -> Iterator[str]:
    hint = _style_words([*styles])
    yield from ("", f"{kind} Coeffs  # {' '.join(hint)}", "")
    for style, k in styles.items():
        label = [style.name] if hint[0] == "hybrid" else []
        words = list(style.words)
        if style.name == "zero" and not label:
            words = ["1.0"]
        mark = f"  # {style.mark}" if style.mark else ""
        yield " ".join([str(k), *label, *words]) + mark

    if any(style.name == "class2" for style in styles) and kind != "Bond":
        yield from _couplings(kind, styles, hint[0] == "hybrid")


def _couplings(kind: str, styles: dict[Style, int], hybrid: bool) -> Iterator[str]:
    """What types of style ``class2`` have besides, which LAMMPS wants of each."""
    for section, (of_kind, word, width) in CLASS2.items():
        if of_kind != kind.lower():
            continue
        yield from ("", section, "")
        for style, k in styles.items():
            values = dict(style.couplings).get(word, ("0",) * width)
            label = ["class2"] if hybrid else []
            yield " ".join([str(k), *label, *values]) if style.name == "class2" else f"{k} skip"


def _style_words(styles: list[Style]) -> list[str]:
    """The words behind ``bond_style`` and its like."""
    names = list(dict.fromkeys(style.name for style in styles))
    each = [[n, "spline", str(TABLE_POINTS)] if n == "table" else [n] for n in names]
    flat = [word for words in each for word in words]
    return flat if len(names) == 1 else ["hybrid", *flat]


# --- pairs of types


def _pair_numbers(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """Epsilon / kJ mol-1 and sigma / nm by pair of types.

    Raises:
        InputError: an attraction below zero.
    """
    c6, c12 = topology.c6, topology.c12
    if (c6 < 0).any() or (c12 < 0).any():
        i, j = np.argwhere((c6 < 0) | (c12 < 0))[0]
        raise InputError(
            f"{topology.source}: expected C6 and C12 of at least 0 for LAMMPS, found another for "
            f"the types {topology.type_names[i]} and {topology.type_names[j]}"
        )
    both = (c6 > 0) & (c12 > 0)
    safe6, safe12 = np.where(both, c6, 1.0), np.where(both, c12, 1.0)
    sigma = np.where(both, (safe12 / safe6) ** (1 / 6), ANGSTROM)
    epsilon = np.where(both, safe6**2 / (4.0 * safe12), 0.0)
    repels, attracts = (c6 == 0) & (c12 > 0), (c12 == 0) & (c6 > 0)
    sigma = np.where(repels, HUGE, np.where(attracts, TINY, sigma))
    epsilon = np.where(repels, c12 / (4.0 * HUGE**12), epsilon)
    return np.where(attracts, c6 / (4.0 * TINY**6), epsilon), sigma


def _mixing(topology: Topology) -> str | None:
    """The rule that gives all pairs of unlike types; None: there is none."""
    epsilon, sigma = _pair_numbers(topology)
    own_e, own_s = np.diag(epsilon), np.diag(sigma)
    depth = np.sqrt(np.outer(own_e, own_e))
    for rule in ("geometric", "arithmetic"):
        outer = np.outer(own_s, own_s) ** 0.5
        size = outer if rule == "geometric" else 0.5 * np.add.outer(own_s, own_s)
        c6 = 4.0 * depth * size**6
        same = np.allclose(c6, topology.c6, rtol=1e-9, atol=0.0)
        if same and np.allclose(c6 * size**6, topology.c12, rtol=1e-9, atol=0.0):
            return rule
    return None


def _pair_style(topology: Topology) -> str:
    return "lj/cut/coul/cut" if topology.charges().any() else "lj/cut"


def _pair_lines(topology: Topology, names: list[str]) -> Iterator[str]:
    """Coefficients of types, or of all pairs of them where no rule gives those."""
    epsilon, sigma = _pair_numbers(topology)
    row = [topology.type_names.index(name) for name in names]
    hint = f"# {_pair_style(topology)}"
    if _mixing(topology) is not None:
        yield from ("", f"Pair Coeffs  {hint}", "")
        for k, r in enumerate(row, 1):
            yield f"{k} {number(epsilon[r, r] / KCAL)} {number(sigma[r, r] / ANGSTROM)}"
        return
    yield from ("", f"PairIJ Coeffs  {hint}", "")
    for i, a in enumerate(row, 1):
        for j, b in enumerate(row[i - 1 :], i):
            yield f"{i} {j} {number(epsilon[a, b] / KCAL)} {number(sigma[a, b] / ANGSTROM)}"


# --- the input


def _input_text(topology: Topology, terms: LammpsTerms, name: str) -> str:
    """An input that LAMMPS runs as it is: step 0 has the energies of the topology."""
    charged = bool(topology.charges().any())
    lines = [
        f"# Written by deepbackmap for {name}.data; run it beside that: lmp -in {name}.in",
        "# The temperature is an example, set yours: lmp -in ... -var temperature 350 -var steps 0",
        f"variable cutoff index {CUTOFF:g}",
        "variable temperature index 300",
        "variable steps index 1000",
    ]
    if charged:
        lines += ["# cut: plain cut-off, the energies of the topology; long: Ewald sums (PPPM)",
                  "variable coulomb index cut"]  # fmt: skip
    style = "lj/cut/coul/${coulomb}" if charged else "lj/cut"
    lines += ["", "units real", "atom_style full", "", f"pair_style {style} ${{cutoff}}"]
    if _mixing(topology) == "arithmetic":
        lines.append("pair_modify mix arithmetic")
    for section, kind in SECTIONS.items():
        if terms.rows.get(section):
            words = _style_words([*terms.numbers[section]])
            lines.append(f"{kind.lower()}_style {' '.join(words)}")
    lj, coulomb = (" ".join(map(number, f)) for f in (terms.special.lj, terms.special.coulomb))
    lines += [f"special_bonds lj {lj} coul {coulomb}", "", f"read_data {name}.data", ""]
    if charged:
        lines.append('if "${coulomb} == long" then "kspace_style pppm 1e-5"')
    energies = "pe ebond eangle edihed eimp evdwl ecoul elong"
    lines += [f"thermo_style custom step temp {energies} press", "thermo 100",
              "thermo_modify norm no", "",
              "velocity all create ${temperature} 4928459 dist gaussian"]  # fmt: skip
    # constraints come last, since they have to know all forces
    lines += ["fix move all nve",
              "fix bath all langevin ${temperature} ${temperature} 100.0 48279",
              *_shake(terms), "timestep 1.0", "run ${steps}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _shake(terms: LammpsTerms) -> list[str]:
    """Holds the constraints."""
    held = []
    for section, letter in (("Bonds", "b"), ("Angles", "a")):
        types = [str(k) for s, k in terms.numbers.get(section, {}).items() if s in terms.held]
        held += [letter, *types] if types else []
    return ["fix rigid all shake 1e-6 100 0 " + " ".join(held)] if held else []
