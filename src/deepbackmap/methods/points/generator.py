"""The point generator: blocks as flows from their own Gaussian, conditional on what is around them.

A block's atoms, whitened by the mean and principal axes that blocks of its kind have in training,
are u. The path between noise u0 and data u1 is u = cos(a) u0 + sin(a) u1 for a from 0 to pi/2: two
equal Gaussians stay one on the way, so that the network only has to say what surroundings and
shape change (stochastic interpolants: Albergo, Vanden-Eijnden, ICLR 2023, arXiv 2209.15571; the
trigonometric path). It answers with the expected end of the path, from which the next place on it
follows. At another temperature the noise is scaled by the root of the ratio: exact for harmonic
degrees of freedom, however they are coupled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from deepbackmap.blocks.index import BeadFrames
from deepbackmap.methods.points.densities import densities, radial_table
from deepbackmap.methods.points.networks import BlockNetwork
from deepbackmap.methods.points.options import (
    PointModelOptions,
    PointNetworkOptions,
    PointOptions,
    Vocabulary,
)
from deepbackmap.methods.points.pairs import AtomPairs
from deepbackmap.methods.points.slots import PointTables, TypeTable
from deepbackmap.methods.spec import ModelSpec

FLOOR = 0.002
"""nm: no whitened direction has a smaller standard deviation."""
USUAL_WIDTH = 0.02
"""nm: unit in which networks are told how far beads are off."""


@dataclass(frozen=True)
class Scene:
    """The beads of one frame, or of several as if they were one."""

    whole: Float[Tensor, "nb1 3"]
    """Molecules whole, nm; with a last row for beads that are not there."""
    rotation: Float[Tensor, "nb 3 3"]
    pairs: AtomPairs


def make_scene(frames: BeadFrames, pairs: AtomPairs, frame: int = 0) -> Scene:
    """The scene of one of some frames."""
    whole = frames.whole[frame]
    return Scene(torch.cat([whole, whole.new_zeros(1, 3)]), frames.rotation[frame], pairs)


class BlockFlow(nn.Module):
    """Statistics and network of the blocks of one bead type."""

    mean: Tensor
    modes: Tensor
    scale: Tensor
    unscale: Tensor
    context_mean: Tensor
    context_std: Tensor
    chain_mean: Tensor
    chain_std: Tensor
    density_mean: Tensor
    density_std: Tensor

    def __init__(
        self,
        kinds: tuple[int, ...],
        contexts: int,
        variants: int,
        points: PointOptions,
        atom_types: int,
        options: PointNetworkOptions,
    ) -> None:
        super().__init__()
        width, reach = points.width(atom_types), 2 * points.chain
        fixed = 4 * contexts + 5 * reach + variants + 2 + int(options.uncertain)
        self.variants = variants
        self.network = BlockNetwork(kinds, atom_types, points.radial, fixed, options)
        d = 3 * len(kinds)
        for name, shape in {
            "mean": (variants, d),
            "modes": (d, d),
            "scale": (variants, d),
            "unscale": (variants, d),
            "context_mean": (contexts, 3),
            "chain_mean": (reach, 3),
            "density_mean": (width, 4),
        }.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("context_std", torch.ones(contexts))
        self.register_buffer("chain_std", torch.ones(reach))
        self.register_buffer("density_std", torch.ones(width, 4))

    def local(self, u: Float[Tensor, "b d"], variant: Int64[Tensor, "b"]) -> Float[Tensor, "b s 3"]:
        """Positions in the blocks' frames, nm."""
        moved = (self.scale[variant] * u) @ self.modes.T
        return (self.mean[variant] + moved).unflatten(-1, (-1, 3))

    def whitened(
        self, local: Float[Tensor, "b s 3"], variant: Int64[Tensor, "b"]
    ) -> Float[Tensor, "b d"]:
        """The inverse of ``local``."""
        off = local.flatten(1) - self.mean[variant]
        return (off @ self.modes) * self.unscale[variant]

    def noise(self, heat: float, width: float) -> Float[Tensor, "d"]:
        """Size of the noise that a path begins with, (1,) where all directions are alike.

        Args:
            heat: root of the temperature over that of the whitening.
            width: how far beads are off, nm.
        """
        there = self.network.kinds.device
        return self.network.size(
            torch.full((1,), heat, device=there), torch.full((1,), width, device=there)
        )[0]

    def surroundings(
        self, context: Float[Tensor, "b c 3"], chain: Float[Tensor, "b r 3"],
        table: TypeTable, n_atoms: int,
    ) -> Float[Tensor, "b i"]:  # fmt: skip
        """Normalised positions of context and chain with what is there and what is not."""
        here = (table.context < n_atoms).to(context.dtype)
        atoms = (context - self.context_mean) / self.context_std[:, None] * here[..., None]
        present = (table.chain_hand != 0).to(context.dtype)
        beads = (chain - self.chain_mean) / self.chain_std[:, None] * present[..., None]
        kind = nn.functional.one_hot(table.variant, self.variants).to(context.dtype)
        return torch.cat(
            [atoms.flatten(1), here, beads.flatten(1), present, table.chain_hand, kind], dim=-1
        )


def slot_types(slots: tuple[str, ...], atom_types: tuple[str, ...]) -> tuple[int, ...]:
    """Type of the atom of each slot."""
    return tuple(atom_types.index(s.rpartition(":")[2]) for s in slots)


def select(table: TypeTable, rows: Tensor | slice) -> TypeTable:
    """Some rows of a table."""
    return TypeTable(*(getattr(table, n)[rows] for n in table.__dataclass_fields__))


class PointGenerator(nn.Module):
    """One ``BlockFlow`` for each bead type of a vocabulary."""

    radial: Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        points: PointOptions,
        atom_types: tuple[str, ...],
        options: PointNetworkOptions,
    ) -> None:
        super().__init__()
        self.points, self.atom_types = points, len(atom_types)
        self.uncertain = options.uncertain
        self.names = tuple(vocabulary.own)
        radial = radial_table(points, torch.device("cpu"))
        self.register_buffer("radial", radial, persistent=False)
        self.flows = nn.ModuleList(
            BlockFlow(
                slot_types(vocabulary.own[t], atom_types), len(vocabulary.context[t]),
                len(vocabulary.variants[t]), points, len(atom_types), options,
            )
            for t in self.names
        )  # fmt: skip

    def flow(self, bead_type: str) -> BlockFlow:
        """The part of a bead type."""
        found = self.flows[self.names.index(bead_type)]
        assert isinstance(found, BlockFlow)
        return found

    def spread(
        self, states: Mapping[str, Tensor], tables: PointTables, rotation: Float[Tensor, "nb 3 3"],
        shrink: float = 1.0,
    ) -> Float[Tensor, "na1 3"]:  # fmt: skip
        """Positions of all atoms relative to their beads, laboratory axes; a last row of zeros.

        Args:
            states: whitened positions of all blocks of each bead type.
            shrink: factor of the whitened positions.
        """
        out = torch.zeros(tables.n_atoms + 1, 3, device=rotation.device)
        for bead_type, table in tables.types.items():
            local = self.flow(bead_type).local(shrink * states[bead_type], table.variant)
            put(out, table, local, rotation, tables.n_atoms)
        return out

    def means(self, tables: PointTables, rotation: Float[Tensor, "nb 3 3"]) -> Tensor:
        """Mean positions, as ``spread`` gives them."""
        zeros = {
            t: torch.zeros(len(table.beads), self.flow(t).mean.shape[1], device=rotation.device)
            for t, table in tables.types.items()
        }
        return self.spread(zeros, tables, rotation)

    def observe(
        self,
        bead_type: str,
        positions: Float[Tensor, "na1 3"],
        own: Float[Tensor, "b s 3"],
        table: TypeTable,
        tables: PointTables,
        scene: Scene,
        heat: float,
        settled: bool,
        width: float = 0.0,
    ) -> tuple[Float[Tensor, "b i"], Float[Tensor, "b s f 4"]]:
        """What some blocks of one type see, as their network takes it.

        Args:
            bead_type: theirs.
            positions: of all atoms relative to their beads, laboratory axes.
            own: of the blocks' own atoms, in the same way.
            table: these blocks.
            tables: all blocks.
            scene: the beads.
            heat: root of the temperature over that of the whitening.
            settled: whether what is around them is finished, or on the path as they are.
            width: how far beads are off those of their atoms, nm; for generators that are told.
        """
        flow = self.flow(bead_type)
        context, chain = self.neighbours(positions, table, tables, scene)
        seen = self.around(positions, own, table, scene)
        fixed = flow.surroundings(context, chain, table, tables.n_atoms)
        told = [4.0 * (heat - 1.0), float(settled)]
        if self.uncertain:
            told.append(width / USUAL_WIDTH)
        rows = fixed.new_tensor(told).expand(len(fixed), len(told))
        return torch.cat([fixed, rows], dim=-1), (seen - flow.density_mean) / flow.density_std

    def neighbours(
        self, positions: Float[Tensor, "na1 3"], table: TypeTable, tables: PointTables, scene: Scene
    ) -> tuple[Float[Tensor, "b c 3"], Float[Tensor, "b r 3"]]:
        """Context atoms and beads of the chain in the blocks' frames, nm."""
        turned = scene.rotation[table.beads].transpose(1, 2)
        centre = scene.whole[table.beads][:, None]
        context = scene.whole[tables.atom_owner[table.context]] - centre + positions[table.context]
        return context @ turned, (scene.whole[table.chain] - centre) @ turned

    def around(
        self, positions: Float[Tensor, "na1 3"], own: Float[Tensor, "b s 3"], table: TypeTable,
        scene: Scene,
    ) -> Float[Tensor, "b s f 4"]:  # fmt: skip
        """Densities around the blocks' atoms, as they are."""
        return densities(
            positions, own, table.own, scene.rotation[table.beads], scene.pairs, self.radial,
            self.points.cutoff, self.atom_types,
        )  # fmt: skip


def put(
    out: Float[Tensor, "na1 3"], table: TypeTable, local: Float[Tensor, "b s 3"],
    rotation: Float[Tensor, "nb 3 3"], n_atoms: int,
) -> None:  # fmt: skip
    """Write positions in local frames to where their atoms are, in place."""
    lab = local @ rotation[table.beads]
    valid = table.own < n_atoms
    out[table.own[valid]] = lab[valid]


def local_positions(
    positions: Float[Tensor, "na1 3"], table: TypeTable, rotation: Float[Tensor, "nb 3 3"]
) -> Float[Tensor, "b s 3"]:
    """Positions of the blocks' atoms in their frames; slots that are empty are zero."""
    return positions[table.own] @ rotation[table.beads].transpose(1, 2)


def fresh_generator(spec: ModelSpec) -> PointGenerator:
    """A generator with fresh weights for what a specification says.

    Raises:
        ValueError: it has no vocabulary.
    """
    assert isinstance(spec.options, PointModelOptions)
    options = spec.options
    return PointGenerator(options.slots(), options.points, spec.atom_types, options.network)
