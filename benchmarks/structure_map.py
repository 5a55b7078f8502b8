"""What a structure map says of the published structures, what it costs, and how much faster than
dscribe's REMatch it is; figures of docs/structure-map.md. Times are of this process's processor.

    python benchmarks/structure_map.py DATA [--structures 150]

DATA is the folder that holds ``sps``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import numpy as np
from dscribe.kernels import REMatchKernel

from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.similarity.options import MapOptions
from deepbackmap.similarity.rematch import rematch_kernel
from deepbackmap.similarity.structure_map import map_structures
from deepbackmap.system import Structure

FILES = {"reference": "aa", "paper": "paper_deepbackmap", "baseline": "paper_baseline"}
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def load(folder: Path, temperature: int) -> dict[str, list[tuple[int, Structure]]]:
    """The published samples."""
    samples = {}
    for name, file in FILES.items():
        with read_frames(folder / "aa.gro", folder / f"test_{temperature}K_{file}.xtc") as source:
            samples[name] = list(zip(source.frames.tolist(), source, strict=True))
    return samples


def against_dscribe(structures: int) -> None:
    options = MapOptions()
    rng = np.random.default_rng(0)
    rows = rng.random((10 * structures, 252)) + 1.0  # as alike as environments of a melt
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    theirs = REMatchKernel(
        metric="polynomial", degree=options.zeta, gamma=1, coef0=0, alpha=options.alpha,
        threshold=1e-24,
    )  # fmt: skip
    owner = np.repeat(np.arange(structures), 10)
    slow, seconds = timed(lambda: theirs.create(list(rows.reshape(structures, 10, -1))))
    fast, ours = timed(lambda: rematch_kernel(rows, owner, alpha=options.alpha, zeta=options.zeta))
    print(
        f"REMatch of {structures} structures: {seconds / ours:.0f} times dscribe's speed, largest "
        f"difference {np.abs(slow - fast).max():.0e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--structures", type=int, default=150)
    arguments = parser.parse_args()
    folder = arguments.data / "sps"
    topology = read_topology(folder / "topol.top")
    options = MapOptions(structures=arguments.structures)
    for temperature in (568, 313):
        samples = load(folder, temperature)
        # Two samples of one distribution: the reference's even and odd frames, numbered alike.
        frames = [structure for _, structure in samples["reference"]]
        same = {
            "reference": list(enumerate(frames[0::2])),
            "same distribution": list(enumerate(frames[1::2][: len(frames[0::2])])),
        }
        for title, given in (("published", samples), ("control", same)):
            found, seconds = timed(lambda given=given: map_structures(topology, given, options))
            print(
                f"{temperature} K, {title}: {len(found.points)} structures in {seconds:.1f} s, "
                f"stress {found.stress:.4f}, least eigenvalue "
                f"{found.settings['least eigenvalue of the kernel / greatest']:.0e}"
            )
            for name, o in found.overlap.items():
                print(
                    f"  {name:<20} MMD^2 {o.mmd2:9.2e}  p {o.p_value:.4f}  1 in 20 by chance "
                    f"{o.chance:.1e}  ({o.permuted})"
                )
    against_dscribe(60)


if __name__ == "__main__":
    main()
