"""Ways to damage a file: bytes, lines of text, and what a JSON header or YAML file says."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from typing import Any

NUMBERS = ("nan", "inf", "-1", "0", "1e30", "-1e308", "99999999999", "1e-30", "0x10", "", "999999")
VALUES = (float("nan"), float("inf"), -1, 0, 1e30, 10**12, 10**400, "x", "", None, True, [], {},
          [[]], -0.5, 1e-30, 3, "A" * 300, "a\0b")  # fmt: skip
"""What may stand in a header where something else is expected."""


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + bytes([data[k] ^ (1 << rng.randrange(8))]) + data[k + 1 :]


def flip_early_bit(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(min(200, len(data)))
    return data[:k] + bytes([data[k] ^ (1 << rng.randrange(8))]) + data[k + 1 :]


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + rng.randbytes(rng.randint(1, 16)) + data[k + 16 :]


def cut_end(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def remove_part(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + data[k + rng.randint(1, 64) :]


def insert_part(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + rng.randbytes(rng.randint(1, 64)) + data[k:]


def zero_part(data: bytes, rng: random.Random) -> bytes:
    k, n = rng.randrange(len(data)), rng.randint(1, 64)
    return data[:k] + bytes(min(n, len(data) - k)) + data[k + n :]


def repeat_part(data: bytes, rng: random.Random) -> bytes:
    k, n = rng.randrange(len(data)), rng.randint(1, 200)
    return data[: k + n] + data[k : k + n] + data[k + n :]


def join_twice(data: bytes, rng: random.Random) -> bytes:
    return data + data


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(0, 400))


def large_word(data: bytes, rng: random.Random) -> bytes:
    """A count or length of four bytes made enormous or negative."""
    k = 4 * rng.randrange(max(1, min(60, len(data) // 4)))
    word = rng.choice([b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\x0f\xff\xff"])
    return data[:k] + (word if rng.random() < 0.5 else word[::-1]) + data[k + 4 :]


def remove_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def repeat_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(True)
    k = rng.randrange(len(lines))
    return b"".join([*lines[:k], lines[k], *lines[k:]])


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(True)
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def change_word(data: bytes, rng: random.Random) -> bytes:
    """A word, often a number, made nonsense."""
    lines = data.split(b"\n")
    k = rng.choice([rng.randrange(len(lines)), rng.randrange(min(12, len(lines))), len(lines) - 2])
    words = lines[k].split()
    if words:
        lines[k] = lines[k].replace(rng.choice(words), rng.choice(NUMBERS).encode(), 1)
    return b"\n".join(lines)


def add_word(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    lines[k] += b" 0.5" if rng.random() < 0.5 else b"\xff\xfe"
    return b"\n".join(lines)


def shift_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    lines[k] = b" " + lines[k] if rng.random() < 0.5 else lines[k][1:]
    return b"\n".join(lines)


def change_header(data: bytes, rng: random.Random) -> bytes:
    """A value of a model's specification made nonsense, under a checksum that fits it."""
    header, body = _split(data)
    found = json.loads(header["__metadata__"]["deepbackmap"])
    spec = json.loads(found["spec"])
    place = rng.choice(list(_places(spec)))
    inside = spec
    for key in place[:-1]:
        inside = inside[key]
    if rng.random() < 0.15:
        del inside[place[-1]]
    else:
        inside[place[-1]] = rng.choice(VALUES)
    found["spec"] = json.dumps(spec, sort_keys=True)
    return _joined(header, found, body)


def change_weight(data: bytes, rng: random.Random) -> bytes:
    """A weight made no number or enormous, or a tensor another shape; the checksum fits."""
    header, body = _split(data)
    found = json.loads(header["__metadata__"]["deepbackmap"])
    name = rng.choice(sorted(k for k in header if k != "__metadata__"))
    entry = header[name]
    start, end = entry["data_offsets"]
    what = rng.random()
    if entry["dtype"] == "F32" and end - start >= 4 and what < 0.7:
        k = start + 4 * rng.randrange((end - start) // 4)
        value = rng.choice([float("nan"), float("inf"), -float("inf"), 1e30, -1e38])
        body = body[:k] + struct.pack("<f", value) + body[k + 4 :]
    elif what < 0.85:
        entry["shape"] = [1, *entry["shape"]]
    else:
        header[f"{name}.more"] = header.pop(name)
    return _joined(header, found, body)


def change_value(data: bytes, rng: random.Random) -> bytes:
    """A value of a YAML file made nonsense, or a key one that nobody knows."""
    import yaml

    values = yaml.safe_load(data)
    place = rng.choice(list(_places(values)))
    inside = values
    for key in place[:-1]:
        inside = inside[key]
    if rng.random() < 0.2 and isinstance(inside, dict):
        inside["nobody_knows"] = inside.pop(place[-1])
    else:
        inside[place[-1]] = rng.choice(VALUES)
    return yaml.safe_dump(values).encode()


def _places(values: Any) -> Any:
    """Ways to every value of nested dictionaries and lists."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        yield (key,)
        if isinstance(value, (dict, list)):
            yield from ((key, *rest) for rest in _places(value))


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and weights of a safetensors file."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _joined(header: dict[str, Any], found: dict[str, Any], body: bytes) -> bytes:
    """A safetensors file, its checksum that of what it says and holds."""
    sums = hashlib.sha256(found["spec"].encode())
    kinds = {"F32": "float32", "F16": "float16", "F64": "float64", "I64": "int64", "BOOL": "bool"}
    for name in sorted(k for k in header if k != "__metadata__"):
        entry = header[name]
        start, end = entry["data_offsets"]
        kind = f"torch.{kinds.get(entry['dtype'], entry['dtype'])}"
        sums.update(f"\n{name} {kind} {tuple(entry['shape'])}\n".encode() + body[start:end])
    found["checksum"] = sums.hexdigest()
    header["__metadata__"]["deepbackmap"] = json.dumps(found, sort_keys=True)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


BYTES = (flip_bit, flip_early_bit, change_bytes, cut_end, remove_part, insert_part, zero_part,
         repeat_part, join_twice, noise, large_word)  # fmt: skip
LINES = (remove_line, repeat_line, swap_lines, change_word, add_word, shift_line)
MODELS = (change_header, change_weight)
