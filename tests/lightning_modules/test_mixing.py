import pytest
import torch

from lightning_modules.mixing import Mix, box_mask, mix

POSITIONS = torch.arange(200)
NODE = {"cutmix_alpha": 1.0, "mixup_alpha": 0.8, "switch_probability": 0.5}


def pictures(count: int = 200, height: int = 8, width: int = 12) -> torch.Tensor:
    """Row `i` is `i` all over."""
    return torch.arange(count).float()[:, None, None, None].expand(count, 3, height, width)


def masks(seed: int = 0, positions: torch.Tensor = POSITIONS, **settings) -> torch.Tensor:
    return mix(pictures(len(positions)), positions, seed=seed, **NODE | settings)[1].mask


def is_box(mask: torch.Tensor) -> torch.Tensor:
    return ((mask == 0) | (mask == 1)).flatten(1).all(1)


@pytest.mark.parametrize(
    ("share", "centre", "zeros"),
    [
        (0.75, (4, 6), {(row, column) for row in range(2, 6) for column in range(3, 9)}),  # half of 8 and of 12
        (0.75, (0, 0), {(row, column) for row in range(2) for column in range(3)}),
        (0.75, (7, 11), {(row, column) for row in (5, 6, 7) for column in (8, 9, 10, 11)}),
        (1.0, (0, 0), set()),
        (0.0, (4, 6), {(row, column) for row in range(8) for column in range(12)}),
    ],
)
def test_box_by_hand(share, centre, zeros):
    mask = box_mask(share, centre, 8, 12)
    assert {tuple(place) for place in (mask == 0).nonzero().tolist()} == zeros
    assert mask.sum() == 96 - len(zeros)


def test_a_row_is_itself_where_the_mask_is_1_and_the_next_row_where_it_is_0():
    mixed, mixing = mix(pictures(3), torch.tensor([5, 6, 7]), seed=0, **NODE | {"switch_probability": 1.0})
    assert mixing.partner.tolist() == [1, 2, 0] and is_box(mixing.mask).all()
    for row, partner in enumerate([1, 2, 0]):
        own = mixing.mask[row].bool().expand(3, 8, 12)
        assert (mixed[row][own] == row).all() and (mixed[row][~own] == partner).all()
    assert 0 < mixing.mask.mean() < 1


def test_mixup_is_a_weighted_mean():
    mixed, mixing = mix(pictures(2), torch.tensor([5, 6]), seed=0, **NODE | {"switch_probability": 0.0})
    share = mixing.mask[:, 0, 0]
    assert (mixing.mask == share[:, None, None]).all() and ((share > 0) & (share < 1)).all() and share[0] != share[1]
    torch.testing.assert_close(mixed[:, 0, 0, 0], torch.stack([1 - share[0], share[1]]))


def test_draws_depend_on_seed_and_position_alone():
    rows = masks()
    assert torch.equal(rows[[7, 3]], masks(positions=torch.tensor([7, 3])))
    assert not torch.equal(rows, masks(seed=1))
    assert len({tuple(row.flatten().tolist()) for row in rows}) > 150


@pytest.mark.parametrize(
    ("probability", "low", "high"), [(0.0, 0, 0), (0.5, 70, 130), (0.8, 135, 185), (1.0, 200, 200)]
)
def test_the_switch_is_the_chance_of_cutmix(probability, low, high):
    assert low <= is_box(masks(switch_probability=probability)).sum() <= high


@pytest.mark.parametrize(("off", "boxes"), [("cutmix_alpha", 0), ("mixup_alpha", 200)])
def test_alpha_0_leaves_one_out_whatever_the_switch_says(off, boxes):
    node = Mix(**NODE | {off: 0})
    assert is_box(node(pictures(), POSITIONS, seed=0)[1].mask).sum() == boxes


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 1 / 5.6)])
def test_shares_are_beta_distributed(alpha, variance):
    """The variance of Beta(α, α) is 1 / (4 (2α + 1)); 0.02 are three standard errors."""
    shares = masks(mixup_alpha=alpha, switch_probability=0.0)[:, 0, 0]
    assert shares.mean().item() == pytest.approx(0.5, abs=0.1)
    assert shares.var().item() == pytest.approx(variance, abs=0.02)


def test_pictures_keep_their_dtype():
    mixed, mixing = mix(pictures(2).half(), torch.tensor([0, 1]), seed=0, **NODE)
    assert mixed.dtype == torch.float16 and mixing.mask.dtype == torch.float32


def test_refuses_a_batch_of_one():
    with pytest.raises(ValueError, match=r"datamodule.batch_size=1"):
        Mix(**NODE)(pictures(1), torch.tensor([0]), seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutmix_alpha": -1}, r"module.mixing.cutmix_alpha=-1: at least 0"),
        ({"mixup_alpha": -0.1}, r"module.mixing.mixup_alpha=-0.1: at least 0"),
        ({"cutmix_alpha": 0, "mixup_alpha": 0}, r"module.mixing.cutmix_alpha=0 and mixup_alpha=0 mix nothing"),
        ({"switch_probability": 1.5}, r"module.mixing.switch_probability=1.5: between 0 and 1"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Mix(**NODE | settings)
