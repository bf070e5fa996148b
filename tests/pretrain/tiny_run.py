"""Runs of a tiny network, also in processes that a test may kill: ``python tiny_run.py COMMAND SPEC.json``.

``kill``: pairs of a run that is never stopped and one that is killed again and again. ``train``: runs one after the
other, under ``torchrun`` in several processes.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import nn

from pretrain import learner, trainer
from pretrain.config import load_pretrain_config
from pretrain.run import files


class TinyNet(nn.Module):
    """Convolution, batch statistics and dropout: everything whose state a resume must bring back."""

    def __init__(self, num_classes):
        super().__init__()
        self.layer1, self.layer2 = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images):
        features = self.layer2(self.layer1(images)).relu().mean(dim=(2, 3))
        return self.fc(nn.functional.dropout(features, 0.3, self.training))


class StatelessNet(TinyNet):
    """The same without batch statistics and dropout: nothing in it depends on how a batch is divided."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.layer2 = nn.GroupNorm(2, 8)

    def forward(self, images):
        return self.fc(self.layer2(self.layer1(images)).relu().mean(dim=(2, 3)))


NETWORKS = {"tiny": TinyNet, "stateless": StatelessNet}


def use_network(name):
    learner.build_model = lambda arch, num_classes, **options: NETWORKS[name](num_classes)


def train(opts, *, resume=True, stop=None):
    """Train as the KEY VALUE pairs say; ``stop``: raise KeyboardInterrupt instead of that step of this process."""
    step, steps = learner.Learner.step, []

    def dying_step(self, *args, **options):
        steps.append(1)
        if len(steps) == stop:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    learner.Learner.step = dying_step
    try:
        return trainer.train(load_pretrain_config(None, opts), resume=resume)
    finally:
        learner.Learner.step = step


class KillingWrites:
    """Kills this process at one of the moments of writing a checkpoint: before and after the flush, or the rename."""

    def __init__(self, name, number):
        function, calls = getattr(os, name), []

        def dying(*args):
            calls.append(1)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        self.__dict__.update(
            {key: getattr(os, key) for key in ("fsync", "replace", "getpid", "open", "close", "O_RDONLY")}
        )
        setattr(self, name, dying)


def forked(function):
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def finish(opts):
    assert os.waitpid(forked(lambda: train(opts)), 0)[1] == 0


def kill_runs(spec):
    """Run ``whole`` to its end, then ``killed`` with a SIGKILL at each of ``moments`` random ones, and to its end."""
    use_network("tiny")
    chance = random.Random(0)
    for whole, killed in spec["pairs"]:
        started = time.monotonic()
        finish(whole)
        seconds = time.monotonic() - started
        for moment in range(spec["moments"]):
            if moment % 2:  # whatever it is doing; short enough that all such parts together do not reach the end
                child = forked(lambda opts=killed: train(opts))
                time.sleep(chance.uniform(0, seconds / 12))
                os.kill(child, signal.SIGKILL)
            else:  # while a checkpoint is being written
                # The config and metrics.json come first: two renames, four flushes. So many take a checkpoint and its
                # pointer, too.
                name, number = chance.choice((("fsync", chance.randint(5, 12)), ("replace", chance.randint(3, 6))))

                def run(opts=killed, name=name, number=number):
                    files.os = KillingWrites(name, number)
                    train(opts)

                child = forked(run)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status), "it was not killed"
            assert os.WTERMSIG(status) == signal.SIGKILL
        finish(killed)


def train_runs(spec):
    for run in spec["runs"]:
        # A meeting point of its own for each run: that of the launcher remembers the addresses of the run before.
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="False", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(run["port"]))
        use_network(run["network"])
        try:
            train(run["opts"], stop=run["stop"])
        except KeyboardInterrupt:
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    spec = json.loads(Path(sys.argv[2]).read_text("utf-8"))
    {"kill": kill_runs, "train": train_runs}[sys.argv[1]](spec)
