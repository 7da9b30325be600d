"""What the memory alone tells of the latents: the right linear estimate, and a network that knows better and says how
well."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro
from torch import nn

from mirage_nb.models.control import EXTRA_CHANNELS
from mirage_nb.models.prior import MIN_DEVIATION, MemoryPrior, prior_velocity

CHANNELS = 4


def control_of(tokens, seen=None, offset=None):
    """A control input around tokens (B, C, T, h, w)."""
    control = torch.zeros(len(tokens), CHANNELS + EXTRA_CHANNELS, *tokens.shape[2:])
    control[:, :CHANNELS] = tokens
    control[:, CHANNELS] = 1.0 if seen is None else seen
    if offset is not None:
        control[:, CHANNELS + 1 : CHANNELS + 3] = offset
    return control


def model(width):
    return build_micro(prior_width=width)["transformer"].eval()


@pytest.mark.parametrize("sigma", [0.02, 0.4, 0.97])
@pytest.mark.parametrize("mean, deviation", [(0.7, 0.53), (0.0, 1.0), (-2.0, 0.1)])
def test_the_velocity_is_the_best_linear_guess(sigma, mean, deviation):
    """On latents drawn as the prior says, what is left over has its deviation and no relation to what was seen."""
    g, n = torch.Generator().manual_seed(0), 200_000
    clean, noise = mean + deviation * torch.randn(n, generator=g), torch.randn(n, generator=g)
    noisy, velocity = (1 - sigma) * clean + sigma * noise, noise - clean
    guess = (torch.full((n, 1, 1, 1, 1), x) for x in (mean, deviation))
    expected, left_over = prior_velocity(noisy.view(n, 1, 1, 1, 1), torch.full((n, 1), 1000 * sigma), *guess)
    left = velocity - expected.flatten()
    assert abs(left.mean()) < 0.01 and left.std() == pytest.approx(left_over[0].item(), rel=0.01)
    assert abs((left * (noisy - noisy.mean())).mean()) < 0.01


@torch.no_grad()
def test_untrained_it_is_the_token_itself_less_sure_the_farther_off_and_nothing_where_nothing_is_seen():
    g = torch.Generator().manual_seed(0)
    tokens, seen = torch.randn(2, CHANNELS, 3, 4, 6, generator=g), torch.rand(2, 3, 4, 6, generator=g) < 0.5
    tokens = tokens * seen[:, None]
    near, far = (MemoryPrior(CHANNELS, 8)(control_of(tokens, seen, o * seen[:, None])) for o in (0.05, 0.4))
    assert torch.equal(near[0], tokens) and torch.equal(far[0], tokens)
    unseen = ~seen[:, None].expand_as(tokens)
    assert (near[1][unseen] == 1).all() and (near[1][~unseen] < far[1][~unseen]).all()


@torch.no_grad()
def test_an_untrained_model_gives_back_what_the_memory_shows():
    g = torch.Generator().manual_seed(0)
    noise, tokens = (torch.randn(1, CHANNELS, 3, 4, 6, generator=g) for _ in range(2))
    untrained, control = model(8), control_of(tokens)
    velocity = untrained(noise, torch.full((1, 3), 1000.0), control).sample
    torch.testing.assert_close(noise - velocity, tokens, atol=0.3, rtol=0)  # one step from pure noise
    with_reference = untrained(noise, torch.full((1, 3), 500.0), control[:, :, 1:], num_references=1).sample
    assert with_reference.shape == noise.shape


def test_it_learns_where_latents_lie_between_tokens_and_how_sure_that_is():
    """A world whose latents, seen half a cell off, are the mean of two tokens, in two channels with noise."""
    torch.manual_seed(0)
    prior, noise = MemoryPrior(CHANNELS, width=16, blocks=1), torch.tensor([0.1, 0.1, 0.5, 0.5]).view(-1, 1, 1, 1)
    optimizer, g = torch.optim.Adam(prior.parameters(), lr=3e-3), torch.Generator().manual_seed(1)

    def draw():
        tokens = torch.randn(4, CHANNELS, 1, 12, 12, generator=g)
        clean = (tokens + tokens.roll(-1, -1)) / 2
        return control_of(tokens, offset=0.5), clean + noise * torch.randn(clean.shape, generator=g)

    for _ in range(300):
        control, clean = draw()
        optimizer.zero_grad()
        mean, deviation = prior(control)
        nn.functional.gaussian_nll_loss(mean, clean, deviation.square()).backward()
        optimizer.step()
    with torch.no_grad():
        control, clean = draw()
        mean, deviation = prior(control)
    inside = (..., slice(2, -2), slice(2, -2))
    error = (mean - clean)[inside].square().mean((0, 2, 3, 4)).sqrt()
    raw = (control[:, :CHANNELS] - clean)[inside].square().mean().sqrt()
    assert (error[:2] < 0.3 * raw).all(), "the mean of neighbours is not learnt"
    told = deviation[inside].mean((0, 2, 3, 4))
    torch.testing.assert_close(told, error, rtol=0.25, atol=0.03)
    assert (deviation >= MIN_DEVIATION).all()


def test_flow_matching_leaves_the_prior_to_its_likelihood():
    trained = model(8).train()
    nn.init.normal_(trained.proj_out.weight, std=0.1)
    noise, tokens = torch.randn(1, CHANNELS, 3, 4, 6), torch.randn(1, CHANNELS, 3, 4, 6)
    trained(noise, torch.full((1, 3), 500.0), control_of(tokens)).sample.square().mean().backward()
    assert all(p.grad is None for p in trained.prior.parameters()) and trained.proj_out.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_the_branch_sees_what_the_prior_says():
    one = model(8)
    nn.init.normal_(one.proj_out.weight, std=0.1)
    nn.init.normal_(one.vace_blocks[0].proj_out.weight, std=0.2)
    noise, control = torch.randn(1, CHANNELS, 3, 4, 6), control_of(torch.randn(1, CHANNELS, 3, 4, 6))
    timestep = torch.full((1, 3), 500.0)

    def network() -> torch.Tensor:
        expected, left = prior_velocity(noise, timestep, *one.prior(control))
        return (one(noise, timestep, control).sample - expected) / left

    before = network()
    one.prior.network[-1].bias[:CHANNELS] = 1.0  # another mean
    assert (network() - before).abs().max() > 1e-3
