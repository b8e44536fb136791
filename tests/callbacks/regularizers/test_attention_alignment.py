import math

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from callbacks.regularizers.attention_alignment import (
    AttentionAlignment,
    attention_alignment_loss,
    merge_columns,
    word_attention,
)
from callbacks.step import Needs
from lightning_modules.captures import Captures
from models.attention import AttentionRecord, attention_maps, grouped_attention
from models.columns import TokenColumns, token_columns
from tests.steps import diffusion_step

DIVERGENCES = ("mse", "kl")
A, PHOTO, OF, SKS, DOG = 1, 2, 3, 4, 5


def random_maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def sks_dog_columns(length):
    student, reference = token_columns(
        [A, PHOTO, OF, SKS, DOG], [A, PHOTO, OF, DOG], identifier=[SKS], class_word=[DOG], others=[], length=length
    )
    return torch.tensor([student]), torch.tensor([reference])


def test_maps_by_hand():
    # Two heads of one channel: logits 0 and ln 3 in the first, 0 and 2 ln 3 in the second.
    query = torch.tensor([[[[1.0]], [[2.0]]]])
    key = torch.tensor([[[[0.0], [2 * math.log(3)]]] * 2]).view(1, 2, 2, 1)
    expected = torch.tensor([[[[1 / 4, 3 / 4]], [[1 / 10, 9 / 10]]]])
    torch.testing.assert_close(attention_maps(query, key, scale=0.5), expected)


def test_maps_are_those_that_diffusers_attends_with():
    torch.manual_seed(0)
    attention = Attention(query_dim=6, cross_attention_dim=5, heads=3, dim_head=4)
    query, key = attention.to_q(torch.randn(2, 7, 6)), attention.to_k(torch.randn(2, 9, 5))
    expected = attention.get_attention_scores(attention.head_to_batch_dim(query), attention.head_to_batch_dim(key))
    query, key = (each.unflatten(-1, (3, 4)).transpose(1, 2) for each in (query, key))
    actual = attention_maps(query, key, scale=attention.scale)
    torch.testing.assert_close(actual, expected.unflatten(0, (2, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention_maps(query, key, scale=attention.scale), actual)
    assert attention_maps(query.bfloat16(), key.bfloat16(), scale=0.5).dtype == torch.float32


@pytest.mark.parametrize("num_groups", [3, 11])
def test_grouped_attention_is_the_explicit_softmax_added_up(num_groups):
    """With more groups than channels too, and so is its gradient."""
    rng = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, n, 8, generator=rng).requires_grad_() for n in (5, 9))
    groups = torch.randint(num_groups, (2, 9), generator=rng)
    cotangent = torch.randn(2, 3, 5, num_groups, generator=rng)
    grouped = grouped_attention(query, key, groups, num_groups=num_groups, scale=0.7)
    maps = (query.double() @ key.double().mT * 0.7).softmax(-1)
    explicit = torch.stack([(maps * (groups == g)[:, None, None]).sum(-1) for g in range(num_groups)], -1)
    torch.testing.assert_close(grouped.double(), explicit, rtol=0, atol=1e-6)
    torch.testing.assert_close(grouped.sum(-1), torch.ones(2, 3, 5))
    one, other = (torch.autograd.grad((each * cotangent).sum(), (query, key)) for each in (grouped, explicit))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("text_first", [True, False])
def test_words_of_joint_attention_beside_the_pictures_own_keys(text_first):
    """Two rows of three text columns and four of the picture, of a record with a row more than the groups have."""
    rng = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, 2, 7, 4, generator=rng)
    text, image = (slice(0, 3), slice(3, 7)) if text_first else (slice(4, 7), slice(0, 4))
    record = AttentionRecord(query, key, 0.5, text_columns=text, image_rows=image)
    assert record.is_joint and not AttentionRecord(query, key, 0.5, slice(None), slice(None)).is_joint
    words = word_attention(record, torch.tensor([[0, 1, 1], [0, 0, 2]]), num_groups=3)
    maps = attention_maps(query, key, scale=0.5)[:2, :, image]
    one, two, three = maps[..., text].unbind(-1)
    expected = torch.stack([one, two + three, torch.zeros_like(one)], -1)
    expected[1] = torch.stack([one + two, torch.zeros_like(one), three], -1)[1]
    torch.testing.assert_close(words[..., :3], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(words[..., 3], maps[..., slice(3, 7) if text_first else slice(0, 4)].sum(-1))


def test_merging_adds_up_the_columns_of_a_group():
    maps = torch.tensor([[[[0.1, 0.2, 0.3, 0.4]]], [[[0.4, 0.3, 0.2, 0.1]]]])
    merged = merge_columns(maps, torch.tensor([[0, 1, 1, 2], [2, 0, 2, 2]]))
    torch.testing.assert_close(merged, torch.tensor([[[[0.1, 0.5, 0.4, 0]]], [[[0.3, 0, 0.7, 0]]]]))


def test_merged_rows_sum_to_one():
    groups, _ = sks_dog_columns(length=12)
    merged = merge_columns(random_maps(2, 3, 4, 12), groups.expand(2, -1))
    torch.testing.assert_close(merged.sum(-1), torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    ("divergence", "loss"),
    [("mse", 2 * 0.25**2), ("kl", 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))],
)
def test_loss_by_hand(divergence, loss):
    student, reference = torch.tensor([0.25, 0.75, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    shape = (1, 1, 1, 3)
    actual = attention_alignment_loss(student.view(shape), reference.view(shape), divergence=divergence)
    assert actual.item() == pytest.approx(loss, rel=1e-5)
    # Summed over tokens, averaged over rows, heads and queries: seven of eight queries agree.
    student = torch.where(torch.arange(8).view(2, 2, 2, 1) == 0, student, reference)
    actual = attention_alignment_loss(student, reference.expand_as(student), divergence=divergence)
    assert actual.item() == pytest.approx(loss / 8, rel=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_zero_for_equal_maps_and_positive_otherwise(divergence):
    maps = [random_maps(2, 2, 3, 5, seed=seed) for seed in range(5)]
    for i, student in enumerate(maps):
        for j, reference in enumerate(maps):
            loss = attention_alignment_loss(student, reference, divergence=divergence).item()
            assert loss == 0 if i == j else loss > 1e-3


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_an_identifier_that_shares_its_words_attention_changes_nothing(divergence):
    """ "a photo of sks dog" that attends as "a photo of dog" does, however a group's mass is split over its columns."""
    reference = random_maps(1, 2, 3, 9)
    start, words, dog, end = reference.split([1, 3, 1, 4], dim=-1)
    share = torch.rand(1, 2, 3, 1, generator=torch.Generator().manual_seed(1))
    end = end.sum(-1, keepdim=True)
    student = torch.cat([start, words, share * dog, (1 - share) * dog, end / 2, end / 4, end / 4], dim=-1)
    columns = sks_dog_columns(length=9)
    merged = merge_columns(student, columns[0]), merge_columns(reference, columns[1])
    assert attention_alignment_loss(*merged, divergence=divergence).item() == pytest.approx(0, abs=1e-6)
    assert attention_alignment_loss(student, reference, divergence=divergence).item() > 1e-3  # by position: wrong

    queries, heads = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    other = random_maps(1, 2, 3, 9, seed=2)
    loss = attention_alignment_loss(other, reference, divergence=divergence)
    permuted = (maps[:, heads][:, :, queries] for maps in (other, reference))
    torch.testing.assert_close(attention_alignment_loss(*permuted, divergence=divergence), loss)


class Block(nn.Module):
    def __init__(self, site_count):
        super().__init__()
        self.attentions = nn.ModuleList(
            Attention(query_dim=6, cross_attention_dim=5, heads=2 + number, dim_head=4) for number in range(site_count)
        )

    def forward(self, hidden, text):
        for attention in self.attentions:
            hidden = attention(hidden, text)
        return hidden


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_plugin_averages_over_layers_and_takes_the_subjects_rows(divergence):
    torch.manual_seed(0)
    model, frozen = Block(2), Block(2)
    plugin = AttentionAlignment(weight=1, sites=["attentions.[01]"], divergence=divergence)
    captures = [Captures(each, plugin.needs) for each in (model, frozen)]
    hidden, text = torch.randn(2, 7, 6), torch.randn(2, 9, 5)

    def step(reference_model, capture, rows):
        columns = TokenColumns(*(groups.expand(rows, -1) for groups in sks_dog_columns(length=9)))
        with captures[0].recording() as recorded:
            prediction = model(hidden, text)
        with capture.recording() as reference_recorded:
            reference = reference_model(hidden[:rows], text[:rows])
        return diffusion_step(
            prediction, reference=reference, recorded=recorded, reference_recorded=reference_recorded,
            num_instance=rows, token_columns=columns,
        )  # fmt: skip

    def expected(step):
        losses = []
        for i, attention in enumerate(model.attentions):
            maps = []
            for each, groups in (
                (step.student.attention, step.token_columns.student),
                (step.reference.attention, step.token_columns.reference),
            ):
                query, key = (getattr(each[f"attentions.{i}"], p)[: step.num_instance] for p in ("query", "key"))
                assert query.shape[1:] == (2 + i, 7, 4) and key.shape[1:] == (2 + i, 9, 4)
                maps.append(merge_columns(attention_maps(query, key, scale=attention.scale), groups))
            losses.append(attention_alignment_loss(*maps, divergence=divergence))
        return sum(losses) / 2

    one_row = step(frozen, captures[1], 1)
    torch.testing.assert_close(plugin.loss(one_row).loss, expected(one_row))
    assert plugin.loss(one_row).loss.item() > 1e-4
    plugin.loss(one_row).loss.backward()
    assert all(getattr(a, p).weight.grad.any() for a in model.attentions for p in ("to_q", "to_k"))

    same = step(model, captures[0], 2)
    same = diffusion_step(
        same.student.prediction, reference=same.reference.prediction,
        recorded={"attention": same.student.attention}, reference_recorded={"attention": same.reference.attention},
        token_columns=TokenColumns(*[same.token_columns.student] * 2),
    )  # fmt: skip
    assert plugin.loss(same).loss.item() == 0


def test_settings():
    plugin = AttentionAlignment(weight=1, sites=["text"], divergence="mse")
    assert plugin.needs == Needs(reference=True, attention=frozenset({"text"}), token_columns=True)
    with pytest.raises(ValueError, match="divergence=l1"):
        AttentionAlignment(weight=1, sites=["*"], divergence="l1")
