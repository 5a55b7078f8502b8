"""The hands of a melt's chains: words for tacticity, signs of centres, the file that keeps them.

A stereocentre's sign is that of ``(previous x next) . ring`` seen from its CH carbon, where
previous and next are the neighbouring CH2 carbons along the chain and ring is the ipso carbon.
A chain of ``n`` monomers has ``n - 1`` centres and ``n - 2`` dyads: m (meso) from one centre to
one of the same sign, r (racemo) to one of the other sign.

The tacticity of a melt is written as chain words joined by commas:

    syndiotactic, isotactic, atactic    all dyads r, all m, or each drawn with even odds
    a string of m and r                 the dyads of a chain, n - 2 letters
    a string of + and -                 the signs of a chain, n - 1 of them

A word for all chains stands alone; otherwise ``word:number`` tells how many chains it holds for
(``syndiotactic+:3,syndiotactic-:3``). The sign after a word or after a string of dyads is that of
the chain's first centre; without it, a syndiotactic chain and a string of dyads begin as the
reference does, isotactic and atactic chains at random.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.int64]
"""1 or -1 for every centre; the last axis runs along the chain."""

FIRST_CENTRE_SIGN = -1
"""Sign of a reference chain's first stereocentre; the following ones alternate."""
FILE = "tacticity.txt"
"""Name of the file of signs in a melt's folder: a line of + and - for every chain."""

_WORD = re.compile(r"(syndiotactic|isotactic|atactic|[mr]+)([+-]?)")


def reference_hands(n_monomers: int) -> Signs:
    """Signs of a reference chain's centres, syndiotactic, shape (n - 1,)."""
    return FIRST_CENTRE_SIGN * (-1) ** np.arange(n_monomers - 1)


def chain_hands(tacticity: str, n_monomers: int, n_chains: int, rng: np.random.Generator) -> Signs:
    """Signs of the stereocentres of every chain, shape (chains, n - 1).

    Args:
        tacticity: as the head of this file describes.
        n_monomers: monomers in a chain.
        n_chains: chains in the melt.
        rng: random generator; only isotactic and atactic chains draw from it.

    Raises:
        ValueError: for an unknown word, a string of the wrong length, or numbers of chains that
            do not add up.
    """
    parts = [part.partition(":") for part in tacticity.split(",")]
    if len(parts) == 1 and not parts[0][2]:
        words = [tacticity] * n_chains
    else:
        counts = [int(count) if count.isdigit() else 0 for _, _, count in parts]
        if min(counts) < 1 or sum(counts) != n_chains:
            raise ValueError(f"tacticity: expected word:number for {n_chains}, got {tacticity!r}")
        words = [
            word for (word, _, _), count in zip(parts, counts, strict=True) for _ in range(count)
        ]
    return np.array([_chain(word, n_monomers, rng) for word in words], dtype=np.int64)


def _chain(word: str, n_monomers: int, rng: np.random.Generator) -> Signs:
    """Signs of one chain's centres."""
    if word and not set(word) - {"+", "-"}:
        return _as_long_as(word, n_monomers - 1, [1 if c == "+" else -1 for c in word])
    match = _WORD.fullmatch(word)
    if match is None:
        raise ValueError(
            "tacticity: expected syndiotactic, isotactic, atactic, or a string of m and r or of "
            f"+ and -, got {word!r}"
        )
    kind, sign = match.groups()
    dyads = n_monomers - 2
    first = FIRST_CENTRE_SIGN
    if kind in ("isotactic", "atactic"):
        first = int(rng.choice([-1, 1]))
    if kind == "atactic":
        steps = rng.choice([-1, 1], dyads)
    elif kind in ("syndiotactic", "isotactic"):
        steps = np.full(dyads, -1 if kind == "syndiotactic" else 1)
    else:
        steps = _as_long_as(word, dyads, [1 if c == "m" else -1 for c in kind])
    first = first if not sign else int(f"{sign}1")
    return first * np.cumprod([1, *steps])


def _as_long_as(word: str, length: int, values: list[int]) -> Signs:
    if len(values) != length:
        raise ValueError(f"tacticity: expected {length} letters for a chain, got {word!r}")
    return np.array(values, dtype=np.int64)


def write_hands(folder: Path, hands: Signs) -> None:
    """Write the signs of every chain's centres, shape (chains, n - 1), into a melt's folder."""
    lines = ["".join("+" if sign > 0 else "-" for sign in chain) for chain in hands]
    (Path(folder) / FILE).write_text("\n".join(lines) + "\n")


def read_hands(folder: Path, n_monomers: int, n_chains: int) -> Signs:
    """Read the signs of every chain's centres, shape (chains, n - 1).

    A folder without the file holds chains with the hands of the reference.

    Raises:
        ValueError: if the file does not fit the chains.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return np.tile(reference_hands(n_monomers), (n_chains, 1))
    lines = path.read_text().split()
    if len(lines) != n_chains or any(set(x) - {"+", "-"} for x in lines):
        raise ValueError(f"{path}: expected a line of + and - for each of {n_chains} chains")
    return np.array([_chain(line, n_monomers, np.random.default_rng(0)) for line in lines])
