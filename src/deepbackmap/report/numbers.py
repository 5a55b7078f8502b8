"""Numbers as a reader wants them: no more digits than their error allows."""

from __future__ import annotations

import math

from markupsafe import Markup

NOTHING = "–"
"""Stands where a figure cannot be said."""
MINUS = "−"
_SMALLEST, _LARGEST = 1e-5, 1e5
"""Outside, a number is written with a power of ten."""
_ROUNDING = 1e-9
"""Errors smaller than this share of their value come from rounding: they are none."""


def plain(value: float, error: float = math.nan) -> str:
    """A number with one or two digits of its error, or two or three of its own, as plain text."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value != 0.0 and not _SMALLEST <= abs(value) < _LARGEST:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return f"{value:.{_decimals(value, error)}f}".replace("-", MINUS)


def rich(value: float, error: float = math.nan) -> Markup:
    """The same for HTML: powers of ten as superscripts, the error behind ``±``."""
    if error < _ROUNDING * abs(value):
        error = 0.0
    number = _powers(plain(value, error))
    if not math.isfinite(value) or not math.isfinite(error):
        return number
    if value == 0.0 and error == 0.0:
        return number
    spread = _powers(plain(error, error))
    return Markup('{}<span class="pm">&nbsp;±&nbsp;{}</span>').format(number, spread)


def ratio(value: float) -> str:
    """How many times the floor, such as ``47×``."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "floor 0"
    return f"{value:,.0f}×".replace(",", "\u202f") if value >= 9.95 else f"{value:.1f}×"


def _decimals(value: float, error: float) -> int:
    """Digits behind the point."""
    if math.isfinite(error) and error > 0.0:
        first = error / 10.0 ** math.floor(math.log10(error))
        leading, digits = error, 2 if first < 3.55 else 1  # 0.0012, but 0.007
    else:
        leading, digits = value, 2 if abs(value) < 0.1 else 3
    if leading == 0.0:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(leading))), 0), 6)


def _powers(text: str) -> Markup:
    """``1.2e−7`` with a superscript."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return Markup("{}").format(text)
    return Markup("{}·10<sup>{}</sup>").format(mantissa, exponent)
