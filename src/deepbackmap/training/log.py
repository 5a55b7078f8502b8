"""The log of a run: metrics as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import new_file, writing
from deepbackmap.methods.options import Metrics


class Log:
    """Metrics as JSON lines and for TensorBoard; a resumed run drops what it will repeat."""

    def __init__(self, folder: Path, iteration: int) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in _lines(self.path) if line["iteration"] <= iteration]
            with new_file(self.path) as part:
                part.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        with writing(folder):
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration)

    def write(self, iteration: int, values: Metrics) -> None:
        """One line of metrics.

        Raises:
            InputError: the disk refuses.
        """
        with writing(self.path), self.path.open("a") as out:
            out.write(json.dumps({"iteration": iteration, **values}) + "\n")
        with writing(self.path.parent):
            for name, value in values.items():
                self._board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        with writing(self.path.parent):
            self._board.close()


def last_metrics(path: Path) -> Metrics:
    """The latest value of everything that was logged.

    Args:
        path: of ``metrics.jsonl``; one that is missing has logged nothing.
    """
    found: Metrics = {}
    if path.is_file():
        for line in _lines(path):
            found |= line
    found.pop("iteration", None)
    return found


def _lines(path: Path) -> list[Metrics]:
    """What was logged, line by line; of a process that was killed the last one may be torn.

    Raises:
        InputError: another line is damaged.
    """
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found: list[Metrics] = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            found.append({name: float(line[name]) for name in ("iteration", *line)})
        except (ValueError, KeyError, TypeError) as error:
            if number == len(texts):
                break
            raise InputError(
                f"{path}, line {number}: expected metrics of an iteration, found '{text:.40}': "
                "remove that line and the run goes on"
            ) from error
    return found
