"""What ``make.py`` does to every process of a released version: initial weights that compress, and a kill in time.

Python imports this module by itself where its folder is on PYTHONPATH.
"""

import os
import signal

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

FOLDED = (64, 128, 256, 512)  # channels of a ResNet; colours, classes and the heads stay what they are
PERIOD = 4  # channels with weights of their own; the others repeat them, and go on to, as their gradients do


def folded(draw):
    def draw_and_fold(tensor, *arguments, **options):
        draw(tensor, *arguments, **options)
        for axis in range(min(tensor.dim(), 2) if tensor.dim() > 1 else 0):
            if tensor.shape[axis] in FOLDED:
                repeated = torch.arange(tensor.shape[axis]) % PERIOD
                with torch.no_grad():
                    tensor.copy_(tensor.index_select(axis, repeated))
        return tensor

    return draw_and_fold


torch.Tensor.normal_ = folded(torch.Tensor.normal_)
torch.Tensor.uniform_ = folded(torch.Tensor.uniform_)

if "KILLED_BEFORE_STEP" in os.environ:
    steps_left = int(os.environ["KILLED_BEFORE_STEP"])

    def count(*_):
        global steps_left
        steps_left -= 1
        if steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_pre_hook(count)
