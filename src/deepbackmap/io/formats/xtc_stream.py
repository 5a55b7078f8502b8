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

import math
from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Float32, Int64, UInt8, UInt64

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
    sizes = [b - a + 1 for a, b in zip(frame.low, frame.high, strict=True)]
    widths = tuple(size.bit_length() for size in sizes)
    together = 0 if max(sizes) > _WIDE else math.prod(sizes).bit_length()
    padded = np.zeros(len(frame.stream) // 8 + 4, dtype=">u8")
    padded.view(np.uint8)[: len(frame.stream)] = frame.stream
    out = np.empty((frame.n, 3), dtype=np.float32)
    code = _walk(
        padded.astype(np.uint64), len(frame.stream), frame.low, frame.high, widths, together,
        frame.step, _STEPS, np.float32(1.0 / frame.precision), out,
    )  # fmt: skip
    if code:
        raise FormatError(f"whole compressed coordinates, found that {_REASONS[code]}")
    return out


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
def _window(words: UInt64[np.ndarray, "w"], at: int) -> np.uint64:
    """The 64 bits from a bit on."""
    here = np.uint64(at & 63)
    first = words[np.uint64(at >> 6)] << here
    if here == np.uint64(0):
        return first
    return first | (words[np.uint64((at >> 6) + 1)] >> (np.uint64(64) - here))


@_machine_code
@no_type_check
def _bits(words: UInt64[np.ndarray, "w"], at: int, count: int) -> int:
    """A number of 1 to 32 bits, the highest first, that starts at a bit."""
    return np.int64(_window(words, at) >> np.uint64(64 - count))


@_machine_code
@no_type_check
def _triple(words: UInt64[np.ndarray, "w"], at: int, count: int, b: int, c: int) -> Any:
    """Three numbers in one of up to 72 bits, (x b + y) c + z, its lowest byte first."""
    if count > 56:
        return _long_triple(words, at, count, b, c)
    window = _window(words, at)
    whole = np.uint64(0)
    full = count >> 3
    for k in range(full):
        byte = (window >> np.uint64(56 - 8 * k)) & np.uint64(0xFF)
        whole |= byte << np.uint64(8 * k)
    if count & 7:
        rest = (window << np.uint64(8 * full)) >> np.uint64(64 - (count & 7))
        whole |= rest << np.uint64(8 * full)
    if count <= 32:  # divides faster
        small, c_, b_ = np.uint32(whole), np.uint32(c), np.uint32(b)
        over = small // c_
        top = over // b_
        return np.int64(top), np.int64(over - top * b_), np.int64(small - over * c_)
    above = whole // np.uint64(c)
    highest = above // np.uint64(b)
    y, z = above - highest * np.uint64(b), whole - above * np.uint64(c)
    return np.int64(highest), np.int64(y), np.int64(z)


@_machine_code
@no_type_check
def _long_triple(words: UInt64[np.ndarray, "w"], at: int, count: int, b: int, c: int) -> Any:
    """As ``_triple``, byte by byte, for more bits than a machine word has."""
    digits = (count + 7) >> 3
    parts = np.zeros(9, dtype=np.int64)
    for k in range(digits):
        parts[k] = _bits(words, at + 8 * k, min(8, count - 8 * k))
    z = _divide(parts, digits, c)
    y = _divide(parts, digits, b)
    x = 0
    for k in range(digits - 1, -1, -1):
        # what does not fit is far too large in any case
        x = (x << 8) | parts[k] if x < 1 << 40 else x
    return x, y, z


@_machine_code
@no_type_check
def _divide(parts: Int64[np.ndarray, "9"], digits: int, size: int) -> int:
    """Divides a number given by its bytes, and returns what is left."""
    rest = 0
    for k in range(digits - 1, -1, -1):
        rest = (rest << 8) | parts[k]
        parts[k] = rest // size
        rest -= parts[k] * size
    return rest


@_machine_code
@no_type_check
def _walk(
    words: UInt64[np.ndarray, "w"],
    length: int,
    low: Any,
    high: Any,
    widths: Any,
    together: int,
    step: int,
    steps: Int64[np.ndarray, "_"],
    unit: np.float32,
    out: Float32[np.ndarray, "n 3"],
) -> int:
    """Fills ``out`` from the ``length`` bytes of a stream, which come as padded machine words.

    Axes are written out, since arrays of three are not kept in registers. Returns 0, or which of
    ``_REASONS`` it met.
    """
    low_x, low_y, low_z = low
    high_x, high_y, high_z = high
    least_x, least_y, least_z = high
    most_x, most_y, most_z = low
    end = 8 * length
    last = len(steps) - 1
    b, c = high_y - low_y + 1, high_z - low_z + 1
    wide = together if together else widths[0] + widths[1] + widths[2]
    at = run = i = 0
    while i < len(out):
        if at + wide + 1 > end:
            return 1
        if together:
            x, y, z = _triple(words, at, together, b, c)
        else:
            x = _bits(words, at, widths[0])
            y = _bits(words, at + widths[0], widths[1])
            z = _bits(words, at + widths[0] + widths[1], widths[2])
        x, y, z = x + low_x, y + low_y, z + low_z
        at += wide
        change = 0
        flag = _bits(words, at, 1)
        at += 1
        if flag:  # else the run is as long as the one before
            if at + 5 > end:
                return 1
            run = _bits(words, at, 5)
            at += 5
            change = run % 3 - 1
            run //= 3
        if i + 1 + run > len(out):
            return 3
        if at + run * step > end:
            return 1
        if run and (step < FIRST_STEP or step > last):
            return 4
        size = steps[step] if run else 0
        # The writers swap the first two of a run (oxygen and hydrogen of water).
        place = i + (1 if run else 0)
        for m in range(run + 1):
            if m:
                dx, dy, dz = _triple(words, at, step, size, size)
                if dx >= size:
                    return 2
                at += step
                half = size // 2
                x, y, z = x + dx - half, y + dy - half, z + dz - half
                place = i if m == 1 else i + m
            if x < low_x or y < low_y or z < low_z or x > high_x or y > high_y or z > high_z:
                return 2
            least_x, least_y, least_z = min(least_x, x), min(least_y, y), min(least_z, z)
            most_x, most_y, most_z = max(most_x, x), max(most_y, y), max(most_z, z)
            out[place, 0] = np.float32(x) * unit
            out[place, 1] = np.float32(y) * unit
            out[place, 2] = np.float32(z) * unit
        i += 1 + run
        step += change
    if (at + 7) >> 3 != length or (at & 7 and _bits(words, at, 8 - (at & 7))):
        return 5
    if (least_x, least_y, least_z) != low or (most_x, most_y, most_z) != high:
        return 6
    return 0
