"""What a study costs beside its stages, of a small one: every figure is there, and the plan is as large as asked."""


def test_bench_study__table(load_tool, capsys):
    load_tool("bench_study").main(["--stages", "1", "100", "--rounds", "1"])
    header, small, large = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["stages", "plan", "s", "records", "s", "page", "s", "poll", "s", "files", "page", "KB"]
    assert (int(small[0]), int(large[0])) == (72, 144)  # 72 a seed
    assert int(large[5]) == 7 * 144  # request, result, log, lock, attempts, metrics, and the output
