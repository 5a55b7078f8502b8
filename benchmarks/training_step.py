"""Time, rate and memory of a training step.

    python benchmarks/training_step.py                       # the small preset, as trained
    python benchmarks/training_step.py --preset adversarial-small   # beside the paper's step
    python benchmarks/training_step.py --preset paper        # the paper's networks
    python benchmarks/training_step.py --smoke               # the tiny preset, for CI

The rate is that of the network arithmetic alone (counted by torch on the step itself) over the
whole time of the step, as a fraction of torch.mm's rate in the same run. "paper's step" has five
critic updates, each with the gradient penalty; "preset's step" as many as the preset says, with the
penalty as rarely as it says; both on the same networks, batch for batch. Their ratio is printed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from sampler import MELT, matrix_rate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from deepbackmap.api.devices import choose_device, choose_precision
from deepbackmap.config import load_train_config
from deepbackmap.data.systems import TrainingSystem, map_whole
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.methods.options import Ramp
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.batches import VoxelFrames
from deepbackmap.methods.voxel.learner import VoxelLearner


class FlopCounter(TorchDispatchMode):
    """Counts as torch's own mode does, but without its module hooks, which the double backward of
    the gradient penalty does not allow."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--precision", default="32-true,bf16-mixed", help="names, or auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.preset, arguments.repeats = "tiny", 2
    config = load_train_config(arguments.preset)
    topology = read_topology(MELT / "topol.top")
    file = load_mapping("ps-two-bead")
    mapping = file.resolve(topology)
    with read_frames(MELT / "aa.gro") as source:
        frames = list(source)
    types = sorted({t for m in topology.molecule_types for t in m.atom_types})
    spec = ModelSpec(
        config.method.name, config.model, tuple(types), ("A", "B"), file.to_text(), 568.0, 0.27
    )
    mapped = tuple(map_whole(s, mapping) for s in frames)
    system = TrainingSystem(mapping, tuple(frames), mapped, (568.0,) * len(mapped))
    adversarial = replace(
        config.training,
        adversarial=Ramp(1.0, 1.0),
        score=Ramp(),
        density=Ramp(),
        prior=Ramp(0.01, 0.01),
        critic_alone_from=0,
        critic_alone_until=0,
        compile=arguments.compile,
    )
    cases = [("paper's step", replace(adversarial, critic_steps=5, penalty_every=1))]
    own = (adversarial.critic_steps, adversarial.penalty_every)
    if own != (5, 1):
        cases.append(("preset's step", adversarial))
    if config.training.score.first > 0 and not arguments.smoke:
        cases.insert(0, ("energy score", replace(config.training, critic_alone_until=0)))
    print("step          precision   s/step  TFLOP/step  GFLOP/s  of torch.mm (fp32)  memory MiB")
    for precision in arguments.precision.split(","):
        device = choose_device(arguments.device)
        precision = choose_precision(precision, device)
        accelerator = "gpu" if device.type == "cuda" else "cpu"
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        on_gpu = fabric.device.type == "cuda"
        data = VoxelFrames(spec, system, fabric.device)
        rate = matrix_rate() if not on_gpu else _gpu_rate(fabric.device)
        medians = {}
        for name, options in cases:
            learner = VoxelLearner(fabric, spec, options)
            learner.attach(data, None)
            learner.step()
            times, work = [], []
            for k in range(arguments.repeats):
                learner.iteration = k  # the same batches of the generator for every case
                # Steps differ in length; each is counted and timed on the same batch.
                with FlopCounter() as counter:
                    learner.step()
                work.append(counter.total)
                learner.iteration -= 1
                start = time.perf_counter()
                learner.step()
                if on_gpu:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            speed = sum(work) / sum(times)
            medians[name] = sum(times) / len(times)
            peak = (
                torch.cuda.max_memory_allocated() / 2**20
                if on_gpu
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            )
            print(
                f"{name:13s} {precision:10s} {statistics.median(times):7.2f} "
                f"{statistics.median(work) / 1e12:11.3f} {speed / 1e9:8.0f} {speed / rate:12.2f} "
                f"{peak:18.0f}"
            )
        if "preset's step" in medians:
            ratio = medians["paper's step"] / medians["preset's step"]
            print(
                f"{precision}: the paper's step takes {ratio:.2f} times the preset's (mean times)"
            )


def _gpu_rate(device: torch.device, size: int = 8192) -> float:
    a = torch.rand(size, size, device=device)
    torch.mm(a, a)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(5):
        torch.mm(a, a)
    torch.cuda.synchronize()
    return 5 * 2 * size**3 / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
