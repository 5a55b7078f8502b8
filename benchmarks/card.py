"""What a card does from beads to atoms: rates, memory, and whether it comes to the same atoms.

    python benchmarks/card.py                       # 1, 8 and 171 boxes, 100 small frames
    python benchmarks/card.py --device cpu-torch --smoke   # seconds, without a card

Boxes are the reference box, or the packaged melt, repeated along x. "same" is the largest distance
of an atom after 20 steps from where the compiled engine puts it, "steps" the rate of the mechanics
alone with the share of the card's memory rate that what a step cannot avoid to move makes,
"atoms" everything from beads to atoms with a model, "frames" the same of many small frames at once
(each after one of the kind to warm up). Without a card the model and its steps run as
`--device cpu` does, frames one after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from mechanics import folder, memory, on_device, repeated

from deepbackmap.api.backmap import sampling_options
from deepbackmap.api.hands import handedness_of
from deepbackmap.api.models import find_model
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.methods.base import Sampler, SharedSampler, open_sampler
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


def copy_rate(device: torch.device) -> float:
    """Bytes/s that a large copy reads and writes."""
    x = torch.rand(1 << (28 if device.type == "cuda" else 22), device=device)
    y = torch.empty_like(x)
    seconds = []
    for _ in range(5):
        finish(device)
        start = time.perf_counter()
        y.copy_(x)
        finish(device)
        seconds.append(time.perf_counter() - start)
    return 2.0 * x.numel() * x.element_size() / sorted(seconds)[2]


def finish(device: torch.device) -> None:
    """Waits for the card."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def moved(engine: CardMechanics, frame: Structure, beads: np.ndarray) -> int:
    """Bytes that a step cannot avoid to read or write: lists of pairs, terms with their atoms,
    inverses once in each iteration, atoms a few times."""
    s = engine._state(frame.positions, beads, 0.0, np.arange(frame.n), frame.box)
    engine._list_pairs(s)
    engine._renew_inverses(s)
    lists, inverses = s.lists, s.inverses or ()
    assert lists is not None
    pairs = lists.rows.numel() * 8
    terms = sum(8 * (t.atoms.numel() * 7 + t.parameters.numel()) for t in engine._listed)
    solving = 8 * sum(i.numel() for i in inverses) * s.rounds * s.gradients
    return pairs + terms + solving + 8 * 3 * 8 * frame.n


def steps(
    mapping: SystemMapping, frame: Structure, count: int, device: torch.device, rate: float
) -> str:
    """Rate of the steps, beads exact; a run begins on the constraints."""
    x, beads = frame.positions, map_positions(mapping, frame.positions, frame.box)
    engine, names = CardMechanics(mapping, device=device), np.arange(len(x))
    engine.run(x, beads, frame.box, Langevin(12, 568.0), names)
    seconds = []
    for n in (10, 10 + count):  # their difference is of the steps alone
        finish(device)
        start = time.perf_counter()
        run = engine.run(x, beads, frame.box, Langevin(n, 568.0), names)  # ends with a copy back
        seconds.append(time.perf_counter() - start)
    each = (seconds[1] - seconds[0]) / count
    if each <= 0.0:
        return f"{frame.n} atoms: {count} steps took no longer than the noise of the clock"
    least = moved(engine, frame, beads) / rate
    return (
        f"{frame.n} atoms: {1e3 * each:.2f} ms a step, {frame.n / each:.3g} atoms/s, "
        f"{(10 + count) / run.lists:.1f} steps a list, {least / each:.0%} of the copy rate, "
        f"{memory(device):.2f} GiB" + (", BONDS OFF" if len(run.broken) else "")
    )


def sampler_of(mapping: SystemMapping, name: str, device: torch.device) -> Sampler:
    """Of a packaged or other model."""
    path = find_model(name)
    model = load_model(path)
    options = sampling_options(model.spec, path.stem, {"seed": 0})
    hands = handedness_of(mapping, model.spec.handedness)
    return open_sampler(model, mapping, options, device, hands)


def atoms(
    mapping: SystemMapping, frame: Structure, name: str, device: torch.device, frames: int
) -> str:
    """Rate of a model with its last steps; several frames together where the device allows."""
    sampler = sampler_of(mapping, name, device)
    beads = Structure(map_positions(mapping, frame.positions, frame.box), frame.box)
    sample(sampler, beads, range(frames if frames > 1 else 1))
    start = time.perf_counter()
    taken = sample(sampler, beads, range(1000, 1000 + frames))
    seconds = time.perf_counter() - start
    rate = frames * frame.n / seconds
    return (
        f"{frames} frames of {frame.n} atoms: {seconds:.2f} s, {rate:.0f} atoms/s, "
        f"{60e-6 * rate:.2f} million a minute, {np.mean(taken):.0f} steps, "
        f"{memory(device):.2f} GiB"
    )


def sample(sampler: Sampler, beads: Structure, numbers: Sequence[int]) -> list[int]:
    """Draws frames, at once where that is worth it; returns how many steps each took."""

    def steps_of(number: int) -> int:
        sampler.sample(beads, frame=number)
        return sampler.settled.evaluations if sampler.settled else 0

    if not isinstance(sampler, SharedSampler) or sampler.at_once == 1:
        return [steps_of(k) for k in numbers]
    table, found = sampler.gathering, list[int]()

    def one(seat: int) -> int:
        with table.seated(seat):
            return steps_of(numbers[seat])

    with ThreadPoolExecutor(sampler.at_once) as threads:
        for lo in range(0, len(numbers), sampler.at_once):
            seats = range(lo, min(lo + sampler.at_once, len(numbers)))
            table.expect(len(seats))
            found += threads.map(one, seats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu-torch", "cuda"), default="cuda")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 8, 171])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--model", default="default")
    parser.add_argument("--parts", default="steps,atoms,frames,same")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.copies, options.frames, options.steps = [1, 2], 2, 5
    device, parts = on_device(options.device), options.parts.split(",")
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    source = folder(options.smoke)
    topology = read_topology(source / "topol.top")
    with read_frames(source / "aa.gro") as frames:
        frame = frames[0]
    single = load_mapping("ps-two-bead").resolve(topology)
    whole = Structure(make_whole(frame.positions, frame.box, topology), frame.box)
    if "steps" in parts:
        rate = copy_rate(device)
        print(f"copy: {rate / 1e12:.2f} TB/s")
        for copies in options.copies:
            print("steps:", steps(*repeated(single, whole, copies), options.steps, device, rate),
                  flush=True)  # fmt: skip
    if "atoms" in parts:
        for copies in options.copies[: 1 if options.smoke else None]:
            mapping, box = repeated(single, whole, copies)
            print("atoms:", atoms(mapping, box, options.model, device, 1), flush=True)
    if "frames" in parts:
        print("frames:", atoms(single, whole, options.model, device, options.frames), flush=True)
    if "same" in parts:
        off = same(single, whole, device)
        print(f"same: {off:.1e} nm after 20 steps, {'ok' if off < CLOSE else 'NOT THE SAME'}")
        if off >= CLOSE:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
