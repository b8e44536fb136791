"""Offset noise: the maths, its draws, and that it reaches the noise of every training row and nothing else."""

import pytest
import torch

from checks.config import check
from datamodules import draws
from datamodules.draws import DrawStream, offset_noise
from lightning_modules.diffusion import DiffusionModule
from models.noise_process import Velocity
from tests.runs import compose, train

POSITIONS = torch.arange(500)
SHAPE = (3, 4, 4)


def test_by_hand():
    noise, offset = torch.tensor([[[[1.0, -1.0]], [[0.5, 2.0]]]]), torch.tensor([[[[10.0]], [[-2.0]]]])
    expected = torch.tensor([[[[2.0, 0.0]], [[0.3, 1.8]]]])
    torch.testing.assert_close(offset_noise(noise, offset, noise_offset=0.1), expected)


def test_one_number_for_each_picture_and_channel_from_a_stream_of_its_own():
    plain = draws.normal(0, DrawStream.NOISE, POSITIONS, SHAPE)
    added = draws.noise(0, DrawStream.NOISE, POSITIONS, SHAPE, noise_offset=0.5) - plain
    numbers = draws.normal(0, DrawStream.NOISE_OFFSET, POSITIONS, (3, 1, 1))
    torch.testing.assert_close(added, 0.5 * numbers.expand_as(added))
    part = draws.noise(0, DrawStream.NOISE, POSITIONS[7:9], SHAPE, noise_offset=0.5)
    assert torch.equal(part, (plain + 0.5 * numbers)[7:9])
    classes = draws.noise(0, DrawStream.CLASS_NOISE, POSITIONS, SHAPE, noise_offset=0.5)
    other = (classes - draws.normal(0, DrawStream.CLASS_NOISE, POSITIONS, SHAPE)).mean((2, 3))
    assert torch.corrcoef(torch.stack([other.flatten(), numbers.flatten()]))[0, 1].abs() < 0.1


def test_the_variance_of_a_channels_mean_grows_by_the_offsets_square():
    means = [
        draws.noise(0, DrawStream.NOISE, POSITIONS, SHAPE, noise_offset=strength).mean((2, 3))
        for strength in (0.0, 1.0)
    ]
    assert means[0].var().item() == pytest.approx(1 / 16, rel=0.2)
    assert means[1].var().item() == pytest.approx(1 / 16 + 1, rel=0.2)


def test_without_an_offset_nothing_but_the_noise_is_drawn(monkeypatch):
    plain, streams = draws.normal, []

    def normal(seed, stream, *args):
        streams.append(stream)
        return plain(seed, stream, *args)

    monkeypatch.setattr(draws, "normal", normal)
    drawn = draws.noise(0, DrawStream.NOISE, POSITIONS, SHAPE, noise_offset=0.0)
    assert streams == [DrawStream.NOISE] and torch.equal(drawn, plain(0, DrawStream.NOISE, POSITIONS, SHAPE))


def test_every_training_row_and_no_heldout_one_has_it(monkeypatch, tiny_sd_v, tmp_path):
    noised, aimed = [], []
    noisy, target, step = Velocity.noisy, Velocity.target, DiffusionModule.training_step

    def recorded(self, latents, noise, t):
        noised.append((latents, noise, t, is_training[-1]))
        return noisy(self, latents, noise, t)

    def recorded_target(self, latents, noise, t):
        aimed.append((latents, noise, t, is_training[-1]))
        return target(self, latents, noise, t)

    def training_step(self, *args):
        is_training.append(True)
        try:
            return step(self, *args)
        finally:
            is_training.append(False)

    is_training = [False]
    monkeypatch.setattr(Velocity, "noisy", recorded)
    monkeypatch.setattr(Velocity, "target", recorded_target)
    monkeypatch.setattr(DiffusionModule, "training_step", training_step)
    prior = ["experiment=dreambooth_prior", "regularizer.prior_preservation.num_class_images=2"]
    heldout = ["data.num_heldout=1", "trainer.val_check_interval=1"]
    train(monkeypatch, tiny_sd_v, tmp_path / "run", *prior, *heldout, "module.noise_offset=10", steps=1)
    # The sum is what is added to the latents, and what the velocity is of.
    assert all(one is other for pair in zip(noised, aimed, strict=True) for one, other in zip(*pair, strict=True))
    (trained,) = (noise for _, noise, _, training in noised if training)
    validated = [noise for _, noise, _, training in noised if not training]
    assert len(trained) == 4 and trained.mean((2, 3)).std() > 2  # both of the subject's and both class rows: N(0, 10²)
    assert trained.mean((1, 2, 3)).abs().min() > 0.5
    assert validated and all(noise.mean((2, 3)).abs().max() < 1 for noise in validated)


@pytest.mark.parametrize("value", ["-0.1", ".nan", ".inf", "null", "much", "true"])
@pytest.mark.parametrize("module", ["diffusion", "apt_diffusion"])
def test_an_offset_that_cannot_be_is_refused(tmp_path, module, value):
    cfg = compose(tmp_path, "experiment=dreambooth", f"module={module}", f"module.noise_offset={value}")
    with pytest.raises(ValueError, match=r"module\.noise_offset="):
        check(cfg)
