"""Generator and critic: 3D convolutional networks on a local density grid."""

from deepbackmap.networks.voxel import (
    Critic,
    Generator,
    NetworkOptions,
    build_critic,
    build_generator,
)

__all__ = ["Critic", "Generator", "NetworkOptions", "build_critic", "build_generator"]
