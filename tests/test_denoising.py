"""From noise to latents: what the scheduler, the steps and the learnt prior make of one segment."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mirage_nb.denoising import best_take, denoise
from mirage_nb.models.presets import build_micro, build_scheduler


def test_denoising_with_the_true_velocity_finds_the_clean_latents():
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 3, 4, 6, generator=g), torch.randn(2, 4, 3, 4, 6, generator=g)
    seen = []

    def transformer(latents, timestep, control, encoder_hidden_states=None):
        seen.append(timestep)
        assert torch.equal(latents[:, :, 0], clean[:, :, 0]), "the first frame is context, at every step"
        return SimpleNamespace(sample=noise - clean)

    parts = SimpleNamespace(transformer=transformer, scheduler=build_scheduler())
    found = denoise(parts, clean[:, :, 0], noise, torch.zeros(1), 6)
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=1e-4)
    timesteps = torch.stack(seen)
    assert timesteps.shape == (6, 2, 3) and not timesteps[..., 0].any()
    assert (timesteps[0, :, 1:] > 990).all() and (timesteps.diff(dim=0)[..., 1:] < 0).all()


@torch.no_grad()
def test_more_steps_are_for_what_the_memory_does_not_tell():
    torch.manual_seed(0)
    parts = SimpleNamespace(**build_micro(memory_prior=True))
    torch.nn.init.normal_(parts.transformer.proj_out.weight, std=0.3)
    clean, noise = torch.randn(2, 4, 4, 6), torch.randn(2, 4, 3, 4, 6)
    control = torch.zeros(2, parts.transformer.config.vace_in_channels, 3, 4, 6)
    control[:, :, 2, :, 3:] = torch.randn(2, control.shape[1], 4, 3)
    control[:, 4] = control[:, 4] != 0
    control[:, 5:7] *= 0.01  # seen near the middle of their cells
    few, more = (denoise(parts, clean, noise, control, steps) for steps in (2, 6))
    seen = control[:, None, 4].expand_as(few) > 0
    torch.testing.assert_close(more[seen], few[seen], atol=1e-5, rtol=1e-4)
    new = ~seen[:, :, 1:]
    assert ((more - few)[:, :, 1:][new].abs() > 1e-4).float().mean() > 0.9

    parts.transformer.prior = None  # it can't say which cells are told
    assert not torch.allclose(*(denoise(parts, clean, noise, control, steps)[seen] for steps in (2, 6)), atol=1e-2)


def test_the_best_take_is_as_sharp_as_the_first_frame_where_all_is_new():
    """Neither fog nor clutter; what the memory showed does not count, nor who else is in the batch."""
    g = torch.Generator().manual_seed(0)
    noise = grey_noise(2, g)
    unseen = torch.zeros(2, 4, 6, dtype=torch.bool)
    unseen[0, :, 2:], unseen[1, 1:] = True, True
    new = unseen.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    contrasts = torch.tensor([[0.1, 0.5, 3.0], [1.9, 0.4, 0.0]])
    takes = torch.stack([torch.where(new, c.view(2, 1, 1, 1) * noise, 9 * noise) for c in contrasts.T], 1)
    assert best_take(0.6 * noise, takes, unseen).tolist() == [1, 1]
    assert best_take(noise * torch.tensor([4.0, 2.0]).view(2, 1, 1, 1), takes, unseen).tolist() == [2, 0]


def grey_noise(count: int, generator: torch.Generator) -> torch.Tensor:
    """Pictures (count, 3, 16, 24) whose cells of 4 x 4 pixels have one mean colour, whatever their contrast."""
    cells = torch.rand(count, 3, 4, 6, 4, 4, generator=generator)
    return (cells - cells.mean((-2, -1), keepdim=True)).transpose(3, 4).reshape(count, 3, 16, 24)


def test_a_take_of_half_mist_and_half_clutter_is_not_a_sharp_one():
    noise, unseen = grey_noise(1, torch.Generator().manual_seed(0)), torch.ones(1, 4, 6, dtype=torch.bool)
    left = torch.arange(24) < 12
    half, even = noise * torch.where(left, 0.1, 1.9), 0.8 * noise
    assert best_take(noise, torch.stack([half, even], 1), unseen).tolist() == [1]
    assert best_take(noise, torch.stack([even, half], 1), unseen).tolist() == [0]


@torch.no_grad()
def test_a_world_counts_where_the_memory_tells_nothing():
    torch.manual_seed(0)
    parts = SimpleNamespace(**build_micro(memory_prior=True))
    torch.nn.init.normal_(parts.transformer.proj_out.weight, std=0.3)
    clean, noise, world = torch.randn(1, 4, 4, 6), torch.randn(1, 4, 2, 4, 6), torch.randn(1, 4, 4, 6)
    control = torch.zeros(1, parts.transformer.config.vace_in_channels, 2, 4, 6)
    control[:, :, 1, :, 3:] = torch.randn(1, control.shape[1], 4, 3)
    control[:, 4] = control[:, 4] != 0
    control[:, 5:7] *= 0.01  # seen near the middle of their cells
    plain, drawn = (denoise(parts, clean, noise, control, 6, world=w) for w in (None, world))
    changed = (drawn - plain)[0, :, 1].abs().amax(0) > 1e-4
    assert changed[:, :3].all() and not changed[:, 3:].any()
    assert torch.equal(drawn[:, :, 0], clean)
    apart = torch.cdist(drawn[0, :, 1, :, :3].flatten(1).T, world[0].flatten(1).T)
    assert apart.amin(1).max() < 1e-2, "a cell that the memory does not tell is one of the world's"
    # Two steps are enough, and tell apart just as well.
    plain, drawn = (denoise(parts, clean, noise, control, 2, world=w) for w in (None, world))
    changed = (drawn - plain)[0, :, 1].abs().amax(0) > 1e-4
    assert changed[:, :3].all() and not changed[:, 3:].any()
