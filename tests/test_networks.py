"""Networks: sizes of the published ones, equivalences that the code relies on, independence."""

import pytest
import torch
from torch.nn import functional

from deepbackmap.methods.voxel.networks import DenseBlock, SameConv, build_critic, build_generator
from deepbackmap.methods.voxel.options import NetworkOptions

PAPER = NetworkOptions()
PLAIN = NetworkOptions(
    architecture="plain", channels=64, critic_channels=64, noise=64, slope=0.01
)  # fmt: skip
SMALL = {
    "residual": NetworkOptions(
        channels=4,
        critic_channels=4,
        noise=5,
        condition_blocks=1,
        middle_blocks=1,
        output_blocks=1,
    ),
    "plain": NetworkOptions(architecture="plain", channels=4, critic_channels=4, noise=5),
}
EACH = pytest.mark.parametrize("kind", SMALL)


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "channels", "generator", "critic"),
    [(PAPER, 22, 31_974_401, 17_355_905), (PLAIN, 20, 2_441_089, 1_356_929)],
    ids=["paper", "authors' small pair"],
)
def test_parameters_of_the_published_networks(options, channels, generator, critic):
    # the paper's critic sees the candidate in one channel a type, the small one in a single one
    candidate = 4 if options is PAPER else 1
    with torch.device("meta"):
        assert size(build_generator(channels, 4, options)) == generator
        assert size(build_critic(channels + candidate, options)) == critic


def inputs(n, channels=7, seed=0):
    random = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, channels, 8, 8, 8, generator=random),
        torch.randn(n, 5, generator=random),
        torch.eye(3)[torch.arange(n) % 3],
    )


@EACH
def test_generator_gives_one_density_a_sample(kind):
    torch.manual_seed(0)
    network = build_generator(7, 3, SMALL[kind])
    condition, noise, target = inputs(3)
    density = network(condition, noise, target)
    assert density.shape == (3, 512)
    assert bool(((density > 0) & (density < 1)).all())
    # each of the three inputs matters
    changed = [(condition + 1, noise, target), (condition, -noise, target)]
    changed.append((condition, noise, target.roll(1, 1)))
    for other in changed:
        assert float((network(*other) - density).detach().abs().max()) > 1e-4


@EACH
def test_samples_do_not_mix(kind):
    torch.manual_seed(0)
    generator, critic = build_generator(7, 3, SMALL[kind]), build_critic(7, SMALL[kind])
    batch = inputs(5)
    together, scores = generator(*batch), critic(batch[0])
    assert scores.shape == (5,)
    for k in range(5):
        one = [x[k : k + 1] for x in batch]
        torch.testing.assert_close(generator(*one)[0], together[k], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(critic(one[0])[0], scores[k], atol=1e-5, rtol=1e-5)


@EACH
def test_memory_layout_changes_nothing(kind):
    torch.manual_seed(0)
    network = build_generator(7, 3, SMALL[kind])
    batch = inputs(2)
    plain = network(*batch)
    last = network.to(memory_format=torch.channels_last_3d)(*batch)
    torch.testing.assert_close(last, plain, atol=1e-6, rtol=1e-5)


def test_noise_layer_is_the_papers_padded_valid_convolution():
    torch.manual_seed(0)
    layer = build_generator(7, 3, SMALL["residual"]).noise
    seed = torch.randn(2, 8, 1, 1, 1)
    padded = functional.pad(seed, (3,) * 6)  # 7^3
    kernel = layer.weight.transpose(0, 1).flip(2, 3, 4)
    expected = functional.conv3d(padded, kernel, layer.bias)
    assert expected.shape == (2, 8, 4, 4, 4)
    torch.testing.assert_close(layer(seed), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 4, 5])
def test_same_convolution_keeps_grid_and_place(kernel):
    layer = SameConv(1, 1, kernel)
    with torch.no_grad():
        layer.weight.zero_()
        centre = (kernel - 1) // 2  # for even kernels one voxel more at the far side, as SAME has
        layer.weight[0, 0, centre, centre, centre] = 1.0
        layer.bias.zero_()
    x = torch.randn(2, 1, 8, 8, 8)
    assert torch.equal(layer(x), x)


def test_dense_block_keeps_its_input_beside_the_new_channels():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8, 8)
    flat, strided = DenseBlock(3, 5, 1, 0.2)(x), DenseBlock(3, 5, 2, 0.2)(x)
    assert flat.shape == (2, 8, 8, 8, 8)
    assert strided.shape == (2, 8, 4, 4, 4)
    torch.testing.assert_close(flat[:, 5:], functional.leaky_relu(x, 0.2))
    pooled = functional.leaky_relu(functional.max_pool3d(x, 2), 0.2)
    torch.testing.assert_close(strided[:, 5:], pooled)


def test_unknown_architecture_is_refused():
    with pytest.raises(
        ValueError, match="architecture: expected one of residual, plain, got 'big'"
    ):
        NetworkOptions(architecture="big")
