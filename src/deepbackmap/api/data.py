"""The public data of the method's authors, downloaded and laid out as our tests read them.

Files come from pinned commits. Where a file's checksum is known beforehand it must agree; of the
others the checksum of the first download is kept in ``checksums.json`` and must agree from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pooch

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import make_folder, new_file
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.system import Structure


@dataclass(frozen=True)
class Repository:
    """A public repository at one commit."""

    name: str
    commit: str


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository."""

    path: str
    size: int | None = None
    """Bytes, where known."""
    sha256: str | None = None
    """Where known."""


@dataclass(frozen=True)
class Hosts:
    """Where repositories are served."""

    files: str = "https://raw.githubusercontent.com/{name}/{commit}/{path}"
    archives: str = "https://github.com/{name}/archive/{commit}.tar.gz"


PAPER = Repository("mstieffe/deepbackmap", "9c7f7dc37e1f12679033f5eb5708c897e9735b55")
"""Test structures of the 2020 paper and what its model made of them."""
LATER = Repository("mstieffe/DBM", "655fec2d12946754cf29f44e1788318208cdb2c5")
"""Their later code, whose sample data hold training snapshots."""
SNAPSHOTS = "data/reference_snapshots/sPS_t568_14"
"""Folder of ``LATER`` with the training pairs, ``aa/*.gro`` and ``cg/*.gro``."""
TEMPERATURES = (313, 568)
KINDS = {"aa": "aa", "cg": "cg", "deepbackmap": "paper_deepbackmap", "baseline": "paper_baseline"}
"""Name in the repository, name in our layout."""
PAPER_FILES = (
    RemoteFile(
        "data/topol.top",
        size=1423,
        sha256="4010fa885fffd4f866f9cf95afaac20a55a7a7f3a928c89540c5153778de39c9",
    ),
    RemoteFile("data/topol_PS1.itp", size=37543),
    RemoteFile("data/aa.gro", size=402584),
    RemoteFile("data/cg.gro", size=49836),
    *(RemoteFile(f"data/t{t}/{kind}.xtc") for t in TEMPERATURES for kind in KINDS),
)
TRAINING_FRAMES_AT_568 = (9, 19, 41, 55, 62, 70, 76)
"""Frames of the published 568 K trajectory that are among the training snapshots."""
PUBLISHED_FRAMES = 78


@dataclass(frozen=True)
class Report:
    """What was downloaded."""

    folder: Path
    files: tuple[str, ...]
    """Of our layout, below ``folder``."""
    checked: int
    """Downloads whose checksum or size was known beforehand or from an earlier fetch."""
    trusted: int
    """Downloads taken on trust, their checksums now recorded."""

    def to_text(self) -> str:
        """Some lines for a person."""
        return (
            f"{len(self.files)} files in {self.folder / 'sps'}\n"
            f"{self.checked} downloads checked, {self.trusted} taken on first trust "
            f"({self.folder / 'checksums.json'} keeps their checksums)\n"
            "Their repositories state no licence: cite doi 10.1088/2632-2153/abb6d4, "
            "do not redistribute.\n"
        )


def fetch(output: str | Path, *, hosts: Hosts | None = None, progress: bool = True) -> Report:
    """Downloads the public data and lays them out as ``OUTPUT/sps``.

    Downloads are kept in ``OUTPUT/published``, so that a second call only checks them.

    Args:
        output: folder, made if it is missing.
        hosts: where from; the repositories' own by default.
        progress: whether to show bars on standard error.

    Raises:
        InputError: the folder cannot be written, a download fails, or a file is not what was
            expected.
    """
    folder, hosts = Path(output), hosts or Hosts()
    store = _Store(folder, hosts, progress)
    raw = folder / "published" / "deepbackmap"
    for file in PAPER_FILES:
        store.get(PAPER, file, raw / Path(file.path).relative_to("data"))
    target = folder / "sps"
    make_folder(target)
    made = [_copy(raw / n, target / n) for n in ("topol.top", "topol_PS1.itp", "aa.gro", "cg.gro")]
    for temperature in TEMPERATURES:
        for kind, ours in KINDS.items():
            source = raw / f"t{temperature}" / f"{kind}.xtc"
            names = raw / ("cg.gro" if kind == "cg" else "aa.gro")
            made.append(
                _select(names, source, target / f"test_{temperature}K_{ours}.xtc", temperature)
            )
    archive = folder / "published" / "DBM.tar.gz"
    store.get(LATER, None, archive)
    for kind in ("aa", "cg"):
        snapshots = _unpack(archive, kind, folder / "published" / "snapshots" / kind)
        made.append(_join(snapshots, raw / f"{kind}.gro", target / f"train_568K_{kind}.xtc"))
    return Report(folder, tuple(f"sps/{p.name}" for p in made), store.checked, store.trusted)


class _Store:
    """Downloads and their checksums."""

    def __init__(self, folder: Path, hosts: Hosts, progress: bool) -> None:
        self._hosts, self._progress = hosts, progress
        self._list = folder / "checksums.json"
        self.checked, self.trusted = 0, 0
        make_folder(folder)
        self._known = self._read()
        pooch.get_logger().setLevel(logging.WARNING)

    def _read(self) -> dict[str, str]:
        if not self._list.exists():
            return {}
        try:
            known = json.loads(self._list.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{self._list}: expected checksums as JSON, found: {error}") from error
        if not isinstance(known, dict):
            raise InputError(f"{self._list}: expected names and checksums, found {known!r}")
        return known

    def get(self, repository: Repository, file: RemoteFile | None, path: Path) -> None:
        """One file, or the archive of the whole repository, at ``path``; checked."""
        pattern = self._hosts.archives if file is None else self._hosts.files
        part = "archive" if file is None else file.path
        url = pattern.format(name=repository.name, commit=repository.commit, path=part)
        name = f"{repository.name}@{repository.commit}:{part}"
        before = (file.sha256 if file else None) or self._known.get(name)
        try:
            pooch.retrieve(
                url, known_hash=before and f"sha256:{before}", fname=path.name, path=path.parent,
                progressbar=self._progress,
            )  # fmt: skip
        except ValueError as error:  # the checksum; the download is gone already
            raise InputError(
                f"{url}: expected a file with SHA-256 {before}, found another file"
            ) from error
        except OSError as error:  # requests' errors are among these
            raise InputError(f"{url}: expected to download it, found: {error}") from error
        size = path.stat().st_size
        if file is not None and file.size is not None and size != file.size:
            path.unlink()
            raise InputError(f"{url}: expected {file.size} bytes, found {size}")
        if before:
            self.checked += 1
            return
        self.trusted += 1
        with path.open("rb") as handle:
            self._known[name] = hashlib.file_digest(handle, "sha256").hexdigest()
        with new_file(self._list) as aside:
            aside.write_text(json.dumps(self._known, indent=2) + "\n", encoding="utf-8")


def chosen_frames(temperature: int) -> list[int]:
    """Which published frames our tests use: every second one that is not a training snapshot."""
    left = TRAINING_FRAMES_AT_568 if temperature == 568 else ()
    return [k for k in range(PUBLISHED_FRAMES) if k not in left][::2]


def _copy(source: Path, target: Path) -> Path:
    with new_file(target) as part:
        shutil.copyfile(source, part)
    return target


def _select(names: Path, source: Path, target: Path, temperature: int) -> Path:
    """The test frames of a trajectory; a frame's time is its number in the source."""
    with read_frames(names, source) as frames:
        if len(frames) != PUBLISHED_FRAMES:
            raise InputError(f"{source}: expected {PUBLISHED_FRAMES} frames, found {len(frames)}")
        with open_writer(target, frames.table, force=True) as writer:
            for k in chosen_frames(temperature):
                writer.write(replace(frames[k], time=float(k)))
    return target


def _unpack(archive: Path, kind: str, folder: Path) -> list[Path]:
    """The training snapshots of one kind, by name."""
    make_folder(folder)
    found = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = member.name.split("/", 1)
                inside = Path(parts[1]) if len(parts) == 2 else Path()
                wanted = str(inside.parent) == f"{SNAPSHOTS}/{kind}" and inside.suffix == ".gro"
                content = tar.extractfile(member) if wanted and member.isfile() else None
                if content is not None:
                    found.append(folder / inside.name)
                    with new_file(found[-1]) as part:
                        part.write_bytes(content.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{archive}: expected a readable archive, found: {error}") from error
    if not found:
        raise InputError(
            f"{archive}: expected snapshots in {SNAPSHOTS}/{kind} of {LATER.name} at "
            f"{LATER.commit}, found none"
        )
    return sorted(found)


def _join(snapshots: list[Path], names: Path, target: Path) -> Path:
    """One trajectory of single snapshots, by their times."""
    frames: list[Structure] = []
    for path in snapshots:
        with read_frames(path) as source:
            frames.append(source[0])
    with (
        read_frames(names) as source,
        open_writer(target, source.table, force=True) as writer,
    ):
        for path, frame in zip(snapshots, frames, strict=True):
            if frame.n != source.table.n:
                raise InputError(f"{path}: expected {source.table.n} particles, found {frame.n}")
        for frame in sorted(frames, key=lambda f: f.time):
            writer.write(frame)
    return target
