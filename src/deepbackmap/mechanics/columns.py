"""Columns of ``tables.Tables.first``: how many things a type has, where its tables begin.

``N_`` are counts; the others are first entries in ``integers`` or in ``reals``. Atoms are given as
places relative to the beginning of their group.
"""

(
    N_ATOMS, MASSES, INVERSES,
    N_TERMS, TERMS,
    N_BONDS, BONDS, LENGTHS, BOND_INVERSES,
    N_HELD, HELD, MEAN,
    N_PLACES, PLACES, STARTS, N_SLOTS, ROWS, TARGETS,
    N_PAIRS, PAIRS, PAIR_FACTORS,
    N_CROSSINGS, CROSSINGS, CROSSING_FACTORS,
    N_FIXED, FIXED, FIXED_VALUES, DIAGONALS, DIAGONAL_VALUES,
    N_BEADS, SHARES, SHARE_ATOMS, WEIGHTS, SHARE_INVERSES,
    INCOMPLETE, PIVOTS,
    UNITS, FACTOR, SIDES, AIM, MOVE, START, GOAL, ROOM,
) = range(44)  # fmt: skip
"""MASSES, INVERSES: one an atom. TERMS: rows of ``TERM_WIDTH``. BONDS, BOND_INVERSES: two a bond.
HELD: beads; MEAN: of their diagonals. PLACES to TARGETS, PAIRS (3 a row), CROSSINGS (4), FIXED
and DIAGONALS (3 a held bead): see ``constraints.Constraints``. SHARES: of each bead and behind the
last one, the first of its entries in SHARE_ATOMS, WEIGHTS and SHARE_INVERSES (inverse masses).
INCOMPLETE: whether the factor is; PIVOTS: the smallest one used, and what takes the place of
smaller ones. UNITS to GOAL: places in the working memory of a group; ROOM: its size."""

TERM_WIDTH = 8
"""Integers of a table of bonded terms: kernel, first of its atoms, how many terms, first of their
parameters, parameters a term, where its energy is counted, whether bonds of that kind are rigid,
atoms of a term."""
