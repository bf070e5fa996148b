"""How tools fail, and what they print on the way."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.run import cli
from pretrain.run.run_folder import MetricsWriter
from pretrain.run.settings import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("error, status, line", [
    (ValueError("batch size 7\nis odd"), 2, "error: batch size 7 is odd"),
    (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "error: a.txt: No such file or directory"),
    (ImportError("needs x"), 2, "error: needs x"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ValueError('Caught ValueError in DataLoader worker process 0.\nTraceback ...\nValueError: a.jpg: cannot be read'),
     2, "error: a.jpg: cannot be read"),
])  # fmt: skip
def test_run_tool__one_line_and_a_status(capsys, error, status, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.run_tool(main)
    captured = capsys.readouterr()
    assert stop.value.code == status
    assert line in captured.err
    assert captured.err.count("\n") == 1


def test_run_tool__a_line_for_each_fault_of_a_config(capsys):
    def main():
        raise ConfigError([f"KEY{number} is\nwrong" for number in range(12)])

    with pytest.raises(SystemExit):
        cli.run_tool(main)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0].endswith("error: KEY0 is wrong")
    assert lines[-1].endswith("error: and 2 more faults")


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 2>&-"])
def test_run_tool__works_with_closed_streams(tmp_path, closed):
    """No file of the run takes the number of a closed stream, and no line of the log ends the run."""
    code = (
        "import logging, os, sys; from pretrain.run.cli import Progress, run_tool, setup_logging\n"
        "def main():\n"
        "    setup_logging(sys.argv[1]); logging.getLogger('tools').warning('a line')\n"
        "    with open(sys.argv[1] + '/file', 'w') as file, Progress(2, 'steps') as progress:\n"
        "        assert file.fileno() > 2; progress.update(); os.write(2, b'C library'); print('end')\n"
        "    raise ValueError('wrong')\n"
        "run_tool(main)\n"
    )
    command = f'exec "{sys.executable}" -c "$0" "$1" {closed}'
    result = subprocess.run(["sh", "-c", command, code, str(tmp_path)], cwd=ROOT, check=False, timeout=60)
    assert result.returncode == 2
    assert "a line" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "file").read_bytes() == b""


def test_setup_logging__a_terminal_that_went_away_ends_no_run(tmp_path, monkeypatch):
    class Gone:
        def write(self, _text):
            raise BrokenPipeError

        flush = isatty = write

    cli.setup_logging(tmp_path)
    monkeypatch.setattr(cli.sys, "stderr", Gone())
    cli.logger.warning("a line")
    assert "a line" in (tmp_path / "log.txt").read_text()


def test_run_tool__a_bug_keeps_its_traceback():
    def main():
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        cli.run_tool(main)


def test_setup_logging__the_file_has_the_traceback_behind_the_line(tmp_path, capsys):
    cli.setup_logging(tmp_path)
    with pytest.raises(SystemExit):
        cli.run_tool(lambda: int("x"))
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_progress__rate_counts_from_this_process(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    with cli.Progress(1000, "steps", initial=900) as progress:
        assert progress.seconds_left() == float("inf")
        now[0] += 20.0
        progress.update(10)  # 2 s a step, 90 steps left; counting the 900 of the run before would say 0.02 s a step
        assert progress.seconds_left() == pytest.approx(180.0)


def test_progress__its_steps_are_no_lines_of_the_log_file(tmp_path, monkeypatch, capsys):
    """Without a terminal a line now and then says how far it is, to whoever watches."""
    now = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    cli.setup_logging(tmp_path)
    with cli.Progress(10, "steps") as progress:
        now[0] += 20.0
        progress.update(5)
    logging.getLogger("pretrain").info("the end")
    assert "steps 5/10" in capsys.readouterr().err
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert line.endswith("the end")


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00"), (3661.4, "1:01:01"), (float("inf"), "unknown")])
def test_format_seconds(seconds, text):
    assert cli.format_seconds(seconds) == text


def test_metrics_writer__a_resumed_run_has_each_iteration_once(tmp_path):
    writer = MetricsWriter(tmp_path)
    for iteration in (1, 2, 3):
        writer.write(iteration, {"loss": float(iteration)})
    writer.close()
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 4, "lo')  # killed while writing
    writer = MetricsWriter(tmp_path, resume_iteration=2)
    writer.write(3, {"loss": 30.0})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [{"iteration": 1, "loss": 1.0}, {"iteration": 2, "loss": 2.0}, {"iteration": 3, "loss": 30.0}]


def test_make_parser__knows_the_home_folder_where_a_shell_leaves_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = cli.make_parser("")
    parser.add_argument("--output")
    parser.add_argument("runs", nargs="*")
    args = parser.parse_args(["--output=~/a", "~/b", "mine=~/c", "d~e", "x=y~z"])
    assert (args.output, args.runs) == ("/home/me/a", ["/home/me/b", "mine=/home/me/c", "d~e", "x=y~z"])
