"""What a card does from beads to atoms: rates, memory, and whether it comes to the same atoms.

    python benchmarks/card.py                       # 1, 8 and 171 boxes, 100 small frames
    python benchmarks/card.py --device cpu-torch --smoke   # seconds, without a card

Boxes are the reference box, or the packaged melt, repeated along x. "steps" are those of the
mechanics alone, "atoms" everything from beads to atoms with a model (after one frame to warm up),
"same" the largest distance of an atom after 20 steps from where the compiled engine puts it. Small
frames go one after the other. Without a card the model and its steps run as `--device cpu` does.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from mechanics import folder, in_tensors, memory, on_device, repeated

from deepbackmap.api.backmap import sampling_options
from deepbackmap.api.hands import handedness_of
from deepbackmap.api.models import find_model
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.methods.base import open_sampler
from deepbackmap.model.file import load_model
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole

CLOSE = 1e-4
"""nm: atoms on the card and by the compiled engine after 20 steps."""


def same(mapping: SystemMapping, frame: Structure, device: torch.device) -> float:
    """Largest distance (nm) of an atom after 20 steps between the two engines."""
    beads, names = map_positions(mapping, frame.positions, frame.box), np.arange(frame.n)
    engines = CardMechanics(mapping, device=device), Mechanics(mapping)
    one, other = (
        e.run(frame.positions, beads, frame.box, Langevin(20, 568.0), names).positions
        for e in engines
    )
    return float(np.linalg.norm(one - other, axis=1).max())


def atoms(
    mapping: SystemMapping, frame: Structure, name: str, device: torch.device, frames: int
) -> str:
    """Rate of a model with its last steps, frames one after the other."""
    path = find_model(name)
    model = load_model(path)
    options = sampling_options(model.spec, path.stem, {"seed": 0})
    hands = handedness_of(mapping, model.spec.handedness)
    sampler = open_sampler(model, mapping, options, device, hands)
    beads = Structure(map_positions(mapping, frame.positions, frame.box), frame.box)
    sampler.sample(beads, frame=0)
    start = time.perf_counter()
    for k in range(frames):
        sampler.sample(beads, frame=1 + k)
    seconds = time.perf_counter() - start
    rate = frames * frame.n / seconds
    return (
        f"{frames} frames of {frame.n} atoms: {seconds:.2f} s, {rate:.0f} atoms/s, "
        f"{60e-6 * rate:.2f} million a minute, {memory(device):.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu-torch", "cuda"), default="cuda")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 8, 171])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--model", default="default")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.copies, options.frames, options.steps = [1, 2], 1, 5
    device = on_device(options.device)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    source = folder(options.smoke)
    topology = read_topology(source / "topol.top")
    with read_frames(source / "aa.gro") as frames:
        frame = frames[0]
    single = load_mapping("ps-two-bead").resolve(topology)
    whole = Structure(make_whole(frame.positions, frame.box, topology), frame.box)
    off = same(single, whole, device)
    print(
        f"same: {off:.1e} nm after 20 steps, {'ok' if off < CLOSE else 'NOT THE SAME'}", flush=True
    )
    for copies in options.copies:
        mapping, box = repeated(single, whole, copies)
        count = max(5, options.steps // copies)
        print("steps:", in_tensors(mapping, box, 0.7, count, device), flush=True)
    for copies in options.copies[: 1 if options.smoke else None]:
        mapping, box = repeated(single, whole, copies)
        print("atoms:", atoms(mapping, box, options.model, device, 1), flush=True)
    print("small frames:", atoms(single, whole, options.model, device, options.frames), flush=True)
    if off >= CLOSE:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
