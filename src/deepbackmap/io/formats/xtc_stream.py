"""The compressed coordinates of .xtc frames, decoded with every step checked.

Read here and not through the library that GROMACS, MDAnalysis and mdtraj share, which trusts the
stream: one wrong bit made it write behind its arrays (of 120 damaged files 12 ended the process,
33 were read in silence). A stream is whole if all this holds:

* every coordinate lies within the bounds that the frame declares, and meets them on every side
  (the writers take the bounds from the coordinates);
* runs end with the last particle, step sizes stay within their table;
* the last bit needed lies in the last byte, and what pads that byte is zero.

The layout is that of GROMACS' ``xdr3dfcoord``: integers in units of 1/precision; some with all
their digits in mixed radix, each followed by up to eight that are given by small steps from the
one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from deepbackmap.io.formats.base import FormatError

FIRST_STEP = 9
_STEPS = np.array(
    [0] * FIRST_STEP
    + [8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 80, 101, 128, 161, 203, 256, 322, 406, 512, 645,
       812, 1024, 1290, 1625, 2048, 2580, 3250, 4096, 5060, 6501, 8192, 10321, 13003, 16384,
       20642, 26007, 32768, 41285, 52015, 65536, 82570, 104031, 131072, 165140, 208063, 262144,
       330280, 416127, 524287, 660561, 832255, 1048576, 1321122, 1664510, 2097152, 2642245,
       3329021, 4194304, 5284491, 6658042, 8388607, 10568983, 13316085, 16777216],
    dtype=np.int64,
)  # fmt: skip
"""Number of values of a small step, by its index; three of them take as many bits as the index
says."""
LAST_STEP = len(_STEPS) - 1
_WIDE = 0xFFFFFF
"""Ranges above this are stored axis by axis."""
_REASONS = {
    1: "the stream ends before the last particle",
    2: "a coordinate lies outside of the bounds that the frame declares",
    3: "a run of small steps goes on behind the last particle",
    4: "the size of small steps leaves its table",
    5: "the stream goes on behind the last particle",
    6: "no coordinate reaches the bounds that the frame declares",
}


class PackedFrame(NamedTuple):
    """What stands in front of a stream, and the stream."""

    n: int
    precision: float
    """Per nm."""
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    step: int
    """Index of the first size of small steps."""
    stream: UInt8[np.ndarray, "b"]


def unpack(frame: PackedFrame) -> Float32[np.ndarray, "n 3"]:
    """Decodes the coordinates of a frame.

    Args:
        frame: numbers from the file, not trusted.

    Returns:
        Positions in nm.

    Raises:
        FormatError: the stream cannot have been written for this frame; what does not fit.
    """
    _check_head(frame)
    low = np.array(frame.low, dtype=np.int64)
    high = np.array(frame.high, dtype=np.int64)
    sizes = high - low + 1
    widths = np.array([int(s).bit_length() for s in sizes], dtype=np.int64)
    together = 0 if (sizes > _WIDE).any() else int(np.prod(sizes.astype(object))).bit_length()
    out = np.empty((frame.n, 3), dtype=np.int64)
    stream = np.concatenate([frame.stream, np.zeros(16, dtype=np.uint8)])
    code = _walk(
        stream, len(frame.stream), low, high, widths, together, frame.step, _STEPS, out
    )  # fmt: skip
    if code == 0 and not (np.array_equal(out.min(0), low) and np.array_equal(out.max(0), high)):
        code = 6
    if code:
        raise FormatError(f"whole compressed coordinates, found that {_REASONS[code]}")
    return out.astype(np.float32) * np.float32(1.0 / frame.precision)


def _check_head(frame: PackedFrame) -> None:
    """Refuses bounds, precisions and sizes that no writer makes."""
    if not (np.isfinite(frame.precision) and 0.0 < frame.precision <= 1e9):
        raise FormatError(f"a precision in points per nm, found {frame.precision:g}")
    if any(a > b for a, b in zip(frame.low, frame.high, strict=True)):
        raise FormatError(f"bounds of the coordinates, found {frame.low} to {frame.high}")
    if not FIRST_STEP <= frame.step <= LAST_STEP:
        raise FormatError(
            f"steps of a size numbered {FIRST_STEP} to {LAST_STEP}, found {frame.step}"
        )


def _machine_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function when it is first called; kept on disk where there is a place for it."""
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")(
            function
        )
    except RuntimeError:  # no folder that numba could keep it in
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


# no_type_check: what numba compiles must be a plain function.


@_machine_code
@no_type_check
def _bits(stream: UInt8[np.ndarray, "b"], at: int, count: int) -> int:
    """A number of up to 32 bits, the highest first, that starts at a bit."""
    value = 0
    while count > 0:
        inside = at & 7
        taken = min(8 - inside, count)
        part = (np.int64(stream[at >> 3]) >> (8 - inside - taken)) & ((1 << taken) - 1)
        value = (value << taken) | part
        at += taken
        count -= taken
    return value


@_machine_code
@no_type_check
def _triple(
    stream: UInt8[np.ndarray, "b"],
    at: int,
    count: int,
    b: int,
    c: int,
    parts: Int64[np.ndarray, "9"],
    found: Int64[np.ndarray, "3"],
) -> None:
    """Three numbers in one of up to 72 bits, (x b + y) c + z, its lowest byte first."""
    digits = 0
    inside = at & 7
    place = at >> 3
    left = count
    while left > 0:
        pair = (np.int64(stream[place]) << 8) | np.int64(stream[place + 1])
        taken = min(8, left)
        parts[digits] = (pair >> (16 - inside - taken)) & ((1 << taken) - 1)
        digits += 1
        place += 1
        left -= taken
    if digits <= 7:
        value = 0
        for k in range(digits - 1, -1, -1):
            value = (value << 8) | parts[k]
        found[2] = value % c
        value //= c
        found[1] = value % b
        found[0] = value // b
        return
    for axis, size in ((2, c), (1, b)):  # by long division
        rest = 0
        for k in range(digits - 1, -1, -1):
            rest = (rest << 8) | parts[k]
            parts[k] = rest // size
            rest -= parts[k] * size
        found[axis] = rest
    value = 0
    for k in range(digits - 1, -1, -1):
        # what does not fit is far too large in any case
        value = (value << 8) | parts[k] if value < 1 << 40 else value
    found[0] = value


@_machine_code
@no_type_check
def _walk(
    stream: UInt8[np.ndarray, "b"],
    length: int,
    low: Int64[np.ndarray, "3"],
    high: Int64[np.ndarray, "3"],
    widths: Int64[np.ndarray, "3"],
    together: int,
    step: int,
    steps: Int64[np.ndarray, "_"],
    out: Int64[np.ndarray, "n 3"],
) -> int:
    """Fills ``out`` from a stream and some bytes of padding.

    Returns 0, or which of ``_REASONS`` it met.
    """
    parts = np.zeros(9, dtype=np.int64)
    here = np.zeros(3, dtype=np.int64)
    before = np.zeros(3, dtype=np.int64)
    end = 8 * length
    last = len(steps) - 1
    b, c = high[1] - low[1] + 1, high[2] - low[2] + 1
    wide = together if together else widths[0] + widths[1] + widths[2]
    at = run = i = 0
    while i < len(out):
        if at + wide + 1 > end:
            return 1
        if together:
            _triple(stream, at, together, b, c, parts, here)
        else:
            here[0] = _bits(stream, at, widths[0])
            here[1] = _bits(stream, at + widths[0], widths[1])
            here[2] = _bits(stream, at + widths[0] + widths[1], widths[2])
        at += wide
        for k in range(3):
            here[k] += low[k]
            if here[k] > high[k]:
                return 2
            before[k] = here[k]
        change = 0
        flag = _bits(stream, at, 1)
        at += 1
        if flag:  # else the run is as long as the one before
            if at + 5 > end:
                return 1
            run = _bits(stream, at, 5)
            at += 5
            change = run % 3 - 1
            run //= 3
        if i + 1 + run > len(out):
            return 3
        if at + run * step > end:
            return 1
        # The writers swap the first two of a run (oxygen and hydrogen of water).
        for k in range(3):
            out[i + (1 if run else 0), k] = here[k]
        if run and (step < FIRST_STEP or step > last):
            return 4
        size = steps[step] if run else 1
        for m in range(run):
            _triple(stream, at, step, size, size, parts, here)
            at += step
            place = i if m == 0 else i + m + 1
            for k in range(3):
                before[k] += here[k] - size // 2
                if here[k] >= size or before[k] < low[k] or before[k] > high[k]:
                    return 2
                out[place, k] = before[k]
        i += 1 + run
        step += change
    if (at + 7) >> 3 != length or _bits(stream, at, -at & 7):
        return 5
    return 0
