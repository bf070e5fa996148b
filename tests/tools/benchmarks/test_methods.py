"""The interleaved timing of methods: order, ratios and costs by clocks of our own; the data path; what it refuses."""

from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from pretrain import learner
from pretrain.config import load_pretrain_config
from pretrain.data.sampling import TrainBatches
from pretrain.names import METHODS
from tools.benchmarks import methods, timing
from tools.benchmarks.methods import benchmark, load_runs, mixes, table

CONFIGS = Path(__file__).parents[3] / "pretrain/configs"
BASELINE, CUTMIX, SALIENCYMIX = (
    str(CONFIGS / f"cifar10_r18_{method}.yaml") for method in ("baseline", "cutmix", "saliencymix")
)
RUNS = [["plain", BASELINE], ["cut", CUTMIX], ["salient", SALIENCYMIX]]
OPTS = ["DEVICE", "cpu", "SOLVER.BATCH_SIZE", "4", "DATA.NUM_WORKERS", "0"]


@pytest.fixture
def measure():
    """Return a function that takes the times in one thread, where the CPU clock counts."""
    threads = torch.get_num_threads()

    def run(*opts, runs=(), rounds=2, iterations=1, num_threads=1):
        torch.set_num_threads(num_threads)
        return benchmark(load_runs([*RUNS, *runs], [*OPTS, *opts]), rounds, iterations)

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def world(monkeypatch):
    """Learners and clocks that stand still until somebody works.

    ``step``: method -> the seconds of its steps, one after the other; ``turns``: the methods whose steps were done, in
    order; ``labels``: of each batch. The wall clock shows ten times the CPU's seconds, forty times during the baseline.
    """
    world = SimpleNamespace(cpu=0.0, wall=0.0, turns=[], labels=[])
    world.step = {"baseline": repeat(2.0), "cutmix": repeat(3.0), "saliencymix": repeat(4.0)}

    def work(method, seconds):
        world.cpu += seconds
        world.wall += seconds * (40 if method == "baseline" else 10)

    class FakeLearner:
        def __init__(self, cfg, num_classes, processes):
            self.method, self.device = cfg.MIXING.METHOD, processes.device
            self.network = nn.Linear(1, num_classes)
            self.mixing = None if self.method == "baseline" else lambda images, labels: work(self.method, 0.25)

        def step(self, parts, *, lr, progress):
            world.turns.append(self.method)
            world.labels += [labels.tolist() for _, labels in parts]
            work(self.method, next(world.step[self.method]))

    monkeypatch.setattr(methods, "Learner", FakeLearner)
    monkeypatch.setattr(
        timing, "time", SimpleNamespace(perf_counter=lambda: world.wall, process_time=lambda: world.cpu)
    )
    return world


@pytest.fixture
def class_folders(tmp_path):
    """The root of twelve training pictures in two classes of six."""
    for split, count in (("train", 6), ("val", 1)):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40, 40), (20 * number, 90, 200)).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_benchmark__turns_of_iterations_in_mirrored_order_after_a_warm_up(measure, world):
    measure(rounds=2, iterations=3)
    assert len(world.turns) == 3 * 3 * 3  # runs, rounds with that of the warm-up, iterations
    assert world.turns[::3] == world.turns[1::3] == world.turns[2::3]  # the iterations of a turn are one run's
    assert world.turns[9::3] == [
        "baseline",
        "cutmix",
        "saliencymix",  # round 0
        "saliencymix",
        "cutmix",
        "baseline",  # round 1, backwards
    ]


def test_benchmark__times_ratios_and_costs_worked_by_hand(measure, world):
    report = measure(rounds=2, iterations=3)
    plain, cut, salient = report["runs"]
    assert [(run["name"], run["method"]) for run in report["runs"]] == [
        ("plain", "baseline"),
        ("cut", "cutmix"),
        ("salient", "saliencymix"),
    ]
    assert (plain["seconds_per_iteration"], plain["relative"], plain["mixing_share"]) == (2.0, 1.0, 0.0)
    assert (cut["seconds_per_iteration"], cut["quartiles"], cut["relative"]) == (3.0, [3.0, 3.0], 1.5)
    assert (salient["relative"], salient["relative_quartiles"]) == (2.0, [2.0, 2.0])
    assert (salient["mixing_seconds"], salient["mixing_share"]) == (0.25, 0.0625)
    assert salient["clocks"]["wall"]["rounds"] == [40.0, 40.0]
    assert salient["clocks"]["wall"]["relative"] == 0.5  # 40 to the baseline's 80
    assert salient["schedule_iterations"] == 200 * 12_500  # epochs; CIFAR's 50,000 pictures in batches of 4
    assert salient["schedule_hours"] == pytest.approx(200 * 12_500 * 4 / 3600)
    assert (report["rounds"], report["iterations"]) == (2, 3)
    assert report["protocol"]["reference"] == "plain"
    assert torch.__version__.startswith(report["environment"]["torch"])
    row = " ".join(table(report)[3].split())
    assert row == "salient 4.0000 4.0000..4.0000 2.000 2.000..2.000 0.500 6.2 % 2777.78 h"


def test_benchmark__a_ratio_belongs_to_a_round(measure, world):
    world.step |= {"baseline": iter([99.0, 1.0, 10.0, 2.0]), "saliencymix": iter([7.0, 3.0, 20.0, 2.0])}
    salient = measure(rounds=3)["runs"][2]
    assert salient["clocks"]["cpu"]["rounds"] == [3.0, 20.0, 2.0]
    assert salient["relative"] == 2.0  # the median of 3, 2 and 1; the medians' ratio would be 3 / 2
    assert salient["relative_quartiles"] == [1.5, 2.5]


def test_benchmark__one_round_has_no_quartiles(measure, world):
    salient = measure(rounds=1)["runs"][2]
    assert salient["relative"] == 2.0
    assert salient["quartiles"] is salient["relative_quartiles"] is None


def test_benchmark__all_runs_take_from_one_stream_of_the_products_batches(measure, world, class_folders):
    opts = ["DATA.DATASET", "image_folder", "DATA.ROOT", str(class_folders), "SOLVER.ACCUMULATION", "2"]
    salient = measure(*opts, rounds=2, iterations=2)["runs"][2]
    order = TrainBatches(12, 4, seed=0, start=0, stop=3 * 3 * 2, parts=2)
    assert world.labels == [[index // 6 for index, _ in batch] for batch in order]  # six cats, then six dogs
    assert salient["schedule_iterations"] == 200 * 3  # 12 pictures in batches of 4
    assert salient["mixing_seconds"] == 0.5  # mixed in two parts


@pytest.mark.parametrize("num_threads, workers, clock", [
    (1, "0", "cpu"),
    (2, "0", "wall"),  # the CPU clock adds up what the threads do at the same time
    (1, "1", "wall"),  # and leaves out what loading processes do
])  # fmt: skip
def test_benchmark__cpu_time_counts_where_it_is_that_of_an_idle_machine(
    measure, world, class_folders, num_threads, workers, clock
):
    opts = ["DATA.DATASET", "image_folder", "DATA.ROOT", str(class_folders), "DATA.NUM_WORKERS", workers]
    report = measure(*opts, num_threads=num_threads)
    salient = report["runs"][2]
    assert report["protocol"]["clock"] == clock
    assert (salient["seconds_per_iteration"], salient["relative"]) == {"cpu": (4.0, 2.0), "wall": (40.0, 0.5)}[clock]


def test_benchmark__trains_the_products_learner(measure, monkeypatch, class_folders):
    def build(arch, num_classes, **options):
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))

    steps = []
    step = learner.Learner.step

    def noted_step(self, parts, **options):
        steps.append((float(step(self, parts, **options)), self.network.training))

    monkeypatch.setattr(learner, "build_model", build)
    monkeypatch.setattr(learner.Learner, "step", noted_step)
    opts = ["DATA.DATASET", "image_folder", "DATA.ROOT", str(class_folders), "MIXING.PROB", "1"]
    report = measure(*opts, runs=[["deep", BASELINE, "MIXING.METHOD", "stochastic_depth"]], rounds=1)
    plain, *mixed, deep = report["runs"]
    assert len(steps) == 4 * 2
    assert all(0 < loss < 5 and training for loss, training in steps)
    assert all(run["seconds_per_iteration"] > 0 for run in report["runs"])
    assert all(run["mixing_share"] > 0 for run in mixed)
    assert plain["mixing_share"] == 0.0
    assert deep["mixing_share"] is None  # inside the network, where nothing tells it from the rest
    assert "METHOD: cutmix" in mixed[0]["config"]


def test_mixes__methods_that_mix_before_the_network():
    found = {
        method
        for method in METHODS
        if mixes(SimpleNamespace(mixing=learner.build_mixing(load_pretrain_config(None, ["MIXING.METHOD", method]), 5)))
    }
    assert found == {"cutout", "mixup", "cutmix", "resizemix", "saliencymix"}


def test_benchmark__says_that_the_runs_do_not_fit_into_memory_together(measure, world):
    def full():
        yield 1.0
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    world.step["cutmix"] = full()
    with pytest.raises(ValueError, match=r"3 runs, which take turns and so are held together, do not fit .* of cpu"):
        measure()


def test_benchmark__keys_of_the_method_and_the_schedule_may_differ(measure, world):
    report = measure(runs=[["short", BASELINE, "SOLVER.EPOCHS", "2", "SEED", "5", "SOLVER.BASE_LR", "0.5"]])
    assert report["runs"][3]["schedule_iterations"] == 2 * 12_500


@pytest.mark.parametrize("run, message", [
    (["cut", CUTMIX], "--run cut is given twice; every run needs a name of its own"),
    (["half"], r"--run half: expected NAME FILE \[KEY VALUE \.\.\.\], but there is no FILE"),
    (["odd", BASELINE, "SEED"], "expected KEY VALUE pairs, but 'SEED' has no value"),
    (["odd", BASELINE, "SEEDS", "1"], "unknown config key SEEDS"),
    (["odd", "nowhere.yaml"], r"nowhere\.yaml does not exist"),
    (["odd", BASELINE, "MODEL.ARCH", "resnet50_cifar"],
     r"more than their methods: MODEL\.ARCH \(plain: 'resnet18_cifar', odd: 'resnet50_cifar'\); give"),
    (["odd", BASELINE, "SOLVER.BATCH_SIZE", "8"], r"SOLVER\.BATCH_SIZE \(plain: 4, odd: 8\)"),
    (["odd", BASELINE, "DATA.IMAGE_SIZE", "64"], r"DATA\.IMAGE_SIZE \(plain: 32, odd: 64\)"),
    (["odd", BASELINE, "PRECISION", "bfloat16"], r"PRECISION \(plain: 'float32', odd: 'bfloat16'\)"),
    (["odd", BASELINE, "DEVICE", "cuda"], r"DEVICE \(plain: 'cpu', odd: 'cuda'\)"),
    (["odd", BASELINE, "DATA.ROOT", "/data"], r"DATA\.ROOT \(plain: '', odd: '/data'\)"),
])  # fmt: skip
def test_load_runs__refuses(run, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_runs([*RUNS, run], OPTS)


def test_load_runs__refuses_a_single_run():
    with pytest.raises(ValueError, match="a comparison needs at least two --run, but got 1"):
        load_runs(RUNS[:1], OPTS)
