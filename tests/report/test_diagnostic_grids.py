"""What the two models do on the way to a picture: predicted x0 along the denoising, and attention to each token."""

import json

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from datamodules.subject import PromptPair
from evaluation.drawings.token_attention import TokenAttention, aligned, mean_maps
from evaluation.drawings.trajectory import Trajectory
from evaluation.samples import evenly
from report.diagnostic_grids import diagnostic_grids
from report.tile_grid import Tile, tile_grid
from report.wandb_logger import publish
from sampling.guidance import ClassifierFreeGuidance
from sampling.sampler import sample
from tests.runs import fit
from tests.sampling.test_guided_denoiser import add_lora, load

SAME = PromptPair(instance="a photo of a heart", prior="a photo of a heart")
PAIR = PromptPair(
    instance="a photo of a sks heart on a pink background", prior="a photo of a heart on a pink background"
)
ATTENTION = TokenAttention(sites=["up_blocks.*.attn2"], num_timesteps=2)


def draw(model, **settings):
    defaults = {"seeds": [3], "guidance_scale": 2.0, "num_inference_steps": 4}
    return sample(model, [SAME.prior], description="", **defaults | settings)[0]


def rows_of(path):
    """The upper and the lower half of a grid, without the rows' names."""
    pixels = np.asarray(Image.open(path))[:, 60:]
    return pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]


def test_a_recorded_trajectory_ends_in_the_picture_that_is_drawn_anyway(tiny_sd):
    model = load(tiny_sd)
    own, drawn = model.pipeline.scheduler, draw(model)
    with model.record_trajectory() as scheduler:
        again = draw(model)
    assert model.pipeline.scheduler is own
    assert np.array_equal(np.asarray(again), np.asarray(drawn))
    assert [timestep for timestep, _ in scheduler.predicted] == sorted(own.timesteps.tolist(), reverse=True)
    pixels = model.pipeline.vae.decode(scheduler.predicted[-1][1] / model.pipeline.vae.config.scaling_factor).sample
    last = (pixels[0].detach().permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy() * 255
    assert np.abs(last - np.asarray(drawn)).max() < 2


def test_a_pipeline_of_another_scheduler_is_recorded_by_ddim(tiny_sd):
    model = load(tiny_sd)
    model.pipeline.scheduler = PNDMScheduler.from_config(model.pipeline.scheduler.config, skip_prk_steps=True)
    with model.record_trajectory() as scheduler:
        draw(model)
    assert len(scheduler.predicted) == 4  # PNDM takes a step more
    assert isinstance(model.pipeline.scheduler, PNDMScheduler)


def test_what_is_not_tuned_has_the_base_model_s_trajectory_and_maps(tiny_sd, tmp_path):
    model = add_lora(load(tiny_sd))
    trajectory = Trajectory(num_prompts=1, num_columns=3)
    picture = draw(model)
    for name, std in (("untouched", 0.0), ("tuned", 0.3)):
        torch.manual_seed(0)
        for key, parameter in model.denoiser.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=std)
        trajectory(model, [SAME, PAIR], ClassifierFreeGuidance(guidance_scale=4.0), seed=0, folder=tmp_path / name)
        ATTENTION(model, SAME, picture, picture, seed=0, path=tmp_path / f"{name}_attention/00.png")
    assert [path.name for path in (tmp_path / "tuned").iterdir()] == ["00.png"]
    for folder in ("untouched", "untouched_attention"):
        assert np.array_equal(*rows_of(tmp_path / folder / "00.png"))
    for folder in ("tuned", "tuned_attention"):
        assert not np.array_equal(*rows_of(tmp_path / folder / "00.png"))


def test_a_token_s_shares_sum_to_one_in_every_place(tiny_sd):
    model = load(tiny_sd)
    maps = ATTENTION._maps(model, PAIR.prior, Image.new("RGB", (32, 32), "red"), seed=0)
    assert maps.shape == (32, 4, 4)  # the text encoder's columns, and the side of the only decoder layer
    torch.testing.assert_close(maps.sum(0), torch.ones(4, 4))


def test_layers_of_all_sizes_count_alike():
    small = torch.tensor([[[1.0, 0.0]] * 4])  # one head looks at the first token everywhere, in 2 × 2 places
    large = torch.zeros(2, 16, 2)
    large[0, :, 1] = large[1, :, 0] = 1  # two heads that disagree
    expected = torch.stack([torch.full((4, 4), 0.75), torch.full((4, 4), 0.25)])
    torch.testing.assert_close(mean_maps([small, large]), expected)


def test_equal_tokens_stand_in_one_column():
    assert aligned([1, 2, 9, 3], [1, 2, 7, 9, 3]) == [(0, 0), (1, 1), (None, 2), (2, 3), (3, 4)]
    assert aligned([1, 9, 3], [1, 7, 8, 3]) == [(0, 0), (1, 1), (None, 2), (2, 3)]  # two vectors for the class word
    assert aligned([], []) == []


def test_columns_are_evenly_apart_with_both_ends():
    assert (evenly(20, 7), evenly(3, 7), evenly(1, 2)) == ([0, 3, 6, 10, 13, 16, 19], [0, 1, 2], [0])


def test_a_grid_has_a_place_for_every_tile_and_its_label():
    red = Image.new("RGB", (64, 64), "red")
    grid = np.asarray(
        tile_grid({"one": [Tile(red, "a\nb"), Tile(None, "")], "two": [Tile(red, "<b>"), Tile(red, "x" * 99)]})
    )
    is_red = (grid == (255, 0, 0)).all(-1)
    assert is_red.sum() == 3 * 128 * 128
    assert not is_red[:160, -128:].any()
    dark = grid[128:160, -260:-132].sum(-1) < 100
    assert dark.any()  # the label of the first tile
    with pytest.raises(ValueError, match="as many"):
        tile_grid({"one": [Tile(red, "")], "two": []})


@pytest.mark.parametrize("wrong", [{"num_prompts": 0, "num_columns": 5}, {"num_prompts": 1, "num_columns": 1}])
def test_an_empty_trajectory_is_refused(wrong):
    with pytest.raises(ValueError, match=r"evaluation\.trajectory\.num_"):
        Trajectory(**wrong)


def test_attention_that_is_not_there_is_refused(tiny_sd):
    with pytest.raises(ValueError, match="nothing"):
        TokenAttention(sites=["nothing"], num_timesteps=1).check(load(tiny_sd))
    with pytest.raises(ValueError, match=r"evaluation\.token_attention\.num_timesteps=0"):
        TokenAttention(sites=["up_blocks.*.attn2"], num_timesteps=0)


class Spy(WandbLogger):
    experiment = None

    def __init__(self):
        self.images, self.tables = {}, []
        type(self).experiment = self

    def log_image(self, key, images, **kwargs):
        self.images[key] = (images, kwargs)

    def log_table(self, key, **kwargs):
        self.tables.append(key)

    def finish(self):
        pass


def test_a_run_shows_both_in_its_report_and_in_wandb(tiny_sd, tmp_path):
    few = ["experiment=dreambooth", "data.num_heldout=0", "evaluation.judge=null", "evaluation.identity=null"]
    run_dir = fit(tiny_sd, tmp_path / "run", *few, steps=1)
    record = json.loads((run_dir / "metrics.json").read_text())["evaluation"]
    assert record["trajectory"] == {"num_prompts": 1, "num_columns": 7}
    assert record["token_attention"] == {"sites": ["text"], "num_timesteps": 5}
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "Predicted x0 along the denoising" in page and "Cross-attention to each token" in page
    publish(logger := Spy(), run_dir)
    for name in ("trajectory", "token_attention"):
        (path,), captions = logger.images[name]
        assert path == str(run_dir / "samples" / name / "00.png")
        assert "sks heart" in captions["caption"][0]


def test_both_can_be_left_out(tiny_sd, tmp_path):
    few = ["experiment=dreambooth", "data.num_heldout=0", "evaluation.judge=null", "evaluation.identity=null"]
    without = ["evaluation.trajectory=null", "evaluation.token_attention=null"]
    run_dir = fit(tiny_sd, tmp_path / "run", *few, *without, steps=1)
    assert not (run_dir / "samples/trajectory").exists() and not (run_dir / "samples/token_attention").exists()
    assert "Cross-attention" not in (run_dir / "report.html").read_text(encoding="utf-8")


def test_a_stray_picture_is_refused(tmp_path):
    (tmp_path / "trajectory").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "trajectory/mine.png")
    with pytest.raises(ValueError, match=r"mine\.png: not named after a prompt"):
        diagnostic_grids(tmp_path, [{"prompt": "a", "prior_prompt": "b"}])
