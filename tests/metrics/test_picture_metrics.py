"""Metrics of what is drawn, against values by hand, against references, and by two processes against one."""

import json
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed, multiprocessing
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
from torchmetrics.multimodal import CLIPScore

from datamodules.sprites.attributes import asked
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.world import render
from metrics.div import DIV, mean_pairwise_distance
from metrics.fid import FID
from metrics.image_similarity import ImageSimilarity, image_similarity, self_similarity
from metrics.kid import KID
from metrics.nearest_training_similarity import NearestTrainingSimilarity, nearest_training_similarity
from metrics.picture_metric import Drawn
from metrics.pres import PRES
from metrics.sprites.attribute_adherence import AttributeAdherence
from metrics.sprites.background_adherence import BackgroundAdherence
from metrics.sprites.identity import Identity, MeanIdentity
from metrics.sprites.sprites_judge import SpritesJudge
from metrics.text_similarity import TextSimilarity, text_similarity
from tests.picture_metrics import VIT, embeddings, heldout, subject, train
from tests.tiny import ROOT

X = torch.tensor([[2.0, 0.0], [0.0, 0.5], [3.0, 4.0]])
Y = torch.tensor([[1.0, 0.0], [-4.0, 3.0]])
NAMES = ("image", "nearest", "text", "div", "fid", "kid", "background", "attributes", "identity")


def drawn(pictures, prompts=(), class_pictures=()):
    return Drawn(pictures=pictures, prompts=prompts, class_pictures=class_pictures)


def of(metric, *args):
    assert metric.look(*args) > 0
    return metric.compute().item()


def test_image_similarity_by_hand():
    # Directions (1, 0), (0, 1), (.6, .8) against (1, 0), (-.8, .6).
    assert image_similarity(X, Y).item() == pytest.approx((1 + 0 + 0.6 - 0.8 + 0.6 + 0) / 6)
    assert self_similarity(X).item() == pytest.approx((0 + 0.6 + 0.8) / 3)


def test_nearest_training_similarity_by_hand():
    assert nearest_training_similarity(X, Y).tolist() == pytest.approx([1, 0.6, 0.6])


def test_text_similarity_by_hand():
    assert text_similarity(X[:2], Y).tolist() == pytest.approx([1, 0.6])


def test_mean_pairwise_distance_by_hand():
    def distance(first, second):
        return (first - second).abs().amax(1)

    assert mean_pairwise_distance(X, distance).item() == pytest.approx((2 + 4 + 3.5) / 3)


def test_fid_is_the_distance_of_two_gaussians():
    """Of diagonal covariances it is `|μ − ν|² + Σ (σ − τ)²`."""
    axes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    fid = FID(backbone=VIT, weights=None, real="x", num_features=2)
    fid.update(axes, real=True)
    fid.update(3 * axes + torch.tensor([1.0, 2.0]), real=False)
    assert fid.compute().item() == pytest.approx(5 + 2 * (3 - 1) ** 2 * 2 / 3, rel=1e-5)


def test_kid_is_the_unbiased_discrepancy_of_a_cubic_kernel():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=generator), 1 + torch.randn(6, 3, generator=generator)
    kid = KID(backbone=VIT, weights=None, real="x", num_features=3, subset_size=6, seed=0)
    kid.update(x, real=True)
    kid.update(y, real=False)

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(6) for j in range(6) if i != j) / 30
    across = sum(kernel(a, b) for a in x for b in y) / 36
    assert kid.compute().item() == pytest.approx(within - 2 * across, rel=1e-4)


def test_div_is_the_mean_over_prompts_of_torchmetrics_lpips(monkeypatch, tmp_path):
    """Under a random AlexNet: its pretrained weights are not here."""
    from torchvision import models

    torch.manual_seed(0)
    network = models.alexnet(weights=None)
    monkeypatch.setattr(models, "alexnet", lambda **kwargs: network)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(5)]
    found = of(DIV(net="alex"), drawn(pictures, ["a", "a", "a", "b", "b"]), subject(), embeddings())

    lpips = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    tensors = [torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] / 255 for p in pictures]
    pairs = [lpips(tensors[i], tensors[j]).item() for i, j in ((0, 1), (0, 2), (1, 2), (3, 4))]
    assert found == pytest.approx((sum(pairs[:3]) / 3 + pairs[3]) / 2, rel=1e-5)


def test_text_similarity_is_torchmetrics_clip_score_over_100(tiny_clip):
    folder = str(tiny_clip)
    metric, space = TextSimilarity(backbone=folder, weights=None), embeddings()
    backbone = space.backbone(folder, None)
    prompts = ["a red heart", "a small dotted white moon", "a star"]
    pictures = heldout(subject())[:3]
    sign = 1 if of(metric, drawn(pictures, prompts), subject(), space) > 0 else -1  # CLIPScore has no values below 0

    class Model(torch.nn.Module):
        config = None

        def get_image_features(self, pixel_values):
            return backbone.embed([Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixel_values], batch_size=8)

        def get_text_features(self, prompts, _):
            return sign * space.prompts(folder, None, prompts.texts)

    class Texts:
        def __init__(self, texts):
            self.texts = texts

        def to(self, device):
            return self

    def processor(*, images=None, text=None, **kwargs):
        if text:
            return {"input_ids": Texts(text), "attention_mask": torch.zeros(1)}
        return {"pixel_values": torch.stack(images)}

    reference = CLIPScore(model_name_or_path=lambda: (Model(), processor))
    score = reference([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures], prompts).item()
    assert score > 0
    assert sign * metric.compute().item() == pytest.approx(score / 100, abs=1e-6)


def test_real_pictures_of_one_subject_are_nearer_than_those_of_others():
    space, metric = embeddings(), ImageSimilarity(backbone=VIT, weights=None)
    one, others = subject(), [subject(name) for name in ("star_badge", "square_bolt", "circle_quarters")]
    assert metric.look_at_real(one, space) == 3
    ceiling = metric.compute().item()
    for other in others:
        metric.reset()
        assert ceiling > of(metric, drawn(train(other) + heldout(other)), one, space) + 0.1


def test_without_held_out_pictures_the_trained_ones_are_compared_with_one_another():
    space, metric = embeddings(), ImageSimilarity(backbone=VIT, weights=None)
    alone = subject(num_heldout=0)
    assert metric.look_at_real(alone, space) == 3
    assert metric.compute() == self_similarity(space.pictures(VIT, None, train(alone)))
    assert metric.look_at_real(replace(alone, train=alone.train[:1]), space) == 0
    assert "training" in metric.describe(alone, space)["pairing"]


def test_copies_of_training_pictures_have_a_nearest_similarity_of_1():
    space, one, metric = embeddings(), subject(), NearestTrainingSimilarity(backbone=VIT, weights=None)
    assert of(metric, drawn([picture.copy() for picture in train(one)] * 2), one, space) == pytest.approx(1, abs=1e-6)
    metric.reset()
    assert of(metric, drawn(heldout(one)), one, space) < 0.99


def test_pres_rises_as_the_class_becomes_the_subject():
    space, one, metric = embeddings(), subject(), PRES(backbone=VIT, weights=None, num_class_pictures=3)
    collapsed = of(metric, drawn([], class_pictures=train(one)), one, space)
    metric.reset()
    assert collapsed > of(metric, drawn([], class_pictures=train(subject("circle_quarters"))), one, space) + 0.1


def test_pres_by_hand():
    """Of the class pictures that it asks for alone, to trained and held-out pictures."""
    one = subject(num_heldout=1)
    one = replace(one, train=one.train[:1])
    of_class = [Image.new("RGB", (8, 8)) for _ in range(4)]
    rows = dict(zip(map(id, [*of_class, *train(one), *heldout(one)]), [*X, Y[0], *Y], strict=True))

    class Rows:
        def pictures(self, backbone, weights, pictures):
            return torch.stack([rows[id(picture)] for picture in pictures])

    pres = PRES(backbone=VIT, weights=None, num_class_pictures=2)
    # Directions (1, 0), (0, 1) against (1, 0), (-.8, .6).
    assert of(pres, drawn([], class_pictures=of_class), one, Rows()) == pytest.approx((1 + 0 - 0.8 + 0.6) / 4)


def test_shuffled_prompts_lower_text_similarity():
    """Of a model that knows the world; a random one does not tell prompts apart."""
    space, metric = embeddings(), TextSimilarity(backbone=str(ROOT / "assets/sprites-clip"), weights=None)
    four = [subject(name) for name in ("heart_face", "star_badge", "square_bolt", "circle_quarters")]
    pictures = [picture for each in four for picture in heldout(each)]
    prompts = [picture.prompts.prior for each in four for picture in each.heldout]
    right = of(metric, drawn(pictures, prompts), four[0], space)
    metric.reset()
    assert right > of(metric, drawn(pictures, prompts[1:] + prompts[:1]), four[0], space) + 0.02


ROWS = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0))  # what is drawn, and their prompts
REAL = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
PROMPTS = ["a small star", *(f"a heart on a {name} background" for name in ("black", "mint", "sky", "pink", "teal"))]
RNG = np.random.default_rng(0)
# As they are asked for but the last one, which has neither the noun nor the background right.
PICTURES = [
    render(scene_as_asked(asked(each), RNG)) for each in (*PROMPTS[:-1], "a large red circle on a pink background")
]


def figures(part):
    """Each metric after seeing this part of the rows and pictures."""
    rows, pictures, prompts = ROWS[part], PICTURES[part], PROMPTS[part]
    image, nearest, text = (
        kind(backbone=VIT, weights=None) for kind in (ImageSimilarity, NearestTrainingSimilarity, TextSimilarity)
    )
    div = DIV(net="alex")
    fid = FID(backbone=VIT, weights=None, real="x", num_features=4)
    kid = KID(backbone=VIT, weights=None, real="x", num_features=4, subset_size=5, seed=0)
    generated, embedded = rows.unbind(1)
    image.update(generated, REAL)
    nearest.update(generated, REAL)
    text.update(generated, embedded)
    for each in rows:
        div.update(each, lambda a, b: (a - b).norm(dim=1))
    for metric in (fid, kid):
        metric.update(generated, real=False)
        metric.update(embedded, real=True)
    background = BackgroundAdherence()
    attributes = AttributeAdherence(SpritesJudge.from_pretrained(ROOT / "assets/sprites-judge"))
    references = [np.asarray(each) for each in heldout(subject())]
    identity = MeanIdentity(Identity.from_pretrained(ROOT / "assets/sprites-identity"), references, None)
    for metric in (background, attributes):
        metric.update(pictures, prompts)
    identity.update(pictures)
    found = [m.compute() for m in (image, nearest, text, div, fid, kid, background)]
    found += [attributes.compute()["noun"], identity.compute()]
    return dict(zip(NAMES, (value.item() for value in found), strict=True))


def run_rank(rank, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    Path(folder, f"{rank}.json").write_text(json.dumps(figures(slice(2) if rank == 0 else slice(2, None))))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_give_the_figures_of_one(tmp_path):
    multiprocessing.start_processes(run_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    one = figures(slice(None))
    assert (one["background"], one["attributes"]) == pytest.approx((4 / 5, 5 / 6))
    assert all(math.isfinite(value) for value in one.values())
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(one, rel=1e-5)
    part = figures(slice(5))
    assert all(part[name] != pytest.approx(one[name], rel=1e-3) for name in NAMES)
