"""Checkpoints: whole, or the one before."""

from __future__ import annotations

from pathlib import Path

import torch

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import new_file
from deepbackmap.methods.base import Learner


def save_checkpoint(learner: Learner, path: Path) -> None:
    """Write the state aside, then rename: a checkpoint is whole or the one before.

    Raises:
        InputError: the disk refuses.
    """
    with new_file(path) as part, part.open("wb") as out:
        torch.save(learner.state(), out)  # to a handle, since torch puts a file's name into it


def restore_checkpoint(learner: Learner, path: Path) -> None:
    """Go on from a checkpoint.

    Raises:
        InputError: it is damaged, or of other networks.
    """
    try:
        state = torch.load(path, map_location=learner.fabric.device, weights_only=True)
    except Exception as error:  # torch raises many types for a damaged archive
        first = str(error).partition("\n")[0]
        raise InputError(f"{path}: expected a readable checkpoint, found: {first}") from error
    try:
        learner.restore(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: expected a checkpoint of the run's networks, found: {first}"
        ) from error
