"""Who comes when, what counts and what the two clocks say, on clocks and contenders of our own."""

import itertools

import pytest
import torch

from tools.benchmarks.timing import environment, order_of_turns, quartiles, take_turns


class FakeMachine:
    """Two clocks that stand still until somebody works, and a list of who did."""

    def __init__(self):
        self.wall, self.cpu, self.turns = 100.0, 7.0, []

    def clocks(self):
        return self.wall, self.cpu

    def contender(self, name, wall, cpu):
        def work():
            self.turns.append(name)
            self.wall += wall() if callable(wall) else wall
            self.cpu += cpu

        return work


def test_order_of_turns__mirrored_in_pairs_that_start_one_further_on():
    orders = [order_of_turns(3, number) for number in range(6)]
    assert orders == [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]]
    assert order_of_turns(3, 6) == orders[0]


def test_take_turns__times_each_contender_once_a_round_after_one_round_of_warming_up():
    machine = FakeMachine()
    slow_start = itertools.chain([50.0], itertools.repeat(4.0))
    calls = [machine.contender("a", lambda: next(slow_start), 1.0), machine.contender("b", 2.0, 0.5)]
    first, second = take_turns(calls, 3, clocks=machine.clocks)
    assert first == ([4.0, 4.0, 4.0], [1.0, 1.0, 1.0])  # the 50 of the warm-up do not count
    assert second == ([2.0, 2.0, 2.0], [0.5, 0.5, 0.5])
    assert machine.turns == ["a", "b", "a", "b", "b", "a", "b", "a"]  # warm-up, then rounds 0, 1 and 2


def test_take_turns__steady_drift_favours_nobody():
    machine = FakeMachine()
    pace = itertools.count(10.0)  # every turn takes a second more than the one before it
    calls = [machine.contender(name, lambda: next(pace), 1.0) for name in "abc"]
    sums = [sum(seconds.wall) for seconds in take_turns(calls, 4, clocks=machine.clocks)]
    assert sums == [sums[0]] * 3


def test_take_turns__waits_for_the_device_on_both_sides_of_a_turn(monkeypatch):
    events = []

    def clocks():
        events.append("clock")
        return 0.0, 0.0

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(f"wait for {device}"))
    take_turns([lambda: events.append("work")], 1, device="cuda:1", clocks=clocks)
    assert events == 2 * ["wait for cuda:1", "clock", "work", "wait for cuda:1", "clock"]  # the warm-up and the round


@pytest.mark.parametrize("values, expected", [
    ([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0]),
    ([1.0, 2.0], [1.25, 1.75]),  # linear between the two, never outside of them
    ([3.0], None),
])  # fmt: skip
def test_quartiles(values, expected):
    assert quartiles(values) == expected


def test_environment__names_what_decides_about_times():
    found = environment()
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert {"cores", "gpu", "cpu_instructions", "load_before"} < set(found)
