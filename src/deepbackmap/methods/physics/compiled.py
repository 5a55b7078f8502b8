"""Decorators of ``mechanics.lanes`` for what is compiled in this folder."""

import functools
from pathlib import Path

from deepbackmap.mechanics import lanes

compiled = functools.partial(lanes.compiled, folder=Path(__file__).parent)
threaded = functools.partial(compiled, parallel=lanes.LOOPS)
"""With loops that threads share; each pass of a loop is on its own."""
inner = functools.partial(compiled, fastmath=True)
"""Where sums may be added up in another order."""
