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
    noise = torch.rand(2, 3, 16, 24, generator=g)
    unseen = torch.zeros(2, 4, 6, dtype=torch.bool)
    unseen[0, :, 2:], unseen[1, 1:] = True, True
    new = unseen.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    contrasts = torch.tensor([[0.1, 0.5, 3.0], [1.9, 0.4, 0.0]])
    takes = torch.stack([torch.where(new, c.view(2, 1, 1, 1) * noise, 9 * noise) for c in contrasts.T], 1)
    assert best_take(0.6 * noise, takes, unseen).tolist() == [1, 1]
    assert best_take(noise * torch.tensor([4.0, 2.0]).view(2, 1, 1, 1), takes, unseen).tolist() == [2, 0]
