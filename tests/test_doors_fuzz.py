"""Damaged inputs: a sample in every run, 1 600 with ``-m slow`` (see ``fuzz_doors``)."""

import json
import math
import random
import struct
from dataclasses import replace

import pytest
import yaml

import fuzz_damage
from fuzz_damage import BYTES, LINES, MODELS, change_header, change_value, change_weight
from fuzz_doors import (
    DOORS,
    Case,
    Worker,
    bad_option,
    judge,
    make_case,
    options_of,
    results,
    table,
)
from fuzz_files import beads_off, write_whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "whole"
    write_whole(folder)
    return folder


def broken(whole, numbers):
    """Cases that broke a rule, and how."""
    found = {}
    for case, end in results(whole, numbers):
        if verdict := judge(case, end):
            found[case.number] = (" ".join(case.command), case.victim, case.damage, verdict)
    return found


def test_a_sample_of_damaged_inputs(whole):
    assert broken(whole, range(70)) == {}


@pytest.mark.slow
def test_many_damaged_inputs(whole):
    assert broken(whole, range(70, 1670)) == {}


@pytest.mark.slow
def test_every_command_takes_the_undamaged_files(whole):
    for case, end in results(whole, range(-1, -1 - len(DOORS), -1)):
        assert judge(case, end) == ""
        assert end["code"] == 0, (case.command, end["said"])
        assert not end.get("off"), case.command


def test_cases_follow_from_their_numbers_and_reach_everything(whole):
    cases = [make_case(k, whole) for k in range(2000)]
    assert [c.data for c in cases[:50]] == [make_case(k, whole).data for k in range(50)]
    assert {c.victim for c in cases} == {victim for _, victim, _ in DOORS}
    assert {c.verb for c in cases} == {
        "map", "backmap", "baseline", "finish", "evaluate", "md", "train", "mapping infer",
        "mapping draft",
    }  # fmt: skip
    ways = {d.__name__ for d in (*BYTES, *LINES, *MODELS, change_value)}
    assert {c.damage for c in cases if c.victim != "options"} == ways


@pytest.mark.parametrize("damage", [*BYTES, *LINES], ids=lambda d: d.__name__)
def test_damages_change_what_they_are_given(damage):
    data = b"".join(b"%d %d\n" % (k, k * k) for k in range(300))
    rng = random.Random(1)
    found = {damage(data, rng) for _ in range(20)}
    assert len(found - {data}) >= (1 if damage is fuzz_damage.join_twice else 5)


def test_a_damaged_header_has_a_checksum_that_fits(whole):
    from deepbackmap.errors import InputError
    from deepbackmap.model.file import checksum, load_model
    from deepbackmap.model.header import read_header

    path = whole.parent / "m.safetensors"
    data = (whole / "points.safetensors").read_bytes()
    assert fuzz_damage._joined(*_parts(data)) != b""
    path.write_bytes(fuzz_damage._joined(*_parts(data)))
    assert load_model(path).spec == load_model(whole / "points.safetensors").spec
    said = []
    for k in range(30):
        path.write_bytes((change_header if k % 2 else change_weight)(data, random.Random(k)))
        try:
            load_model(path)
        except InputError as error:
            said.append(str(error))
    assert len(said) >= 15
    # refused for what they say, not by the checksum, which is that of the damaged file
    assert not [s for s in said if "checksum" in s]
    assert checksum(read_header(whole / "points.safetensors").text, {}) != ""


def _parts(data):
    header, body = fuzz_damage._split(data)
    return header, json.loads(header["__metadata__"]["deepbackmap"]), body


def test_safetensors_are_taken_apart_and_put_together():
    header = {"__metadata__": {"deepbackmap": "{}"},
              "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}  # fmt: skip
    body = struct.pack("<2f", 1.5, -2.5)
    made = fuzz_damage._joined(header, {"spec": "{}"}, body)
    again, rest = fuzz_damage._split(made)
    assert rest == body
    assert again["w"]["shape"] == [2]
    assert len(json.loads(again["__metadata__"]["deepbackmap"])["checksum"]) == 64


def test_values_of_yaml_become_nonsense_in_one_place():
    text = yaml.safe_dump({"a": {"b": [1, 2], "c": 3}, "d": "x"}).encode()
    whole = yaml.safe_load(text)
    for k in range(40):
        found = yaml.safe_load(change_value(text, random.Random(k)))
        same = sum(found.get(key) == whole[key] for key in whole)
        assert same <= 2
        assert isinstance(found, dict)


def test_bad_options_are_options_of_the_verb(whole):
    known = options_of(("finish",))
    assert {"--temperature", "--friction", "--engine", "--threads"} <= set(known)
    assert not {"--force", "--output", "--strict"} & set(known)
    rng = random.Random(0)
    said = [bad_option(("finish",), rng) for _ in range(300)]
    assert {name for name, _ in said} == set(known)
    assert not [v for name, v in said if name == "--steps" and v.startswith("9")]
    keys = {bad_option(("train", "points.yaml"), rng)[0].partition("=")[0] for _ in range(900)}
    assert {"points.cutoff", "training.batch", "data.temperature", "nobody.knows"} <= keys


CASE = Case(0, "aa.gro", "noise", b"", ("map", "aa.gro"))
GOOD = {"code": 2, "said": "deepbackmap: aa.gro: expected\n", "new": [], "megabytes": 600}
TAKEN = {"code": 0, "said": "", "new": ["out.gro"], "megabytes": 600}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (GOOD, ""),
        ({**GOOD, "code": 1}, "exit 1"),
        ({**GOOD, "new": ["out.gro"]}, "left ['out.gro']"),
        ({**GOOD, "said": "Traceback\n"}, "refused in more than a line"),
        ({**GOOD, "said": ""}, "refused in more than a line"),
        ({**GOOD, "said": "deepbackmap: a.top: 2 mistakes:\n  one\n  two\n"}, ""),
        ({**GOOD, "said": "Usage: deepbackmap map\nError: no number\n"}, ""),
        ({**GOOD, "said": "deepbackmap: expected the work to fit into memory"}, "memory"),
        ({**GOOD, "megabytes": 5000}, "memory"),
        ({"ended": -14}, "hang"),
        ({"ended": -27}, "hang"),
        ({"ended": -11}, "crash -11"),
        ({**TAKEN, "new": []}, "wrote nothing"),
        ({**TAKEN, "new": ["out.gro", ".out.7.part.gro"]}, "left ['.out.7.part.gro']"),
        (TAKEN, ""),
        ({**TAKEN, "off": [0.1]}, ""),
        ({**TAKEN, "off": [0.9]}, "misled, beads off by [0.9]"),
        ({**TAKEN, "off": [math.nan]}, "misled, beads off by [nan]"),
        ({**TAKEN, "off": [0.01] * 7}, f"misled, beads off by {[0.01] * 7}"),
    ],
)
def test_the_judge_knows_what_is_wrong(found, verdict):
    assert judge(CASE, found) == verdict


def test_the_table_counts():
    other = replace(CASE, victim="aa.xtc")
    rows = table([(CASE, GOOD, ""), (CASE, TAKEN, ""), (other, TAKEN, "misled")]).splitlines()
    assert rows[2:] == [
        "| map | aa.gro | 2 | 1 | 1 | 0 |",
        "| map | aa.xtc | 1 | 0 | 0 | 1 |",
        "| all | | 3 | 1 | 1 | 1 |",
    ]


def test_moved_beads_are_seen(whole, tmp_path):
    lines = (whole / "cg.gro").read_text().splitlines()
    assert beads_off(whole / "cg.gro", whole, 1, atoms=False) == []
    assert beads_off(whole / "aa.gro", whole, 1, atoms=True) == []
    x = float(lines[4][20:28]) + 0.1
    lines[4] = f"{lines[4][:20]}{x:8.3f}{lines[4][28:]}"
    (tmp_path / "x.gro").write_text("\n".join(lines) + "\n")
    assert beads_off(tmp_path / "x.gro", whole, 1, atoms=False) == pytest.approx([0.1], abs=1e-3)


def test_a_server_that_is_ended_is_started_again(whole):
    worker = Worker(whole)
    try:
        assert "code" in worker.run(0)
        first = worker._process
        first.kill()
        first.wait()
        assert worker.run(0) == {"ended": -9}
        assert "code" in worker.run(0)
        assert worker._process is not first
    finally:
        worker.close()
