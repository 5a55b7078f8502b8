"""Pairs of atoms: clusters, lists with a skin, Lennard-Jones and Coulomb, compiled.

Atoms are sorted into clusters of ``WIDTH`` that lie close together; every cluster has a list of
the atoms within reach of any of its own. A cluster's atoms are the elements of one vector, and
each listed atom is compared with all of them at once (after Páll, Hess, Comput. Phys. Commun. 184,
2641, 2013). Lists are full: each pair occurs on both sides, so that a cluster's forces are summed
in a fixed order by whichever thread, and nothing is scattered.

Two parts of each list are kept apart: atoms that were nearer than ``near`` when they were listed,
needed in every step, and the others; and in each part those that some atom of the cluster
excludes, which carry a mask. Lists lie one behind the other, so that they are read as one stream.

Positions are kept in double precision and differences worked out in single: what is rounded is a
position relative to the cluster's first atom, so that forces are as good in a large box as in a
small one.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from deepbackmap.mechanics.lanes import (
    LANES,
    WIDTH,
    both,
    compiled,
    float8,
    inner,
    load,
    part,
    prefetch,
    root,
    select,
    some,
    store,
    threaded,
    threaded_part,
)

IMAGES = 27
"""Lattice vectors from -1 to 1 in each direction: the image of a listed atom."""
FAR_AWAY = 1e6
"""nm: where the empty places of clusters are."""
ROWS = 4
"""Of a pair of types: 12 c12, 6 c6, smallest distance squared, softness of the core."""
ROUNDING = 1e-5
"""Of heights as fractions of the cell in single precision, and more."""
CHUNKS = 32
"""Of clusters, whose lists are made with the same working memory."""
TINY = np.float32(1e-6)
"""nm^2: squared distance below which pairs exert no more force, lest it overflow."""


@part
def _wrapped(x, where, box, inverse, offsets, fractions, lanes):
    """Fractional coordinates in the cell, and what was taken off; whether all are finite."""
    finite = True
    for a in range(len(where)):
        w = where[a]
        r0, r1, r2 = x[w], x[w + lanes], x[w + 2 * lanes]
        if not (np.isfinite(r0) and np.isfinite(r1) and np.isfinite(r2)):
            finite = False
            r0 = r1 = r2 = 0.0
        o0 = o1 = o2 = 0.0
        for c in range(3):
            f = r0 * inverse[0, c] + r1 * inverse[1, c] + r2 * inverse[2, c]
            whole = np.floor(f)
            f -= whole
            if f >= 1.0:
                f = 0.0
                whole += 1.0
            fractions[a, c] = f
            o0 += whole * box[c, 0]
            o1 += whole * box[c, 1]
            o2 += whole * box[c, 2]
        offsets[w], offsets[w + lanes], offsets[w + 2 * lanes] = o0, o1, o2
    return finite


@compiled
def sort_atoms(x, where, box, inverse, columns, offsets, fractions, lanes):
    """Sorts atoms into columns along the last lattice vector, and these by height.

    Args:
        x: positions in the order of the state, nm.
        where: place of each atom's x in it.
        box: lattice vectors as rows, nm, and its inverse.
        columns: how many along the first and the second lattice vector.
        offsets: to be filled in: what to take off to have atoms in the cell, nm.
        fractions: scratch, (n, 3).
        lanes: distance of components in the state.

    Returns:
        Atom of each place of the clusters (-1: none), and where its x is in the state; place in
        the clusters of each atom of the state (stand-ins -1), and of each atom; first place of
        each column and behind the last; whether all positions are finite.
    """
    n = len(where)
    finite = _wrapped(x, where, box, inverse, offsets, fractions, lanes)
    count = np.zeros(columns[0] * columns[1], dtype=np.int64)
    column = np.empty(n, dtype=np.int32)
    for a in range(n):
        c0 = min(int(fractions[a, 0] * columns[0]), columns[0] - 1)
        c1 = min(int(fractions[a, 1] * columns[1]), columns[1] - 1)
        column[a] = c0 * columns[1] + c1
        count[column[a]] += 1
    first = np.zeros(len(count) + 1, dtype=np.int64)
    for c in range(len(count)):
        first[c + 1] = first[c] + (count[c] + WIDTH - 1) // WIDTH * WIDTH
    atoms = np.full(first[-1], -1, dtype=np.int32)
    filled = first[:-1].copy()
    for a in range(n):
        atoms[filled[column[a]]] = a
        filled[column[a]] += 1
    _sort_columns(atoms, first, count, fractions)
    places = np.full(len(atoms), -1, dtype=np.int32)
    slots = np.full(len(x) // 3, -1, dtype=np.int32)
    own = np.empty(n, dtype=np.int32)
    for s in range(len(atoms)):
        if atoms[s] >= 0:
            w = where[atoms[s]]
            places[s], own[atoms[s]] = w, s
            slots[w // (3 * LANES) * LANES + w % LANES] = s
    return atoms, places, slots, own, first, finite


@inner
def _sort(atoms, first, stop, fractions):
    """Sorts some atoms by height (Shell, Commun. ACM 2, 30, 1959): lists are short."""
    gap = 1
    while 3 * gap + 1 < stop - first:
        gap = 3 * gap + 1
    while gap > 0:
        for k in range(first + gap, stop):
            atom, at = atoms[k], k
            height = fractions[atom, 2]
            while at >= first + gap and fractions[atoms[at - gap], 2] > height:
                atoms[at] = atoms[at - gap]
                at -= gap
            atoms[at] = atom
        gap //= 3


@threaded_part
def _sort_columns(atoms, first, count, fractions):
    for number in prange(len(count)):
        c = np.int64(number)
        _sort(atoms, first[c], first[c] + count[c], fractions)


@compiled
def place(x, offsets, places, points, lanes):
    """Copies positions in the cell to the places of the clusters."""
    for s in range(len(places)):
        for c in range(3):
            w = places[s] + c * lanes
            points[4 * s + c] = x[w] - offsets[w] if places[s] >= 0 else FAR_AWAY


@inner
def _mark(atoms, own, base, exclusions, marks, sign):
    """Sets (or, by -1, clears) the bits of the atoms of a cluster at the places they exclude."""
    _molecule, local, rows, starts, partners = exclusions
    for k in range(WIDTH):
        a = atoms[base + k]
        if a < 0:
            continue
        marks[base + k] = (marks[base + k] | (1 << k)) if sign > 0 else 0
        row, first = rows[a] + local[a], a - local[a]
        for p in range(starts[row], starts[row + 1]):
            s = own[first + partners[p]]
            marks[s] = (marks[s] | (1 << k)) if sign > 0 else 0


@inner
def _bounds(points, atoms, cluster, boxes):
    """Middle and half the edges of the box around the atoms of a cluster, nm: (6,) each."""
    for c in range(3):
        low, high = np.float32(np.inf), np.float32(-np.inf)
        for s in range(cluster * WIDTH, (cluster + 1) * WIDTH):
            if atoms[s] >= 0:
                p = points[4 * s + c]
                low, high = min(low, p), max(high, p)
        boxes[6 * cluster + c] = np.float32(0.5) * (low + high)
        boxes[6 * cluster + 3 + c] = np.float32(0.5) * (high - low)


@inner
def _between(lowest, start, stop, low, high):
    """First and last but one of some clusters of a column that may reach between two heights."""
    a, b = start, stop
    while b - a > 1:
        middle = (a + b) >> 1
        if lowest[middle] <= low:
            a = middle
        else:
            b = middle
    start, b = a, stop
    while a < b:
        middle = (a + b) >> 1
        if lowest[middle] <= high:
            a = middle + 1
        else:
            b = middle
    return start, a


@inner
def _near_clusters(
    cluster, first, boxes, lowest, columns, inverse, steps, shifts, reach, found
):  # fmt: skip
    """Clusters and images of them whose boxes are within reach of a cluster's.

    Args:
        lowest: height of the first atom of each cluster, as a fraction of the cell.
        found: to be filled in: number and image in one; what is beyond its end is counted only.

    Returns:
        How many.
    """
    n, room = 0, len(found) - 1
    b = 6 * cluster
    m0, m1, m2 = boxes[b], boxes[b + 1], boxes[b + 2]
    w0, w1, w2 = boxes[b + 3], boxes[b + 4], boxes[b + 5]
    zero, reach2 = np.float32(0.0), np.float32(reach * reach)
    radius = reach + np.sqrt(w0 * w0 + w1 * w1 + w2 * w2)
    at0 = m0 * inverse[0, 0] + m1 * inverse[1, 0] + m2 * inverse[2, 0]
    at1 = m0 * inverse[0, 1] + m1 * inverse[1, 1] + m2 * inverse[2, 1]
    at2 = m0 * inverse[0, 2] + m1 * inverse[1, 2] + m2 * inverse[2, 2]
    around = radius * steps[2] + ROUNDING
    low0 = int(np.floor((at0 - radius * steps[0]) * columns[0]))
    low1 = int(np.floor((at1 - radius * steps[1]) * columns[1]))
    top0 = int(np.floor((at0 + radius * steps[0]) * columns[0]))
    top1 = int(np.floor((at1 + radius * steps[1]) * columns[1]))
    # images beyond the next would need a cell that is lower than the reach
    for i0 in range(max(low0, -columns[0]), min(top0 + 1, 2 * columns[0])):
        s0 = -1 if i0 < 0 else i0 // columns[0]
        for i1 in range(max(low1, -columns[1]), min(top1 + 1, 2 * columns[1])):
            s1 = -1 if i1 < 0 else i1 // columns[1]
            column = (i0 - s0 * columns[0]) * columns[1] + i1 - s1 * columns[1]
            for s2 in range(-1, 2):
                low, high = at2 - s2 - around, at2 - s2 + around
                if low > 1.0 or high < 0.0:
                    continue
                code = (s0 + 1) * 9 + (s1 + 1) * 3 + s2 + 1
                h0, h1, h2 = shifts[code, 0] - m0, shifts[code, 1] - m1, shifts[code, 2] - m2
                start, stop = first[column] // WIDTH, first[column + 1] // WIDTH
                start, stop = _between(lowest, start, stop, low, high)
                for j in range(start, stop):
                    g0 = max(abs(boxes[6 * j] + h0) - w0 - boxes[6 * j + 3], zero)
                    g1 = max(abs(boxes[6 * j + 1] + h1) - w1 - boxes[6 * j + 4], zero)
                    g2 = max(abs(boxes[6 * j + 2] + h2) - w2 - boxes[6 * j + 5], zero)
                    # always written, counted if near: no branch to be guessed
                    found[min(n, room)] = j * 32 + code
                    n += g0 * g0 + g1 * g1 + g2 * g2 < reach2
    return n


@inner
def _near_atoms(cluster, atoms, points, shifts, reach, own, clusters, n_clusters, found):
    """Atoms of some clusters within reach of an atom of a cluster: place and image in one."""
    base, n = cluster * WIDTH, 0
    for k in range(WIDTH):
        for c in range(3):
            # empty places are far from everything, each other included
            p = points[4 * (base + k) + c] if atoms[base + k] >= 0 else np.float32(-FAR_AWAY)
            own[c * WIDTH + k] = p
    x, y, z = load(own, 0), load(own, WIDTH), load(own, 2 * WIDTH)
    reach2 = np.float32(reach * reach)
    for k in range(n_clusters):
        code = clusters[k] & 31
        first = (clusters[k] >> 5) * WIDTH
        h0, h1, h2 = shifts[code, 0], shifts[code, 1], shifts[code, 2]
        for s in range(first, first + WIDTH):
            dx = x - (points[4 * s] + h0)
            dy = y - (points[4 * s + 1] + h1)
            dz = z - (points[4 * s + 2] + h2)
            found[n] = s * 32 + code
            n += some(dx * dx + dy * dy + dz * dz < reach2)
    return n


@inner
def _list_cluster(
    cluster, atoms, own_places, points, shifts, near, exclusions, plain, masked, masks, starts,
    counts, ends, own, marks, found, n,
):  # fmt: skip
    """Sorts what is within reach of a cluster into its lists; the last are working memory."""
    base = cluster * WIDTH
    x, y, z = load(own, 0), load(own, WIDTH), load(own, 2 * WIDTH)
    near2 = np.float32(near * near)
    i, m = starts[cluster, 0], starts[cluster, 1]
    _mark(atoms, own_places, base, exclusions, marks, 1)
    for far in range(2 if near > 0.0 else 1):
        first, first_masked = i, m
        for k in range(n):
            entry = found[k]
            s, code = entry >> 5, entry & 31
            if near > 0.0:
                dx = x - (points[4 * s] + shifts[code, 0])
                dy = y - (points[4 * s + 1] + shifts[code, 1])
                dz = z - (points[4 * s + 2] + shifts[code, 2])
                if some(dx * dx + dy * dy + dz * dz < near2) == (far == 1):
                    continue
            mask = 255 - np.int64(marks[s])
            # what is beyond the end is counted only
            if mask == 255:
                if i < ends[0]:
                    plain[i] = entry
                i += 1
            else:
                if m < ends[1]:
                    masked[m], masks[m] = entry, mask
                m += 1
        counts[cluster, far], counts[cluster, 2 + far] = i - first, m - first_masked
    if near <= 0.0:
        counts[cluster, 1], counts[cluster, 3] = 0, 0
    _mark(atoms, own_places, base, exclusions, marks, -1)


@threaded
def list_pairs(
    atoms, own_places, first, points, columns, inverse, shifts, reach, near, exclusions, plain,
    masked, masks, starts, counts, capacity, candidates,
):  # fmt: skip
    """Lists the atoms within reach of each cluster.

    Args:
        atoms: atom of each place, with the place of each atom and the first place of each column.
        points: positions of the places and their charges, (4 s,), nm; single precision does here.
        columns: how many along the first and the second lattice vector.
        inverse: of the box, whose lattice vectors are rows, 1/nm.
        shifts: all lattice vectors used, nm, single as well.
        reach: nm.
        near: nm; 0 if all are near.
        exclusions: molecule and number in it of each atom, and who excludes whom, row by row.
        plain: to be filled in: lists one after the other, near atoms before far ones.
        masked: the same of those with exclusions, and their ``masks``.
        starts: (c, 2), to be filled in: where the lists of a cluster begin in either.
        counts: (c, 4), to be filled in: near and far of either.
        capacity: how many of either a cluster may have in the mean over a chunk.
        candidates: how many clusters near a cluster there is room for.

    Returns:
        How many of these three there had to be room for; beyond, nothing was listed.
    """
    steps = np.empty(3)
    for c in range(3):
        steps[c] = np.sqrt(inverse[0, c] ** 2 + inverse[1, c] ** 2 + inverse[2, c] ** 2)
    clusters = len(atoms) // WIDTH
    boxes, lowest = np.empty(6 * clusters, dtype=np.float32), np.empty(clusters, dtype=np.float32)
    for number in prange(clusters):
        cluster = np.int64(number)
        _bounds(points, atoms, cluster, boxes)
        lowest[cluster] = 0.0
        for c in range(3):
            lowest[cluster] += points[4 * WIDTH * cluster + c] * inverse[c, 2]
    most = np.zeros((CHUNKS, 3), dtype=np.int64)
    for number in prange(CHUNKS):
        chunk = np.int64(number)
        own = np.empty(3 * WIDTH, dtype=np.float32)
        near_clusters = np.empty(candidates, dtype=np.int32)
        found = np.empty(candidates * WIDTH + 1, dtype=np.int32)
        marks = np.zeros(len(atoms), dtype=np.uint8)
        begin, end = chunk * clusters // CHUNKS, (chunk + 1) * clusters // CHUNKS
        ends = (end * capacity[0], end * capacity[1])
        at, masked_at = begin * capacity[0], begin * capacity[1]
        for cluster in range(begin, end):
            starts[cluster, 0], starts[cluster, 1] = at, masked_at
            total = _near_clusters(
                cluster, first, boxes, lowest, columns, inverse, steps, shifts, reach,
                near_clusters,
            )  # fmt: skip
            most[chunk, 2] = max(most[chunk, 2], total)
            n = _near_atoms(
                cluster, atoms, points, shifts, reach, own, near_clusters,
                min(total, candidates), found,
            )  # fmt: skip
            _list_cluster(
                cluster, atoms, own_places, points, shifts, near, exclusions, plain, masked, masks,
                starts, counts, ends, own, marks, found, n,
            )  # fmt: skip
            at += counts[cluster, 0] + counts[cluster, 1]
            masked_at += counts[cluster, 2] + counts[cluster, 3]
        if end > begin:
            most[chunk, 0] = -((begin * capacity[0] - at) // (end - begin))
            most[chunk, 1] = -((begin * capacity[1] - masked_at) // (end - begin))
    return most[:, 0].max(), most[:, 1].max(), most[:, 2].max()


@inner
def _slopes(dx, dy, dz, table, row, charge, field, cutoff2, included):
    """-dU/dr / r of pairs; excluded ones keep what the reaction field does to them."""
    r2 = dx * dx + dy * dy + dz * dz
    inside = r2 < cutoff2
    square = r2 * np.float32(1.0)
    soft = load(table, row + 2 * WIDTH)
    square = select(r2 < soft, soft, r2)
    r4 = square * square
    inverse6 = np.float32(1.0) / (r4 * square + load(table, row + 3 * WIDTH))
    slope = (load(table, row) * inverse6 - load(table, row + WIDTH)) * inverse6 * (r4 * inverse6)
    inverse2 = np.float32(1.0) / square
    slope = slope + charge * (inverse2 * root(inverse2))
    slope = select(both(inside, included), slope, np.float32(0.0))
    return slope - select(inside, field * charge, np.float32(0.0))


@inner
def _slopes_uncharged(dx, dy, dz, table, row, cutoff2, included):
    """The same without charges."""
    r2 = dx * dx + dy * dy + dz * dz
    soft = load(table, row + 2 * WIDTH)
    square = select(r2 < soft, soft, r2)
    r4 = square * square
    inverse6 = np.float32(1.0) / (r4 * square + load(table, row + 3 * WIDTH))
    slope = (load(table, row) * inverse6 - load(table, row + WIDTH)) * inverse6 * (r4 * inverse6)
    return select(both(r2 < cutoff2, included), slope, np.float32(0.0))


@compiled
def bit_masks():
    """(256 * WIDTH,): 1 where a bit of the number of the row is set."""
    found = np.zeros(256 * WIDTH, dtype=np.float32)
    for m in range(256):
        for k in range(WIDTH):
            found[m * WIDTH + k] = (m >> k) & 1
    return found


@inner
def _gather(points, shifts, base, own, moved):
    """A cluster's positions from its first atom, and its charges; lattice vectors from there."""
    for k in range(WIDTH):
        for c in range(3):
            own[c * WIDTH + k] = np.float32(points[4 * (base + k) + c] - points[4 * base + c])
        own[3 * WIDTH + k] = np.float32(points[4 * (base + k) + 3])
    for code in range(IMAGES):
        for c in range(3):
            moved[3 * code + c] = shifts[code, c] - points[4 * base + c]


@threaded_part
def pair_forces(
    places, points, types, shifts, plain, masked, masks, starts, counts, bits, table, n_types,
    cutoff, field, scale, charged, far, factor, forces, lanes,
):  # fmt: skip
    """Forces of Lennard-Jones and Coulomb on all atoms.

    Args:
        places: where in the state x of the atom of each place of the clusters is; -1: none.
        points: positions of the places, nm, and their charges in units whose product is an energy
            times a length.
        types: row of the parameters of each place.
        shifts: lattice vectors, (27, 3), nm.
        plain: lists, with ``masked``, ``masks``, ``starts`` and ``counts``.
        bits: ``bit_masks``.
        table: (t, t, ROWS).
        n_types: t.
        cutoff: nm.
        field: twice the constant of the reaction field, nm^-3.
        scale: on all products of charges.
        charged: whether there are charges at all.
        far: whether the far part of the lists is meant, else the near one.
        factor: on all forces.
        forces: to be added to, kJ/mol/nm.
        lanes: distance of components in the state.
    """
    cutoff2, field = np.float32(cutoff * cutoff), np.float32(field)
    scale, side = np.float32(scale), int(far)
    for number in prange(len(places) // WIDTH):
        cluster = np.int64(number)
        base = cluster * WIDTH
        own = np.empty(4 * WIDTH, dtype=np.float32)
        rows = np.empty(n_types * ROWS * WIDTH, dtype=np.float32)
        moved = np.empty(3 * IMAGES)
        _gather(points, shifts, base, own, moved)
        for k in range(WIDTH):
            prefetch(forces, max(places[base + k], 0))
            prefetch(forces, max(places[base + k], 0) + 2 * lanes)
            for t in range(n_types):
                for c in range(ROWS):
                    rows[(t * ROWS + c) * WIDTH + k] = table[types[base + k], t, c]
        x, y, z = load(own, 0), load(own, WIDTH), load(own, 2 * WIDTH)
        q = load(own, 3 * WIDTH) * scale
        fx, fy, fz = float8(np.float32(0.0)), float8(np.float32(0.0)), float8(np.float32(0.0))
        everything = float8(np.float32(0.0)) < np.float32(1.0)
        start = starts[cluster, 0] + side * counts[cluster, 0]
        for k in range(start, start + counts[cluster, side]):
            entry = plain[k]
            j, code = entry >> 5, entry & 31
            dx = x - np.float32(points[4 * j] + moved[3 * code])
            dy = y - np.float32(points[4 * j + 1] + moved[3 * code + 1])
            dz = z - np.float32(points[4 * j + 2] + moved[3 * code + 2])
            row = types[j] * (ROWS * WIDTH)
            if charged:
                charge = q * np.float32(points[4 * j + 3])
                slope = _slopes(dx, dy, dz, rows, row, charge, field, cutoff2, everything)
            else:
                slope = _slopes_uncharged(dx, dy, dz, rows, row, cutoff2, everything)
            fx, fy, fz = fx + slope * dx, fy + slope * dy, fz + slope * dz
        start = starts[cluster, 1] + side * counts[cluster, 2]
        for k in range(start, start + counts[cluster, 2 + side]):
            entry = masked[k]
            j, code = entry >> 5, entry & 31
            dx = x - np.float32(points[4 * j] + moved[3 * code])
            dy = y - np.float32(points[4 * j + 1] + moved[3 * code + 1])
            dz = z - np.float32(points[4 * j + 2] + moved[3 * code + 2])
            row = types[j] * (ROWS * WIDTH)
            included = load(bits, masks[k] * WIDTH) > np.float32(0.0)
            if charged:
                charge = q * np.float32(points[4 * j + 3])
                slope = _slopes(dx, dy, dz, rows, row, charge, field, cutoff2, included)
            else:
                slope = _slopes_uncharged(dx, dy, dz, rows, row, cutoff2, included)
            fx, fy, fz = fx + slope * dx, fy + slope * dy, fz + slope * dz
        store(own, 0, fx)
        store(own, WIDTH, fy)
        store(own, 2 * WIDTH, fz)
        for k in range(WIDTH):
            if places[base + k] >= 0:
                for c in range(3):
                    forces[places[base + k] + c * lanes] += factor * own[c * WIDTH + k]


@threaded
def pair_energies(
    atoms, points, types, shifts, plain, masked, masks, starts, counts, bits, table, n_types,
    cutoff, k_field, c_field, molecule, found,
):  # fmt: skip
    """Half of the energy of every pair to each of its atoms.

    Args:
        atoms: atom of each place of the clusters; -1: none.
        table: (t, t, 3): c12, c6, and what is taken off each energy; cores are not softened.
        k_field: constant of the reaction field, nm^-3, and ``c_field``, nm^-1.
        molecule: of each atom.
        found: (n, 4), to be filled in: Lennard-Jones and Coulomb with atoms of the same molecule,
            then both with others, kJ/mol. Excluded pairs, and each charge with itself, keep the
            reaction field.

    The other arguments are those of ``pair_forces``.
    """
    cutoff2 = np.float32(cutoff * cutoff)
    k_field, c_field = np.float32(k_field), np.float32(c_field)
    zero = np.float32(0.0)
    for number in prange(len(atoms) // WIDTH):
        cluster = np.int64(number)
        base = cluster * WIDTH
        own = np.empty(5 * WIDTH, dtype=np.float32)
        rows = np.empty(n_types * 3 * WIDTH, dtype=np.float32)
        moved = np.empty(3 * IMAGES)
        _gather(points, shifts, base, own, moved)
        for k in range(WIDTH):
            a = atoms[base + k]
            own[4 * WIDTH + k] = molecule[a] if a >= 0 else -1
            for t in range(n_types):
                for c in range(3):
                    rows[(t * 3 + c) * WIDTH + k] = table[types[base + k], t, c]
        x, y, z = load(own, 0), load(own, WIDTH), load(own, 2 * WIDTH)
        q, m = load(own, 3 * WIDTH), load(own, 4 * WIDTH)
        lj_in, lj_out, c_in, c_out = float8(zero), float8(zero), float8(zero), float8(zero)
        n_plain = counts[cluster, 0] + counts[cluster, 1]
        n_masked = counts[cluster, 2] + counts[cluster, 3]
        for k in range(n_plain + n_masked):
            bit = np.int64(255)
            if k < n_plain:
                entry = plain[starts[cluster, 0] + k]
            else:
                slot = starts[cluster, 1] + k - n_plain
                entry, bit = masked[slot], np.int64(masks[slot])
            j, code = entry >> 5, entry & 31
            dx = x - np.float32(points[4 * j] + moved[3 * code])
            dy = y - np.float32(points[4 * j + 1] + moved[3 * code + 1])
            dz = z - np.float32(points[4 * j + 2] + moved[3 * code + 2])
            row = types[j] * (3 * WIDTH)
            r2 = dx * dx + dy * dy + dz * dz
            inside = r2 < cutoff2
            included = load(bits, bit * WIDTH) > zero
            inverse2 = np.float32(1.0) / select(r2 < TINY, TINY, r2)
            inverse6 = inverse2 * inverse2 * inverse2
            lj = (load(rows, row) * inverse6 - load(rows, row + WIDTH)) * inverse6
            lj = lj - load(rows, row + 2 * WIDTH)
            lj = select(both(inside, included), lj, zero)
            charge = q * np.float32(points[4 * j + 3])
            plain_part = select(included, root(inverse2), zero)
            coulomb = select(inside, charge * (plain_part + k_field * r2 - c_field), zero)
            same = m == np.float32(molecule[atoms[j]])
            lj_in, lj_out = lj_in + select(same, lj, zero), lj_out + select(same, zero, lj)
            c_in = c_in + select(same, coulomb, zero)
            c_out = c_out + select(same, zero, coulomb)
        half = np.float32(0.5)
        store(own, 0, half * lj_in)
        store(own, WIDTH, half * c_in)
        store(own, 2 * WIDTH, half * lj_out)
        store(own, 3 * WIDTH, half * c_out)
        for k in range(WIDTH):
            if atoms[base + k] >= 0:
                for c in range(4):
                    found[atoms[base + k], c] = own[c * WIDTH + k]
