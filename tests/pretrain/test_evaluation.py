"""Top-1 and top-5 error, by hand."""

import math

import pytest
import torch
from torch import nn

from pretrain.evaluation import evaluate
from pretrain.run.processes import Processes
from tests.pretended_cuda import pretended_cuda

ON_GPU = Processes(torch.device("cuda"))


class Scores(nn.Module):
    """Reads the logits off the first row of the picture."""

    def forward(self, images):
        return images[:, 0, 0]


def batches(rows, labels, size):
    pictures = torch.tensor(rows, dtype=torch.uint8)[:, None, None, :].expand(-1, 3, 1, -1)
    return list(zip(pictures.split(size), torch.tensor(labels).split(size), strict=True))


@pytest.mark.parametrize("size", [1, 3, 4])
def test_evaluate__known_errors(size):
    rows = [[9, 5, 4, 3, 2, 1], [9, 5, 4, 3, 2, 1], [9, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 9]]
    result = evaluate(Scores(), batches(rows, [0, 4, 5, 5], size), lambda images: images.float())
    assert result["top1_error"] == 50.0  # pictures 1 and 2 are wrong
    assert result["top5_error"] == 25.0  # picture 2 has its class on the sixth place
    assert result["num_images"] == 4


@pytest.mark.parametrize("size", [1, 2, 4])
def test_evaluate__the_loss_is_the_mean_over_what_counts(size):
    """By hand: a class that is e times likelier costs ln(1 + 1/e); of equal ones ln 2; one that is e^2 times rarer."""
    rows, labels = [[1, 0], [7, 7], [0, 2], [9, 0]], [0, 1, 0, -1]
    by_hand = (math.log(1 + math.exp(-1)) + math.log(2) + math.log(1 + math.exp(2))) / 3
    result = evaluate(Scores(), batches(rows, labels, size), lambda images: images.float())
    assert result["loss"] == pytest.approx(by_hand, rel=1e-6)


def test_evaluate__fewer_than_five_classes_and_the_mode_is_restored():
    model = Scores()
    assert evaluate(model, batches([[1, 2], [2, 1]], [0, 0], 2), lambda images: images.float())["top5_error"] == 0.0
    assert model.training


def test_evaluate__leaves_out_what_could_not_be_read():
    rows = [[9, 5], [9, 5], [5, 9]]
    result = evaluate(Scores(), batches(rows, [0, -1, 0], 2), lambda images: images.float())
    assert (result["top1_error"], result["num_images"]) == (50.0, 2)


def test_evaluate__refuses_when_nothing_could_be_read():
    with pytest.raises(ValueError, match="no validation picture can be read"):
        evaluate(Scores(), batches([[9, 5]], [-1], 1), lambda images: images.float())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_evaluate__refuses_answers_that_are_no_numbers(value):
    """Their order would be an accuracy: that of always saying the first class."""
    with pytest.raises(FloatingPointError, match=r"the loss on the validation pictures is (nan|inf)"):
        evaluate(Scores(), batches([[9, 5], [5, 9]], [0, 1], 1), lambda images: images.float() * value)


def test_evaluate__waits_for_the_gpu_once():
    rows, labels = [[1, 0], [7, 7], [0, 2], [9, 0]], [0, 1, 0, -1]
    with pretended_cuda() as device:
        result = evaluate(
            Scores(), batches(rows, labels, 1), lambda images: images.to("cuda", non_blocking=True).float(), ON_GPU
        )
        assert (result["top1_error"], result["num_images"]) == (pytest.approx(200 / 3), 3)  # of equals the first counts
        assert device.waits.total() == 1
