"""A training run: steps, logs, checkpoints, exact resume, whatever the method.

All random numbers of iteration i on worker r are drawn from a generator seeded by
(seed, i, r): a run that was interrupted goes on with the same numbers as one that was not, and a
checkpoint needs no random state.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from deepbackmap.methods.base import Learner
from deepbackmap.methods.options import Metrics
from deepbackmap.training.checkpoints import save_checkpoint
from deepbackmap.training.log import Log


@contextmanager
def _stop_on_signal() -> Iterator[list[bool]]:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after this iteration."""
    wish: list[bool] = []

    def ask(signum: int, frame: object) -> None:
        if wish:
            raise KeyboardInterrupt
        wish.append(True)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _agreed(fabric: Fabric, *wishes: bool) -> list[bool]:
    """What any worker wishes: all must save, and leave the loop, at the same iteration."""
    if fabric.world_size == 1:
        return list(wishes)
    found = fabric.all_reduce(torch.tensor(wishes, dtype=torch.float32), reduce_op="sum")
    assert isinstance(found, torch.Tensor)
    return [bool(x) for x in found.tolist()]


def run(
    learner: Learner,
    folder: Path,
    *,
    on_checkpoint: Callable[[Learner, Metrics], None],
    progress: bool = True,
    stop_after: float | None = None,
) -> bool:
    """Train until the last iteration, or until interrupted; always leaves a checkpoint.

    Args:
        learner: with its frames in use.
        folder: of the run.
        on_checkpoint: called on the first worker with the latest metrics after each checkpoint.
        progress: whether to show a bar on standard error.
        stop_after: seconds after which to stop as if interrupted.

    Returns:
        Whether the last iteration was reached.
    """
    options, fabric = learner.options, learner.fabric
    main = fabric.is_global_zero
    log = Log(folder, learner.iteration) if main else None
    latest: Metrics = {}
    started, since = time.perf_counter(), time.perf_counter()
    saved = started
    bar = tqdm(
        total=options.iterations,
        initial=learner.iteration,
        disable=not (progress and main),
        unit="it",
        desc="training",
    )

    def checkpoint() -> None:
        if main:
            save_checkpoint(learner, folder / "checkpoint.pt")
            on_checkpoint(learner, latest)
        fabric.barrier()

    with _stop_on_signal() as wish, learner.running():
        try:
            while learner.iteration < options.iterations:
                parts = learner.step()
                i = learner.iteration
                bar.update()
                if log and i % options.log_every == 0:
                    now = time.perf_counter()
                    values = {k: float(v) for k, v in parts.items()}
                    values["seconds_per_iteration"] = (now - since) / options.log_every
                    since = now
                    log.write(i, values)
                    latest.update(values)
                if log and i % options.validate_every == 0 and (found := learner.validate()):
                    log.write(i, found)
                    latest.update(found)
                    bar.set_postfix(validation=f"{found['validation_main']:.4f}")
                now = time.perf_counter()
                late = stop_after is not None and now - started > stop_after
                old = 0 < options.checkpoint_minutes <= (now - saved) / 60
                stop, old = _agreed(fabric, bool(wish) or late, old)
                if stop or old or i % options.checkpoint_every == 0 or i == options.iterations:
                    checkpoint()
                    saved = time.perf_counter()
                if stop:
                    return learner.iteration >= options.iterations
        finally:
            bar.close()
            if log:
                log.close()
    return True
