"""Make anew GROMACS' energies of every kind of term, and its places of virtual sites.

    python tools/gromacs_kinds.py [--gmx gmx_d]

Writes ``tests/data/kinds/`` (a made-up system that uses every function type of GROMACS' bonded
sections, under the three combination rules, and every virtual site) and
``tests/data/gromacs_kinds.json`` (energies by GROMACS' own names in kJ/mol, places in nm). Needs
GROMACS in double precision.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

import numpy as np

from gromacs_reference import NOTES, RUN, TESTS, Gromacs

FOLDER = TESTS / "kinds"
BOX = 3.2
"""nm."""
MOLECULES = 6
TABLES = ("table_b0.xvg", "table_b3.xvg", "table_a0.xvg", "table_d1.xvg")

TYPES = {
    # name: (bonded type, mass, charge, particle, sigma / nm, epsilon / kJ mol-1)
    "CA": ("CA", 12.011, 0.10, "A", 0.34, 0.36),
    "CB": ("CB", 13.019, -0.20, "A", 0.36, 0.29),
    "OA": ("OA", 15.999, -0.30, "A", 0.30, 0.71),
    "VS": ("VS", 0.0, 0.0, "V", 0.25, 0.20),
}

HEAD = """\
; A made-up system: every number is ours, none belongs to a published force field.
; Made by tools/gromacs_kinds.py.
[ defaults ]
#ifdef RULE1
1 1 yes 0.5 0.8333
#else
#ifdef RULE3
1 3 yes 0.5 0.8333
#else
1 2 yes 0.5 0.8333
#endif
#endif
"""

CHAIN = """\
[ moleculetype ]
chain 3

[ atoms ]
1 CA 1 ONE A1 1
2 CB 1 ONE A2 1
3 CA 1 ONE A3 1
4 OA 1 ONE A4 1 -0.35 15.0 CA 0.2 12.0 ; the second state has no say
5 CB 2 TWO B1 2
6 CA 2 TWO B2 2 0.2
7 CB 2 TWO B3 2
8 OA 2 TWO B4 2
9 CA 3 TRE C1 3
10 CA 3 TRE C2 3
11 CB 3 TRE C3 3
12 OA 3 TRE C4 3

[ bonds ]
1 2 1
2 3 2 0.152 5.0e6
3 4 3 0.148 350.0 18.0
4 5 4 0.150 9.0e4 -22.0
5 6 5
6 7 7 0.42 4100.0
7 8 8 0 1200.0
8 9 9 3 800.0
9 10 10 0.160 0.170 0.180 5.0e4
9 11 10 0.05 0.06 0.08 900.0
9 12 10 0.60 0.70 0.80 900.0
1 3 6 0.24 2000.0
10 11 1 0.15 2.5e5 0.16 3.0e5
11 12 1

[ pairs ]
1 5 1
2 6 1
3 7 1 pair_numbers
4 8 2 0.7 0.5 -0.4 pair_numbers
5 9 2

[ pairs_nb ]
6 10 1 0.3 0.2 pair_numbers

[ angles ]
1 2 3 1
2 3 4 2 110.0 480.0
3 4 5 3 0.149 0.151 3000.0
4 5 6 4 0.149 0.151 0.25 2500.0
5 6 7 5
6 7 8 5 112.0 400.0 0.25 0.0
6 7 8 6 105.0 1.0 -2.0 300.0 -40.0 25.0
7 8 9 8 0 2.5
8 9 10 9 0.4 900.0
9 10 11 10 115.0 60.0
10 11 12 1 109.0 400.0 105.0 300.0

[ dihedrals ]
1 2 3 4 1 30.0 2.0 2
2 3 4 5 2 25.0 40.0
3 4 5 6 3 1.0 -2.0 3.0 -1.5 0.5 0.3
4 5 6 7 4 180.0 3.0 2
5 6 7 8 5 1.5 -0.8 2.2 0.4
6 7 8 9 8 1 2.0
7 8 9 10 9
8 9 10 11 10 60.0 4.0
9 10 11 12 11 3.0 -2.0 1.5 0.7 -0.4 0.3
9 10 11 12 9 10.0 1.0 1 20.0 2.0 1

[ exclusions ]
{exclusions}

[ cmap ]
1 2 3 4 5 1
2 3 4 5 6 1

#ifdef POSRES
[ position_restraints ]
1 1 1000 1000 1000
#endif
"""

SITES = """\
[ moleculetype ]
sites 0

[ atoms ]
1 CA 1 SIT C1 1
2 CB 1 SIT C2 1
3 OA 1 SIT C3 1
4 CA 1 SIT C4 1
5 VS 1 SIT V1 1 0.1
6 VS 1 SIT V2 1 0.1
7 VS 1 SIT V3 1 -0.1
8 VS 1 SIT V4 1 -0.1
9 VS 1 SIT V5 1 0.2
10 VS 1 SIT V6 1 -0.2
11 VS 1 SIT V7 1
12 VS 1 SIT V8 1
13 VS 1 SIT V9 1
14 VS 1 SIT V10 1
15 VS 1 SIT V11 1

[ bonds ]
1 2 1 0.15 1000
2 3 1 0.15 1000
3 4 1 0.15 1000

[ exclusions ]
1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
2 3 4 5 6 7 8 9 10 11 12 13 14 15
3 4 5 6 7 8 9 10 11 12 13 14 15
4 5 6 7 8 9 10 11 12 13 14 15
5 6 7 8 9 10 11 12 13 14 15
6 7 8 9 10 11 12 13 14 15
7 8 9 10 11 12 13 14 15
8 9 10 11 12 13 14 15
9 10 11 12 13 14 15
10 11 12 13 14 15
11 12 13 14 15
12 13 14 15
13 14 15
14 15

[ virtual_sites1 ]
15 4 1

[ virtual_sites2 ]
5 1 2 1 0.35
6 1 2 2 0.06

[ virtual_sites3 ]
7 1 2 3 1 0.2 0.3
8 1 2 3 2 0.4 0.1
9 1 2 3 3 110.0 0.12
10 1 2 3 4 0.3 -0.2 2.5

[ virtual_sites4 ]
11 1 2 3 4 2 0.7 0.5 0.11

[ virtual_sitesn ]
12 1 1 2 3
13 2 1 2 3 4
14 3 1 0.5 2 1.5 4 1.0
"""

FOOT = """\
[ system ]
Every kind of term

[ molecules ]
chain 5
sites 2
chain 1

[ intermolecular_interactions ]
[ bonds ]
1 13 6 0.4 1000.0
; constraints and bonds of other kinds are refused by grompp where they are chemical
[ angles ]
1 2 13 1 100.0 50.0
[ dihedrals ]
2 1 13 14 2 10.0 20.0
"""


def main() -> None:
    """Write the system and GROMACS' figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gmx", default="gmx_d")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        (FOLDER / name).write_text(_table(name))
    (FOLDER / "kinds.top").write_text(
        HEAD + _atom_types() + _bonded_types() + CHAIN.format(exclusions=_near()) + SITES + FOOT
    )
    (FOLDER / "kinds.gro").write_text(_coordinates())
    with tempfile.TemporaryDirectory() as folder:
        gromacs = Gromacs(options.gmx, Path(folder))
        placed = _placed(gromacs)  # and so put where they belong
        (FOLDER / "kinds.gro").write_text(_coordinates(np.array(placed)))
        frames = {rule: _energies(gromacs, rule) for rule in ("", "RULE1", "RULE3")}
        record = {
            "program": gromacs.version(),
            "settings": RUN,
            "notes": NOTES,
            "energies": frames,
            "positions": placed,
        }
    TESTS.joinpath("gromacs_kinds.json").write_text(json.dumps(record, indent=1) + "\n")


def _energies(gromacs: Gromacs, rule: str) -> dict[str, float]:
    """Energies by term of the one frame."""
    _prepare(gromacs, {"define": f"-D{rule}"} if rule else {})
    tables = [str(FOLDER / name) for name in TABLES]
    start = ("-s", "topol.tpr", "-nt", "1", "-e", "rerun.edr")
    gromacs("mdrun", *start, "-rerun", FOLDER / "kinds.gro", "-tableb", *tables)
    dump = gromacs("dump", "-e", "rerun.edr")
    names = re.findall(r"^ +\d+  (\S.*?) +\(kJ/mol\)$", dump, flags=re.MULTILINE)
    chosen = "\n".join(str(i + 1) for i in range(len(names))) + "\n\n"
    gromacs("energy", "-f", "rerun.edr", "-dp", "-o", "energy.xvg", answer=chosen)
    row = np.loadtxt(gromacs.folder / "energy.xvg", comments=("#", "@"), ndmin=2)[0]
    return dict(zip(names, map(float, row[1:]), strict=True))


def _placed(gromacs: Gromacs) -> list[list[float]]:
    """Places of all atoms after GROMACS has constructed the virtual sites."""
    _prepare(gromacs, {"nstxout": "1"})
    tables = [str(FOLDER / name) for name in TABLES]
    gromacs("mdrun", "-s", "topol.tpr", "-nt", "1", "-o", "run.trr", "-tableb", *tables)
    dump = gromacs("dump", "-f", "run.trr")
    found = re.findall(r" x\[ *\d+\]=\{ *(\S+), *(\S+), *(\S+)\}", dump)
    return [[round(float(x), 9) for x in row] for row in found]


def _prepare(gromacs: Gromacs, settings: dict[str, str]) -> None:
    text = "".join(f"{k} = {v}\n" for k, v in {**RUN, **settings}.items())
    (gromacs.folder / "run.mdp").write_text(text)
    inputs = ("-c", FOLDER / "kinds.gro", "-p", FOLDER / "kinds.top")
    gromacs("grompp", "-f", "run.mdp", *inputs, "-maxwarn", "9")


def _atom_types() -> str:
    """Types and numbers of pairs, as C6 and C12 for the first combination rule."""
    parts = {}
    for as_c6 in (True, False):
        lines = ["[ atomtypes ]"]
        for name, (bonded, mass, charge, particle, sigma, epsilon) in TYPES.items():
            lines.append(
                f"{name} {bonded} {mass} {charge} {particle} " + _form(sigma, epsilon, as_c6)
            )
        lines += ["[ nonbond_params ]", "CA OA 1 " + _form(0.31, 0.45, as_c6)]
        lines += ["[ pairtypes ]", "CA CB 1 " + _form(0.33, 0.21, as_c6)]
        lines += ["#define pair_numbers " + _form(0.29, 0.15, as_c6)]
        parts[as_c6] = "\n".join(lines)
    return f"#ifdef RULE1\n{parts[True]}\n#else\n{parts[False]}\n#endif\n"


def _near() -> str:
    """Atoms of the chain three places apart or less; not all its bonds count for nrexcl."""
    return "\n".join(" ".join(map(str, range(k, min(k + 4, 13)))) for k in range(1, 12))


def _form(sigma: float, epsilon: float, as_c6: bool) -> str:
    v, w = (4 * epsilon * sigma**6, 4 * epsilon * sigma**12) if as_c6 else (sigma, epsilon)
    return f"{v:.9g} {w:.9g}"


def _bonded_types() -> str:
    """Types of bonds, angles and dihedrals, and two correction maps."""
    rng = np.random.default_rng(5)
    lines = ["[ bondtypes ]", "CA CB 1 0.151 2.4e5", "CB OA 1 0.141 2.9e5", "[ angletypes ]"]
    lines += ["CA CB CA 1 111.0 450.0", "CB CA CB 5 108.0 420.0 0.26 5000.0", "[ dihedraltypes ]"]
    lines += ["X OA CA X 9 0.0 1.5 3", "X OA CA X 9 180.0 0.7 1", "[ cmaptypes ]"]
    at = np.arange(24) * 15.0
    for types in ("CA CB CA OA CB", "CB CA OA CB CA"):
        wave = np.cos(np.radians(at[:, None] * 2 + rng.uniform(0, 360)))
        wave = 8.0 * wave * np.sin(np.radians(at[None] - 40.0)) + rng.normal(size=(24, 24))
        values = [f"{v:.4f}" for v in wave.ravel()]
        rows = [" ".join(values[k : k + 12]) for k in range(0, len(values), 12)]
        lines.append(f"{types} 1 24 24\\\n" + "\\\n".join(rows))
    return "\n".join(lines) + "\n\n"


def _table(name: str) -> str:
    """x, energy and minus its slope; angles in degrees."""
    letter = name[len("table_")]
    start, stop, n = {"b": (0.0, 1.0, 201), "a": (0.0, 180.0, 181), "d": (-180.0, 180.0, 361)}[
        letter
    ]
    x = np.linspace(start, stop, n)
    if letter == "b":
        rest = 0.15 if name.endswith("0.xvg") else 0.2
        energy, slope = (x - rest) ** 2 * (1 + x), 2 * (x - rest) * (1 + x) + (x - rest) ** 2
    else:
        t = np.radians(x)
        energy, slope = np.cos(2 * t) + 0.3 * np.cos(t), -2 * np.sin(2 * t) - 0.3 * np.sin(t)
        slope = np.radians(slope)
    rows = [f"{a:.6g} {e:.10g} {-s:.10g}" for a, e, s in zip(x, energy, slope, strict=True)]
    return "\n".join(rows) + "\n"


def _coordinates(placed_by_gromacs: np.ndarray | None = None) -> str:
    """Molecules as random walks at random places, wrapped into the box.

    Args:
        placed_by_gromacs: places of all atoms; None: virtual sites are near the first atom.
    """
    rng = np.random.default_rng(7)
    names = {
        "chain": [
            (f"{'ABC'[k // 4]}{k % 4 + 1}", ("ONE", "TWO", "TRE")[k // 4]) for k in range(12)
        ],
        "sites": [(f"C{k + 1}", "SIT") for k in range(4)]
        + [(f"V{k + 1}", "SIT") for k in range(11)],
    }
    rows, placed = [], []
    for molecule in ["chain"] * 5 + ["sites"] * 2 + ["chain"]:
        size = len(names[molecule])
        while True:
            grown = _walk(rng, 12 if molecule == "chain" else 4) + rng.uniform(0, BOX, 3)
            gaps = [np.abs((grown[:, None] - p[None] + BOX / 2) % BOX - BOX / 2) for p in placed]
            if all(np.linalg.norm(g, axis=-1).min() > 0.3 for g in gaps):
                break
        placed.append(grown)
        full = np.concatenate([grown, np.tile(grown[0], (size - len(grown), 1))])
        # sites roughly in place: rerun takes them as they are
        full[len(grown) :] += rng.normal(size=(size - len(grown), 3)) * 0.05
        rows += list(zip(names[molecule], full % BOX, strict=True))
    lines = ["Every kind of term", str(len(rows))]
    for k, ((name, residue), xyz) in enumerate(rows):
        if placed_by_gromacs is not None:
            xyz = placed_by_gromacs[k] % BOX
        lines.append(f"{1:5d}{residue:<5}{name:>5}{k + 1:5d}" + "".join(f"{x:11.6f}" for x in xyz))
    return "\n".join(lines) + f"\n{BOX:.6f} {BOX:.6f} {BOX:.6f}\n"


def _walk(rng: np.random.Generator, n: int) -> np.ndarray:
    """Atoms about 0.15 nm apart, angles away from 0 and 180 degrees."""
    apart = np.abs(np.arange(n)[:, None] - np.arange(n))
    while True:
        steps = rng.normal(size=(4096, n - 1, 3))
        steps /= np.linalg.norm(steps, axis=-1, keepdims=True)
        for k in range(1, n - 1):  # each turned about the one before to a common angle
            along = steps[:, k - 1]
            across = steps[:, k] - (steps[:, k] * along).sum(-1, keepdims=True) * along
            across /= np.linalg.norm(across, axis=-1, keepdims=True)
            cosine = 0.35 + 0.1 * rng.normal(size=(len(steps), 1))
            steps[:, k] = cosine * along + np.sqrt(1 - cosine**2) * across
        lengths = 0.15 + 0.006 * rng.normal(size=(len(steps), n - 1, 1))
        walked = np.cumsum(steps * lengths, axis=1)
        walked = np.concatenate([np.zeros((len(steps), 1, 3)), walked], axis=1)
        gaps = np.linalg.norm(walked[:, :, None] - walked[:, None], axis=-1)
        good = (gaps[:, apart > 3] > 0.3).all(1) & (gaps[:, apart == 3] > 0.2).all(1)
        if good.any():
            return walked[good][0]


if __name__ == "__main__":
    main()
