"""The order of samples: what resuming, workers and processes must not change."""

import pytest

from pretrain.data.sampling import EvalBatches, TrainBatches, mix_seed


def test_train_batches__each_epoch_is_a_permutation_without_the_partial_batch():
    batches = list(TrainBatches(11, 3, seed=0, start=0, stop=6))  # 3 batches an epoch, two epochs
    epochs = [[index for batch in batches[first : first + 3] for index, _ in batch] for first in (0, 3)]
    assert all(len(set(epoch)) == 9 and set(epoch) < set(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len({seed for batch in batches for _, seed in batch}) == 18  # a picture is augmented anew in each epoch


def test_train_batches__resuming_goes_on_with_the_next_sample():
    whole = list(TrainBatches(11, 3, seed=4, start=0, stop=9))
    assert list(TrainBatches(11, 3, seed=4, start=4, stop=9)) == whole[4:]
    assert list(TrainBatches(11, 3, seed=5, start=0, stop=9)) != whole


def test_train_batches__refuses_a_batch_larger_than_the_data():
    with pytest.raises(ValueError, match=r"SOLVER\.BATCH_SIZE is 12, but there are only 11 training pictures"):
        TrainBatches(11, 12, seed=0, start=0, stop=1)


def test_eval_batches__every_sample_once_in_order():
    assert [[i for i, _ in batch] for batch in EvalBatches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert len(EvalBatches(5, 2)) == 3


def test_mix_seed__depends_on_every_part_and_order():
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("world_size, parts", [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_train_batches__shares_and_parts_make_up_the_batch_of_one_process(world_size, parts):
    whole = list(TrainBatches(30, 6, seed=1, start=2, stop=8))
    shares = [
        iter(TrainBatches(30, 6, seed=1, start=2, stop=8, rank=rank, world_size=world_size, parts=parts))
        for rank in range(world_size)
    ]
    for batch in whole:
        assert [sample for share in shares for _ in range(parts) for sample in next(share)] == batch
    assert all(next(share, None) is None for share in shares)


@pytest.mark.parametrize("batch_size, world_size, parts, works", [(7, 2, 1, 8), (10, 3, 1, 9), (5, 2, 4, 8)])
def test_train_batches__refuses_an_indivisible_batch_with_a_number_that_works(batch_size, world_size, parts, works):
    message = rf"BATCH_SIZE is {batch_size}, which {world_size} processes .* cannot share equally; try {works}$"
    with pytest.raises(ValueError, match=message):
        TrainBatches(100, batch_size, seed=0, start=0, stop=1, world_size=world_size, parts=parts)
    TrainBatches(100, works, seed=0, start=0, stop=1, world_size=world_size, parts=parts)


def test_eval_batches__processes_share_the_same_batches():
    whole = list(EvalBatches(11, 2))
    shares = [list(EvalBatches(11, 2, rank=rank, world_size=4)) for rank in range(4)]
    assert [shares[number % 4][number // 4] for number in range(6)] == whole
    assert [len(share) for share in shares] == [2, 2, 1, 1]
