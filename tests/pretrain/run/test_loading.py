"""No error of a loading process is lost, and none is waited for that is gone; each in a second or two."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset

from pretrain.run import loading
from pretrain.run.loading import Loading, LoadingError, make_loader


class Numbers(Dataset):
    """Item n is a picture full of n; ``act`` is done first."""

    def __init__(self, act=lambda index: None):
        self.act = act

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.act(index)
        return torch.full((4, 4), index)


def open_loader(act=lambda index: None, num_workers=1, **options):
    loader = make_loader(Numbers(act), num_workers=num_workers, key="DATA.NUM_WORKERS", collate=torch.stack, **options)
    return Loading(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading__yields_every_batch_and_ends(num_workers):
    with open_loader(num_workers=num_workers, batch_size=4) as batches:
        assert [batch[:, 0, 0].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
        assert list(batches) == []


class Full:
    @staticmethod
    def dumps(_batch):
        raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")


def test_loading__a_batch_that_finds_no_shared_memory_is_an_error_and_no_endless_wait(monkeypatch):
    monkeypatch.setattr(loading, "ForkingPickler", Full)  # in the loading process, which is forked
    with pytest.raises(LoadingError, match=r"/dev/shm.* has too little room .*set DATA.NUM_WORKERS 0"):
        next(open_loader())


def test_loading__whatever_cannot_be_pickled_is_an_error_too():
    def collate(_samples):
        return lambda: None

    loader = make_loader(Numbers(), num_workers=1, key="DATA.NUM_WORKERS", collate=collate)
    with pytest.raises(Exception, match=r"[Pp]ickle"):
        next(Loading(loader))


def test_loading__an_error_of_the_data_arrives_as_it_is():
    def act(index):
        raise ValueError(f"picture {index} is broken")

    with pytest.raises(ValueError, match=r"picture 0 is broken"):
        next(open_loader(act))


def kill(number):
    def act(index):
        if index == 3:
            os.kill(os.getpid(), number)

    return act


@pytest.mark.parametrize("number, text", [
    (signal.SIGKILL, r"was killed \(SIGKILL\); the machine may have run out of memory: lower DATA.NUM_WORKERS.* is 1"),
    (signal.SIGBUS, r"/dev/shm.*set DATA.NUM_WORKERS 0"),
])  # fmt: skip
def test_loading__a_killed_process_is_named(number, text):
    with pytest.raises(LoadingError, match=text), open_loader(kill(number)) as batches:
        list(batches)


def use(batches, act):
    with batches:
        next(batches)
        act()


def test_loading__a_process_that_is_killed_while_a_batch_is_used_is_named():
    batches = open_loader(kill(signal.SIGKILL), prefetch_factor=6)
    with pytest.raises(LoadingError, match=r"SIGKILL.*lower DATA.NUM_WORKERS"):
        use(batches, lambda: time.sleep(20))  # PyTorch interrupts it


def test_loading__an_error_of_ours_stays_ours():
    def fail():
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        use(open_loader(), fail)


def test_loading__no_room_for_the_semaphores_of_a_queue(monkeypatch):
    def no_room(*_args, **_options):
        raise OSError(28, "No space left on device")

    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    monkeypatch.setattr(torch.multiprocessing, "Queue", no_room)
    with pytest.raises(LoadingError, match=r"/dev/shm"):
        next(open_loader())
    gc.collect()
    assert not ignored  # PyTorch's half-made iterator would complain when it is deleted


def serve_errors_of(error):
    """What the thread of multiprocessing that hands a batch over does with an error, in a loading process."""

    def act(index):
        if index == 0:
            sys.excepthook(type(error), error, None)

    return act


@pytest.mark.parametrize(
    "error, told", [(EOFError("gone"), ""), (ConnectionResetError("gone"), ""), (ValueError("odd"), "ValueError: odd")]
)
def test_make_loader__a_parent_that_leaves_in_the_middle_of_a_batch_is_no_traceback(error, told, capfd):
    loader = make_loader(
        Numbers(serve_errors_of(error)), num_workers=2, key="DATA.NUM_WORKERS", collate=torch.stack, batch_size=2
    )
    with loading.opened(loader) as batches:
        assert len(list(batches)) > 0
    assert capfd.readouterr().err.strip() == told
