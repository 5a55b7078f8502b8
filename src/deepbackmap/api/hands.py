"""The hands that the stereocentres of a system should have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.chemistry import tacticity
from deepbackmap.mapping import SystemMapping


def handedness_of(system: SystemMapping, pattern: Mapping[str, Any]) -> Handedness | None:
    """The hand of every stereocentre by a pattern of the training data; None: nothing is known.

    Args:
        system: whose centres are asked about.
        pattern: as a model's specification holds it.
    """
    centres = tacticity.find_centres(system)
    sign = tacticity.expected_signs(centres, pattern)
    if not sign.any():
        return None
    return Handedness(torch.from_numpy(centres.atoms), torch.from_numpy(sign))
