"""What a critic and a generator came to, by the sequences that they were shown.

    python tools/training_log.py runs/adversarial [--last 500] [--parts 5]

Reads ``metrics.jsonl`` of a run of a voxel model. Sequences differ in length, and so do losses and
gradients; a mean over all of them says little. Distance: the critic's estimate of the Wasserstein
distance (minus its loss, Eq. 9); slope: mean norm of its gradient, which the penalty holds near 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

Line = dict[str, float]
Bucket = tuple[str, int]

COLUMNS = {
    "critic": ("distance", -1.0),
    "critic_slope": ("slope", 1.0),
    "critic_gradient": ("critic's gradient", 1.0),
}


def read_lines(path: Path) -> list[Line]:
    """The lines of a log that say what a critic found."""
    lines = (json.loads(s) for s in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "critic_sequence_length" in line]


def bucket_of(line: Line) -> Bucket:
    """Stage and length of the sequences of a line."""
    weight = "light" if line["critic_sequence_light"] else "heavy"
    turn = "first" if line["critic_sequence_first_pass"] else "sweep"
    return f"{weight} {turn}", int(line["critic_sequence_length"])


def mean(values: Iterable[float]) -> float | None:
    """Of what is there; None: nothing is."""
    found = list(values)
    return sum(found) / len(found) if found else None


def rows(lines: Sequence[Line]) -> list[list[str]]:
    """One row a bucket, with a mean by column."""
    out = []
    for bucket in sorted({bucket_of(line) for line in lines}):
        mine = [line for line in lines if bucket_of(line) == bucket]
        cells = [bucket[0], str(bucket[1]), str(len(mine))]
        for name, (_, sign) in COLUMNS.items():
            found = mean(sign * line[name] for line in mine if name in line)
            cells.append("-" if found is None else f"{found:.4f}")
        out.append(cells)
    return out


def main() -> None:
    """Print a table for each part of the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--last", type=int, help="iterations; all by default")
    parser.add_argument("--parts", type=int, default=4, help="equal parts of them, a table each")
    arguments = parser.parse_args()
    lines = read_lines(arguments.run / "metrics.jsonl")
    if arguments.last and lines:
        lines = [x for x in lines if x["iteration"] > lines[-1]["iteration"] - arguments.last]
    size = max(1, -(-len(lines) // arguments.parts))
    for start in range(0, len(lines), size):
        part = lines[start : start + size]
        print(f"iterations {part[0]['iteration']:.0f} to {part[-1]['iteration']:.0f}")
        head = ["stage", "length", "lines", *(title for title, _ in COLUMNS.values())]
        for cells in [head, *rows(part)]:
            print("  " + "".join(f"{cell:<18}" for cell in cells).rstrip())


if __name__ == "__main__":
    main()
