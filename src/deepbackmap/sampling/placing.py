"""What every sampler offers, and which one a model needs."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], None]
"""Called with the number of blocks placed since the last call."""
