"""More frames of the packaged melt, for the packaged templates: loosen, cool, sample.

    PYTHONPATH=tools python -m melt.fragments FOLDER [--threads 1] [--templates TARGET]

Every packaged frame is heated to 800 K for 40 ps, so that its backbone takes other conformations,
cooled to 568 K for 40 ps and sampled there for 60 ps, a frame every 20 ps; constant volume, all
bonds constrained, the settings of ``melt.run``. FOLDER/fragments.xtc then holds the packaged frames
and these; with --templates, TARGET holds the templates of the packaged mappings, learned from them.
A stage that is done is not done again.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import deepbackmap
from deepbackmap.api.baseline import learn
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import packaged_mappings
from melt.run import HOT, TEMPERATURE, Stage, _md, run_stage

HEAT, COOL, SAMPLE, EVERY = 40.0, 40.0, 60.0, 20.0
"""ps."""
STEP = 0.002
"""ps."""
KEPT = 1000
"""Most fragments of one kind of bead."""


def stages(name: str, seed: int) -> list[Stage]:
    """Heating, cooling and sampling of one packaged frame."""
    draw = {"gen-vel": "yes", "gen-temp": f"{HOT}", "gen-seed": f"{seed}"}
    frames = {"nstxout-compressed": f"{round(EVERY / STEP)}", "compressed-x-precision": "10000"}
    at = {"ref-t": f"{TEMPERATURE}"}
    return [
        _md(f"{name}_hot", HEAT, STEP, {"ref-t": f"{HOT}"}, draw),
        _md(f"{name}_cool", COOL, STEP, at),
        _md(f"{name}_sample", SAMPLE, STEP, at, frames),
    ]


def main() -> None:
    """Run what is not yet done and join the frames."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gmx", default="gmx")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2026, help="of the velocities")
    parser.add_argument("--templates", type=Path, help="folder for the templates")
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    melt = Path(deepbackmap.__file__).parent / "packaged" / "melt"
    for name in ("topol.top", "PS.itp"):
        shutil.copyfile(melt / name, o.folder / name)
    table = atom_table(read_topology(melt / "topol.top"))
    with read_frames(melt / "aa.gro", melt / "aa.xtc") as source:
        packaged = list(source)
    joined = list(packaged)
    for k, frame in enumerate(packaged):
        name = f"f{k}"
        with open_writer(o.folder / f"{name}.gro", table, force=True) as writer:
            writer.write(replace(frame, time=0.0))
        previous = name
        for stage in stages(name, o.seed + k):
            run_stage(stage, previous, o.folder, o.gmx, o.threads)
            previous = stage.name
        with read_frames(o.folder / f"{name}.gro", o.folder / f"{previous}.xtc") as sampled:
            joined += [f for f in sampled if f.time > 0.0]
    with open_writer(o.folder / "fragments.xtc", table, force=True) as writer:
        for number, frame in enumerate(joined):
            writer.write(replace(frame, time=float(number)))
    print(f"{o.folder / 'fragments.xtc'}: {len(joined)} frames")
    for mapping in packaged_mappings() if o.templates else ():
        found = learn(
            melt / "aa.gro", o.folder / "fragments.xtc", topology=melt / "topol.top",
            mapping=mapping, output=o.templates / f"{mapping}.npz", temperature=TEMPERATURE,
            most=KEPT, force=True,
        )  # fmt: skip
        print(f"{mapping}: {sum(map(len, found.fragments))} fragments")


if __name__ == "__main__":
    main()
