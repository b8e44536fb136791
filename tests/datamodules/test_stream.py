import itertools

import pytest
import torch

from datamodules import draws
from datamodules.draws import DrawStream
from datamodules.stream import Stream, StreamLoader, epoch_order

SEED, SIZE = 7, 11


def rows(batch_size, *, batches, start=0, seed=SEED, **ranks):
    return list(Stream(SIZE, batch_size, batches=batches, start=start, seed=seed, **ranks))


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def test_index_is_a_function_of_the_position_alone():
    reference = dict(flat(rows(1, batches=60)))
    assert list(reference) == list(range(60))
    for batch_size in (2, 3, 5):
        assert dict(flat(rows(batch_size, batches=60 // batch_size))) == reference
    assert dict(flat(rows(1, batches=60, seed=SEED + 1))) != reference


@pytest.mark.parametrize("start", [0, 1, 13])
def test_resumes_where_it_stopped(start):
    assert rows(4, batches=20, start=start) == rows(4, batches=20)[start:]
    assert len(Stream(SIZE, 4, batches=20, start=start, seed=SEED)) == 20


def test_ranks_together_equal_one_process():
    ranks = [rows(2, batches=9, rank=rank, world_size=3) for rank in range(3)]
    assert [flat(batch) for batch in zip(*ranks, strict=True)] == rows(6, batches=9)


def test_every_epoch_is_another_permutation():
    indices = [index for _, index in flat(rows(1, batches=4 * SIZE))]
    epochs = [tuple(indices[i : i + SIZE]) for i in range(0, 4 * SIZE, SIZE)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len(set(epochs)) == 4
    assert tuple(epoch_order(SEED, 2, SIZE)) == epochs[2]


def test_loader_keeps_no_state():
    stream = Stream(SIZE, 2, batches=5, start=3, seed=SEED)
    loader = StreamLoader([*zip(range(SIZE))], batch_sampler=stream, collate_fn=list)
    assert (len(loader), loader.state_dict()) == (5, {})


DRAWS = {
    "normal": lambda positions, stream, seed: draws.normal(seed, stream, positions, (2, 3)),
    "integers": lambda positions, stream, seed: draws.integers(seed, stream, positions, 1000),
    "uniform": lambda positions, stream, seed: draws.uniform(seed, stream, positions),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_functions_of_seed_stream_and_position(draw):
    positions = torch.arange(100, 200)
    whole = draw(positions, DrawStream.NOISE, 0)
    torch.testing.assert_close(
        torch.cat([draw(p, DrawStream.NOISE, 0) for p in positions.split(7)]), whole, rtol=0, atol=0
    )
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(draw(positions[order], DrawStream.NOISE, 0), whole[order], rtol=0, atol=0)
    for other in (
        draw(positions, DrawStream.CLASS_NOISE, 0),
        draw(positions, DrawStream.NOISE, 1),
        draw(positions + 1, DrawStream.NOISE, 0),
    ):
        # Independent draws of one in a thousand agree in 0.1 of 100 rows on average.
        assert (other == whole).view(100, -1).all(1).sum() < 5


def test_neighbouring_positions_share_no_numbers():
    # Counters that follow one another closely would give the same numbers, shifted by a few places.
    first, second = draws.normal(SEED, DrawStream.NOISE, torch.tensor([5, 6]), (256,)).tolist()
    assert len({*first} & {*second}) < 3


def test_draws_have_their_distributions():
    positions = torch.arange(4000)
    noise = draws.normal(SEED, DrawStream.NOISE, positions, (4,))
    assert noise.dtype == torch.float32
    assert (noise.mean().item(), noise.std().item()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))
    assert torch.corrcoef(torch.stack([noise[:-1, 0], noise[1:, 0]]))[0, 1].abs() < 0.06  # neighbours share nothing
    timesteps = draws.integers(SEED, DrawStream.TIMESTEP, positions, 10)
    assert (timesteps.bincount(minlength=10) - 400).abs().max() < 100  # 5 σ
    uniform = draws.uniform(SEED, DrawStream.AUGMENT, positions)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.025)
