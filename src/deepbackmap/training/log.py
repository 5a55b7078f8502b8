"""The log of a run: metrics as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from deepbackmap.io.atomic import new_file
from deepbackmap.methods.options import Metrics


class Log:
    """Metrics as JSON lines and for TensorBoard; a resumed run drops what it will repeat."""

    def __init__(self, folder: Path, iteration: int) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [s for s in _lines(self.path) if json.loads(s)["iteration"] <= iteration]
            with new_file(self.path) as aside:
                aside.write_text("".join(f"{s}\n" for s in kept))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration)

    def write(self, iteration: int, values: Metrics) -> None:
        """One line of metrics."""
        with self.path.open("a") as out:
            out.write(json.dumps({"iteration": iteration, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._board.close()


def _lines(path: Path) -> list[str]:
    """Whole lines of a log: a process that was killed may have left half of its last one."""
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return whole.splitlines()


def last_metrics(path: Path) -> Metrics:
    """The latest value of everything that was logged.

    Args:
        path: of ``metrics.jsonl``; one that is missing has logged nothing.
    """
    found: Metrics = {}
    if path.is_file():
        for line in _lines(path):
            found |= json.loads(line)
    found.pop("iteration", None)
    return found
