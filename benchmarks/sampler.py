"""Speed of the sampler: network arithmetic against torch.mm, and cost against size.

    python benchmarks/sampler.py                    # one box, then 1, 2, 4 and 8 boxes
    python benchmarks/sampler.py --smoke            # seconds, for CI

Prints ratios measured in this run on the packaged melt: the rate of the network's arithmetic
inside the whole sampler (everything counted: neighbours, densities, choice) divided by what
torch.mm reaches on the same cores, and time and memory an atom as the box is repeated along x.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from deepbackmap.api.models import find_model
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping
from deepbackmap.mapping.file import MappingFile
from deepbackmap.methods.base import Model
from deepbackmap.methods.voxel.grid import condition_channels
from deepbackmap.methods.voxel.options import VoxelModelOptions, VoxelSamplingOptions
from deepbackmap.methods.voxel.sampler import VoxelSampler
from deepbackmap.model.file import load_model
from deepbackmap.system import Structure

MELT = Path(__file__).resolve().parents[1] / "src" / "deepbackmap" / "packaged" / "melt"


def matrix_rate(size: int = 2048, repeats: int = 7) -> float:
    """Median rate of torch.mm in FLOP/s."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times)


def network_work(model: Model) -> float:
    """FLOP of the generator for one atom."""
    spec = model.spec
    assert isinstance(spec.options, VoxelModelOptions)
    voxel, types = spec.options.voxel, len(spec.atom_types)
    channels, n = condition_channels(voxel, types, len(spec.bead_types)), voxel.voxels
    condition = torch.zeros(2, channels, n, n, n)
    noise, kind = torch.zeros(2, spec.options.network.noise), torch.zeros(2, types)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.generator(condition, noise, kind)
    return counter.get_total_flops() / 2


def repeated(
    mapping: SystemMapping, beads: Structure, copies: int
) -> tuple[SystemMapping, Structure]:
    """The box ``copies`` times along its first lattice vector."""
    topology = mapping.topology
    blocks = topology.blocks * copies
    positions = np.concatenate([beads.positions + k * beads.box[0] for k in range(copies)])
    box = beads.box * np.array([[copies], [1], [1]])
    larger = replace(mapping, topology=replace(topology, blocks=blocks))
    return larger, Structure(positions=positions, box=box)


def measure(
    model: Model, copies: int, options: VoxelSamplingOptions, repeats: int
) -> dict[str, float]:
    """Median time of a frame, after a short warm-up, and the peak memory of the process."""
    topology = read_topology(MELT / "topol.top")
    mapping = MappingFile.from_text(model.spec.mapping).resolve(topology)
    with read_frames(MELT / "cg.gro") as source:
        beads = source[0]
    mapping, beads = repeated(mapping, beads, copies)
    sampler = VoxelSampler(model, mapping, options)
    times = []
    for k in range(repeats + 1):
        start = time.perf_counter()
        sampler.sample(beads, frame=k)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:]) if repeats > 0 else times[0]
    atoms = mapping.topology.n_atoms
    calls = atoms * (1 + options.sweeps) * options.candidates
    return {
        "boxes": copies,
        "atoms": atoms,
        "seconds": seconds,
        "ms_per_atom": 1e3 * seconds / atoms,
        "network_flop_per_s": calls * network_work(model) / seconds,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _child(arguments: argparse.Namespace, copies: int, repeats: int) -> dict[str, float]:
    """One size in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--one", str(copies), "--repeats", str(repeats)]
    command += ["--model", arguments.model, "--sweeps", str(arguments.sweeps)]
    command += ["--candidates", str(arguments.candidates), "--threads", str(arguments.threads)]
    command += ["--relaxation", str(arguments.relaxation)]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ps-two-bead-568K", help="a voxel model")
    parser.add_argument("--sweeps", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--relaxation", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sizes", default="1,2,4,8")
    parser.add_argument("--one", type=int, default=0, help="measure this size only, print JSON")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.smoke:
        arguments.sweeps, arguments.sizes, arguments.repeats = 0, "1,2", 0
    model = load_model(find_model(arguments.model))
    if arguments.one:
        options = VoxelSamplingOptions(
            sweeps=arguments.sweeps,
            candidates=arguments.candidates,
            block_relaxation=arguments.relaxation,
        )
        print(json.dumps(measure(model, arguments.one, options, arguments.repeats)))
        return
    rate = matrix_rate()
    work = network_work(model)
    print(
        f"threads {arguments.threads}; torch.mm {rate / 1e9:.0f} GFLOP/s; "
        f"network {work / 1e6:.0f} MFLOP an atom"
    )
    print(
        f"sweeps {arguments.sweeps}, candidates {arguments.candidates}, "
        f"relaxation {arguments.relaxation}"
    )
    print("boxes   atoms  seconds  ms/atom  ratio  network GFLOP/s  of torch.mm  peak MiB")
    base = None
    for copies in (int(s) for s in arguments.sizes.split(",")):
        row = _child(arguments, copies, arguments.repeats)
        base = base or row["ms_per_atom"]
        print(
            f"{copies:5d} {row['atoms']:7d} {row['seconds']:8.2f} {row['ms_per_atom']:8.3f} "
            f"{row['ms_per_atom'] / base:6.2f} {row['network_flop_per_s'] / 1e9:16.1f} "
            f"{row['network_flop_per_s'] / rate:12.2f} {row['peak_MiB']:9.0f}"
        )


if __name__ == "__main__":
    main()
