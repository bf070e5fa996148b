"""The benchmark runs, reports what it promises and refuses nonsense. Its figures are not judged here."""

import json

import pytest
import torch


@pytest.fixture
def bench_mixing(load_tool):
    threads = torch.get_num_threads()
    yield load_tool("bench_mixing").main
    torch.set_num_threads(threads)


def test_bench_mixing__table_and_json(bench_mixing, capsys):
    assert not bench_mixing(["--num-images", "4", "--size", "32", "--rounds", "1", "--threads", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert [case["target"] for case in report["cases"][:3]] == [4, 4, 12]
    assert all(case["ms_per_picture"] > 0 and case["ratio"] > 0 for case in report["cases"])
    assert any("at half size" in line for line in table)
    assert any("MB extra" in line for line in table)
    assert report["memory"][0]["device"] == "cpu"
    assert report["environment"]["threads"] == 1


@pytest.mark.parametrize("arguments, message", [
    (["--num-images", "1"], "--num-images must be at least 2, but got 1"),
    (["--rounds", "0"], "--rounds must be at least 1, but got 0"),
    (["--threads", "0"], "--threads must be at least 1, but got 0"),
])  # fmt: skip
def test_bench_mixing__refuses(bench_mixing, arguments, message):
    with pytest.raises(ValueError, match=message):
        bench_mixing(arguments)
