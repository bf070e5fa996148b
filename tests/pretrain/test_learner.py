"""A step on the pretended CUDA device, the averaged weights, the way to the device, and one compiled graph."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_map

from pretrain import learner
from pretrain.config import load_pretrain_config
from pretrain.data.transfer import SideStream
from pretrain.evaluation import evaluate
from pretrain.learner import Learner
from pretrain.run.checkpoint import load_checkpoint, save_checkpoint
from pretrain.run.processes import SINGLE_CPU_PROCESS, Processes
from pretrain.run_state import restore, run_state
from tests.pretended_cuda import pretended_cuda

IN_BLOCKS = ("dropblock", "stochastic_depth")  # these need a ResNet
METHODS = ("cutout", "mixup", "manifold_mixup", "cutmix", "resizemix", "saliencymix", *IN_BLOCKS)


def make_learner(*opts, processes=SINGLE_CPU_PROCESS):
    torch.manual_seed(0)
    made = Learner(load_pretrain_config(None, ["MODEL.ARCH", "resnet18_cifar", *opts]), 10, processes)
    made.network.train()
    return made


def a_batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (4,), generator=generator)


def take_step(one):
    return one.step([a_batch()], lr=0.1, progress=0.5)


@pytest.fixture
def tiny_net(monkeypatch, tiny_run):
    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: tiny_run.TinyNet(classes))


@pytest.mark.parametrize("opts", [
    *(["PRECISION", precision, "SOLVER.EMA_DECAY", decay]
      for precision in ("float32", "bfloat16", "float16") for decay in ("0.0", "0.9")),
    *(["MIXING.METHOD", method] for method in METHODS),
    *(["SOLVER.LABEL_SMOOTHING", "0.1", "SOLVER.WEIGHT_DECAY_NORM", "0", "MIXING.METHOD", method]
      for method in ("baseline", "saliencymix")),
], ids=" ".join)  # fmt: skip
def test_step__never_waits_for_the_gpu(opts, request):
    if opts[1] not in IN_BLOCKS:
        request.getfixturevalue("tiny_net")
    with pretended_cuda() as device:
        one = make_learner(*opts, processes=Processes(torch.device("cuda")))
        take_step(one)
        device.forget()
        take_step(one)
        assert not device.waits


@pytest.mark.parametrize("mixes", ["1.0", "0.0"])
def test_step__the_official_map_of_one_picture_is_made_before_the_copy(tiny_net, mixes):
    opts = ["MIXING.METHOD", "saliencymix", "MIXING.SALIENCY", "official", "MIXING.PROB", mixes]
    losses, launches = [], {}
    for scope in ("image", "batch"):
        with pretended_cuda() as device:
            one = make_learner(*opts, "MIXING.SCOPE", scope, processes=Processes(torch.device("cuda")))
            torch.manual_seed(2)
            losses.append(take_step(one).item())
            device.forget()
            take_step(one)
            launches[scope] = device.launches.total()
            assert not device.waits
    if mixes == "1.0":
        assert launches["batch"] < launches["image"] - 200
    here = make_learner(*opts, "MIXING.SCOPE", "batch")
    torch.manual_seed(2)
    assert take_step(here).item() == losses[1]


def test_step__counts_labels_by_area_and_waits_for_nobody(tiny_net):
    """The label by saliency where the box is one for the batch, and the map is that of the official code, too."""
    opts = ["MIXING.METHOD", "saliencymix", "MIXING.LABEL", "absolute"]
    flat = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), a_batch()[1]
    for scope, saliency in (("image", "fine_grained"), ("batch", "official")):
        with pretended_cuda() as device:
            where = Processes(torch.device("cuda"))
            one = make_learner(*opts, "MIXING.SCOPE", scope, "MIXING.SALIENCY", saliency, processes=where)
            take_step(one)
            one.take_area_labels()
            device.forget()
            take_step(one)
            one.step([flat, flat], lr=0.1, progress=0.5)
            assert not device.waits
            counted = one.take_area_labels()
            assert counted.device.type == "cuda"
            if saliency == "fine_grained":  # the official map reads bytes, of which a flat picture has several
                assert counted.item() == 8
            assert one.take_area_labels() == 0
    assert make_learner("MIXING.METHOD", "saliencymix").take_area_labels() is None


def test_step__the_average_takes_two_launches(tiny_net):
    launches = []
    for decay in ("0.0", "0.9"):
        with pretended_cuda() as device:
            one = make_learner("SOLVER.EMA_DECAY", decay, processes=Processes(torch.device("cuda")))
            take_step(one)
            device.forget()
            take_step(one)
            launches.append(device.launches.total())
    assert launches[1] - launches[0] == 2  # of the weights and statistics, and of BatchNorm's counters


def test_step__averages_tensor_by_tensor():
    one = make_learner("SOLVER.EMA_DECAY", "0.9")
    expected = copy.deepcopy(one.averaged.state_dict())
    for _ in range(3):
        take_step(one)
        for name, new in one.network.state_dict().items():
            expected[name] = expected[name].lerp(new, 1 - 0.9) if new.is_floating_point() else new
    found = one.averaged.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found["bn1.num_batches_tracked"] == 3


class Streams:
    """Two streams of a GPU that is none; ``done`` is what was asked of them, in order."""

    def __init__(self, monkeypatch):
        self.done, self.current = [], "computing"
        monkeypatch.setattr(torch.cuda, "Stream", lambda _device: "copying")
        monkeypatch.setattr(torch.cuda, "stream", self.within)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: self)
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, **options: self.copy(tensor, device, **options))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda _tensor, stream: self.done.append("recorded"))

    def within(self, stream):
        self.current = stream
        return nullcontext()

    def copy(self, tensor, device, *, non_blocking):
        assert (device, non_blocking) == ("gpu", True)
        self.done.append(f"copied while {self.current}")
        return tensor.clone()

    def wait_stream(self, stream):
        self.done.append(f"computing waits for {stream}")


def test_side_stream__the_computation_waits_for_the_copy_and_keeps_it(monkeypatch):
    streams = Streams(monkeypatch)
    tensor = torch.arange(3)
    assert torch.equal(SideStream("gpu")(tensor), tensor)
    assert streams.done == ["copied while copying", "computing waits for copying", "recorded"]


@pytest.mark.slow  # the compiler takes about half a minute
def test_step__compiled_is_one_graph_in_training_and_one_in_evaluation(monkeypatch, tiny_run):
    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: tiny_run.StatelessNet(classes))
    opts = ("MIXING.METHOD", "saliencymix", "SOLVER.LABEL_SMOOTHING", "0.1", "SOLVER.WEIGHT_DECAY_NORM", "0")
    eager, compiled = make_learner(*opts), make_learner("COMPILE", "True", *opts)
    losses = {}
    for one in (eager, compiled):
        counters.clear()
        torch.manual_seed(2)
        losses[one] = [take_step(one) for _ in range(2)]
        evaluate(one.network, [a_batch()] * 2, one.prepare)
        losses[one] += [take_step(one)]
    torch.testing.assert_close(losses[compiled], losses[eager], rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("first, then", [("cpu", "cuda"), ("cuda", "cpu")])
def test_restore__a_run_goes_on_where_another_device_began_it(tmp_path, monkeypatch, tiny_net, precision, first, then):
    """Both parts take the kernels of their own device, and a scaler that has scaled nothing yet has no more to say."""
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _device: torch.set_rng_state(state))
    opts = ["PRECISION", precision, "SOLVER.WEIGHT_DECAY_NORM", "0"]
    cfg = load_pretrain_config(None, opts)
    evaluated = {"metrics": {}, "ema_metrics": {}, "iteration": 0, "best_top1_error": 1.0}
    with pretended_cuda():
        for place in (first, then):
            processes = Processes(torch.device(place))
            one = make_learner(*opts, processes=processes)
            if place == then:
                state = load_checkpoint(tmp_path / "a.pth")
                assert restore(state, tmp_path / "a.pth", cfg, one, ["a"], processes) == 1
            take_step(one)
            assert [group["fused"] for group in one.optimizer.param_groups] == [True if place == "cuda" else None] * 2
            state = run_state(cfg, one, ["a"], processes, iteration=1, epoch_iters=1, evaluated=evaluated)
            save_checkpoint(on_cpu(state), tmp_path / "a.pth")


def on_cpu(state):
    return tree_map(lambda value: value.cpu() if isinstance(value, torch.Tensor) else value, state)
