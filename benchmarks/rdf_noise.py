"""Is the error of g(r) the noise of one draw? (docs/design-notes.md)

    deepbackmap backmap CG.gro CG.xtc -p topol.top --temperature 568 --seed N -o SEED_N.xtc
    python benchmarks/rdf_noise.py --temperature 568 SEED_0.xtc SEED_1.xtc SEED_2.xtc

Prints the mean absolute error of g(r) (carbons) of each file against all reference frames, of files
against one another, of all files together, and what the spread of single frames' differences alone
would give. Each file holds all test frames of that temperature.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
from quality import data_folder

from deepbackmap.evaluation import Plan, measure
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames

CURVE = "g(r), mean absolute error"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="draws of the same frames")
    parser.add_argument("--temperature", type=int, default=568)
    options = parser.parse_args()
    folder = data_folder(None)
    plan = Plan.from_topology(read_topology(folder / "topol.top"))

    def curves(path: Path) -> np.ndarray:
        with read_frames(folder / "aa.gro", path) as source:
            return measure(plan, list(source), source=str(path)).rdf[CURVE]

    reference = curves(folder / f"test_{options.temperature}K_aa.xtc")
    drawn = {path.name: curves(path) for path in options.files}

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one.mean(0) - other.mean(0)).mean())

    for name, found in drawn.items():
        error = (found - reference).std(0, ddof=1).mean() / math.sqrt(len(found))
        noise = math.sqrt(2 / math.pi) * error
        print(f"{name}: {apart(found, reference):.4f}, of noise alone {noise:.4f}")
    for (a, x), (b, y) in itertools.combinations(drawn.items(), 2):
        print(f"{a} and {b}: {apart(x, y):.4f}")
    print(f"all together: {apart(np.concatenate(list(drawn.values())), reference):.4f}")


if __name__ == "__main__":
    main()
