"""The patches that hold the attention's mass, their Jaccard index with the object, and the controls beside it."""

import pytest
import torch

from metrics.localization import (
    AttentionJaccard,
    attention_jaccard,
    centred_square,
    jaccard,
    kept_patches,
    random_attention,
)

EIGHTHS = torch.tensor([1.0, 4.0, 2.0, 1.0]) / 8


def objects(count):
    """bool `[count, 32, 32]`: rectangles of 4 to 20 px anywhere."""
    side = 32
    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for mask in masks:
        height, width = torch.randint(4, 21, (2,), generator=generator).tolist()
        top, left = (int(torch.randint(0, side - n + 1, (), generator=generator)) for n in (height, width))
        mask[top : top + height, left : left + width] = True
    return masks


def metric_of(attention, masks, mass=0.6):
    metric = AttentionJaccard(mass=mass)
    metric.update(attention, masks)
    return metric


@pytest.mark.parametrize(
    ("mass", "kept"),
    [
        (0.25, [False, True, False, False]),
        (0.5, [False, True, False, False]),  # reached exactly: no further patch
        (0.51, [False, True, True, False]),  # the patch that crosses counts
        (0.76, [True, True, True, False]),  # of equal ones, the first
        (1.0, [True, True, True, True]),
    ],
)
def test_the_kept_patches_by_hand(mass, kept):
    assert kept_patches(EIGHTHS, mass=mass).tolist() == kept
    assert kept_patches(3 * EIGHTHS, mass=mass).tolist() == kept, "the share is that of the row's own total"


def test_a_patch_without_attention_is_never_kept():
    assert kept_patches(torch.tensor([[0.0, 0.5], [0.0, 0.0]]), mass=1.0).tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("mass", [0.3, 0.6, 0.9])
def test_the_kept_patches_are_those_of_dino_s_code(mass):
    attention = torch.rand(3, 5, 49, generator=torch.Generator().manual_seed(0))
    values, order = torch.sort(attention)  # visualize_attention.py: ascending, kept above 1 − mass
    values /= values.sum(-1, keepdim=True)
    expected = (values.cumsum(-1) > 1 - mass).gather(-1, order.argsort(-1))
    assert torch.equal(kept_patches(attention, mass=mass), expected)


def test_the_kept_patches_move_with_the_patches():
    attention = torch.rand(4, 49, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(49, generator=torch.Generator().manual_seed(1))
    assert torch.equal(kept_patches(attention[:, order], mass=0.6), kept_patches(attention, mass=0.6)[:, order])


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.01])
def test_a_mass_that_is_no_share_is_refused(mass):
    with pytest.raises(ValueError, match="mass="):
        kept_patches(EIGHTHS, mass=mass)


def test_jaccard_by_hand():
    first = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
    second = torch.tensor([[[1, 0], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
    torch.testing.assert_close(jaccard(first, second), torch.tensor([1 / 3, 1.0, 0.0]))


def test_best_head_and_head_mean_by_hand():
    # Head 0 looks at the object in the top left quarter, head 1 at the two below; their mean, at .9, at all three.
    attention = torch.zeros(1, 2, 2, 2)
    attention[0, 0, 0, 0] = 1
    attention[0, 1, 1] = 0.5
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2, :2] = True
    best, mean = attention_jaccard(attention, masks, mass=0.9)
    torch.testing.assert_close((best, mean), (torch.tensor([1.0]), torch.tensor([1 / 3])))


def test_the_best_head_is_each_picture_s_own():
    attention = torch.zeros(2, 2, 1, 2)
    attention[:, 0, 0, 0] = attention[:, 1, 0, 1] = 1
    masks = torch.tensor([[[1, 0]], [[0, 1]]]).bool()
    assert attention_jaccard(attention, masks, mass=0.6)[0].tolist() == [1.0, 1.0]


def test_random_attention_is_a_distribution_set_by_its_seed():
    first, again, other = (random_attention((2, 3, 4, 5), seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.sum((-2, -1)), torch.ones(2, 3))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("share", "area"), [(0.0, 0), (0.25, 4 * 8), (1.0, 8 * 16)])
def test_the_centred_square_has_its_area_and_lies_in_the_centre(share, area):
    square = centred_square(8, 16, area_share=share)
    assert int(square.sum()) == area
    assert torch.equal(square, square.flip(0, 1))
    assert bool(square[3:5, 7:9].all()) == (area > 0)


def test_attention_on_the_object_alone_is_perfect_and_the_controls_are_not():
    masks = objects(40)
    attention = masks[:, None].float().expand(-1, 3, -1, -1)
    result = metric_of(attention, masks, mass=1.0).compute()
    assert (float(result["best_head"]), float(result["head_mean"])) == (1.0, 1.0)
    assert result["random"] < 0.6 and result["centred_square"] < 0.6


def test_a_centred_object_is_found_by_the_square():
    masks = centred_square(100, 100, area_share=0.09).expand(3, -1, -1)
    result = metric_of(torch.rand(3, 2, 10, 10, generator=torch.Generator().manual_seed(0)), masks).compute()
    assert float(result["centred_square"]) == 1.0


def test_random_attention_scores_as_the_random_control_does():
    masks = objects(300)
    attention = random_attention((300, 6, 8, 8), seed=9)
    result = {name: float(value) for name, value in metric_of(attention, masks).compute().items()}
    assert result["random"] == pytest.approx(result["head_mean"], abs=0.02)
    assert result["random_best_head"] == pytest.approx(result["best_head"], abs=0.02)
    assert result["random_best_head"] > result["random"]


def test_processes_and_batches_give_what_one_gives():
    masks = objects(10)
    attention = random_attention((10, 3, 8, 8), seed=2)
    whole = metric_of(attention, masks).compute()
    first, second = metric_of(attention[::2][:3], masks[::2][:3]), metric_of(attention[1::2], masks[1::2])
    first.update(attention[::2][3:], masks[::2][3:])
    first.merge_state(second)
    merged = first.compute()
    assert merged.keys() == {"best_head", "head_mean", "random_best_head", "random", "centred_square"}
    for name, value in whole.items():
        torch.testing.assert_close(merged[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_the_means_are_those_of_the_pictures():
    masks = objects(7)
    attention = random_attention((7, 3, 8, 8), seed=2)
    best, mean = attention_jaccard(attention, masks, mass=0.6)
    square = centred_square(32, 32, area_share=round(100 * float(masks.float().mean())) / 100)
    result = metric_of(attention, masks).compute()
    torch.testing.assert_close(result["best_head"], best.mean())
    torch.testing.assert_close(result["head_mean"], mean.mean())
    torch.testing.assert_close(result["centred_square"], jaccard(square, masks).mean())
