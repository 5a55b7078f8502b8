"""The log of a run: metrics as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from deepbackmap.methods.options import Metrics


class Log:
    """Metrics as JSON lines and for TensorBoard; a resumed run drops what it will repeat."""

    def __init__(self, folder: Path, iteration: int) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [s for s in lines if json.loads(s)["iteration"] <= iteration]
            aside = self.path.with_suffix(".tmp")
            aside.write_text("".join(f"{s}\n" for s in kept))
            aside.replace(self.path)
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


def last_metrics(path: Path) -> Metrics:
    """The latest value of everything that was logged.

    Args:
        path: of ``metrics.jsonl``; one that is missing has logged nothing.
    """
    found: Metrics = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            found |= json.loads(line)
    found.pop("iteration", None)
    return found
