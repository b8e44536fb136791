"""What APT's module does that its base does not: t comes first, and decides which pictures are encoded anew, warped."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.regularizers.overfitting_indicator import OverfittingIndicator
from datamodules import draws
from datamodules.draws import DrawStream
from lightning_modules.apt import APTDiffusionModule
from lightning_modules.augmentation import draw_warp, warp_picture
from models.families.sd import StableDiffusion
from report.metrics_csv import read_metrics
from tests.runs import train

SETTINGS = {"max_zoom": 3.0, "degrees": 15.0, "max_shift": 0.08}
MASKED = "module.augmentation.mask_border=true"
BANK = "module.augmentation.bank=2"


@dataclass
class Rows:
    """What became of the subject's rows in one step."""

    positions: Tensor
    index: Tensor
    t: Tensor
    moments: Tensor
    mask: Tensor | None
    num_encoded: int


class Watched:
    """One training, whose plug-in augments by `chance` of t; its module, and its `Rows` step by step."""

    def __init__(self, monkeypatch, chance) -> None:
        self.steps: list[Rows] = []
        self.asked: list[Tensor] = []
        monkeypatch.setattr(
            OverfittingIndicator, "augmentation_probability", lambda _, t: (self.asked.append(t), chance(t))[1]
        )
        original, draw_latents = APTDiffusionModule.instance_latents, APTDiffusionModule._draw_latents

        def instance_latents(module, positions, index, t):
            self.module, self.encoded = module, 0
            encode = module.model.encode_pictures
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module.model, "encode_pictures", lambda pictures: self.count(pictures, encode))
                latents, mask = original(module, positions, index, t)
            self.steps.append(Rows(positions, index, t, self.moments, mask, self.encoded))
            return latents, mask

        def _draw_latents(module, moments, positions, stream):
            assert stream == DrawStream.POSTERIOR
            self.moments = moments
            return draw_latents(module, moments, positions, stream)

        monkeypatch.setattr(APTDiffusionModule, "instance_latents", instance_latents)
        monkeypatch.setattr(APTDiffusionModule, "_draw_latents", _draw_latents)

    def count(self, pictures, encode):
        self.encoded += len(pictures)
        return encode(pictures)

    def augmented(self, index: int, number: int) -> tuple[Tensor, Tensor]:
        """Moments and mask of picture `index` under the warp of `number`, by hand."""
        rng = draws.generator(self.module.seed, DrawStream.WARP, number)
        picture, valid = warp_picture(self.module.pictures[index].float(), draw_warp(rng, **SETTINGS), border="black")
        moments = self.module.model.encode_pictures(picture[None])[0]
        return moments, F.adaptive_avg_pool2d(valid, (moments.shape[-2], moments.shape[-1]))


@pytest.fixture
def watch(monkeypatch, tiny_sd, tmp_path):
    def run(chance, *overrides: str) -> Watched:
        watched = Watched(monkeypatch, chance)
        train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=apt_dreambooth", *overrides)
        assert len(watched.steps) == 4
        return watched

    return run


def test_with_chance_1_every_picture_is_encoded_under_its_own_position_s_warp(watch, tmp_path):
    watched = watch(torch.ones_like, MASKED)
    for step in watched.steps:
        assert step.num_encoded == len(step.index)
        for row, (position, index) in enumerate(zip(step.positions.tolist(), step.index.tolist(), strict=True)):
            moments, valid = watched.augmented(index, position)
            torch.testing.assert_close(step.moments[row], moments, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(step.mask[row], valid)
            assert not torch.allclose(step.moments[row], watched.module._moments[index], atol=1e-2)
    assert [share for _, share in read_metrics(tmp_path / "run/metrics.csv")["augmentation/share"]] == [1] * 4


def test_with_chance_0_the_cache_is_read_and_nothing_encoded(watch):
    watched = watch(torch.zeros_like, MASKED)
    for step in watched.steps:
        assert step.num_encoded == 0 and step.mask.eq(1).all()
        assert torch.equal(step.moments, watched.module._moments[step.index])


@pytest.mark.parametrize("overrides", [(), (BANK,)], ids=["encoded", "bank"])
def test_each_row_is_augmented_by_the_chance_of_its_own_t(watch, overrides):
    """The chance is t itself. A plug-in is asked before anything is encoded, of the step's own times."""
    watched = watch(torch.clone, *overrides)
    assert all(torch.equal(step.t, t) for step, t in zip(watched.steps, watched.asked[-4:], strict=True))
    cache, found, expected = watched.module._moments, [], []
    for step in watched.steps:
        seed, time_of = watched.module.seed, watched.module.model.noise_process.draw_time
        assert torch.equal(step.t, draws.times(seed, DrawStream.TIMESTEP, step.positions, time_of))
        expected += (draws.uniform(seed, DrawStream.AUGMENT, step.positions) < step.t).tolist()
        found += (step.moments != cache[step.index]).flatten(1).any(1).tolist()
        assert step.mask is None
    assert found == expected and {*found} == {True, False}


def test_a_bank_is_encoded_before_training_and_drawn_from_by_position(watch):
    watched = watch(torch.ones_like, BANK, MASKED)
    assert not watched.module.encodes_while_training
    picked = set()
    for step in watched.steps:
        assert step.num_encoded == 0
        variants = draws.integers(watched.module.seed, DrawStream.WARP, step.positions, 2).tolist()
        for row, (variant, index) in enumerate(zip(variants, step.index.tolist(), strict=True)):
            moments, valid = watched.augmented(index, 2 * index + variant)
            torch.testing.assert_close(step.moments[row], moments, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(step.mask[row], valid)
        picked |= {*variants}
    assert picked == {0, 1}


@pytest.mark.parametrize(("overrides", "leaves"), [((), False), ((BANK,), True)], ids=["encoded", "bank"])
def test_the_pictures_encoder_leaves_only_where_no_step_asks_it(watch, monkeypatch, overrides, leaves):
    moves = []

    def move_encoders(model, device, *, pictures=True, prompts=True):
        moves.append((device, pictures))

    monkeypatch.setattr(StableDiffusion, "move_encoders", move_encoders)
    watch(torch.ones_like, *overrides)
    assert [pictures for device, pictures in moves if device == "cpu"] == [leaves] * (1 + leaves)  # behind the bank too


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["experiment=dreambooth", "regularizer=[denoising,overfitting_indicator]"],
            r"regularizer\.overfitting_indicator wants to augment, which DiffusionModule does not",
        ),
        (
            [
                "+regularizer.second._target_=callbacks.regularizers.overfitting_indicator.OverfittingIndicator",
                "+regularizer.second={num_bins: 4, ema_weight: 0.1, scale: 1.0, weighting: false}",
                "+regularizer.second.augmentation=true",
                "+regularizer.second.max_probability=0.5",
            ],
            "overfitting_indicator and second both decide the augmentation",
        ),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused_before_training(monkeypatch, tiny_sd, tmp_path, overrides, words):
    with pytest.raises(Exception, match=words):
        train(monkeypatch, tiny_sd, tmp_path / "run", *overrides)
