"""What every tool shares at the terminal: its parser, its log, its progress and its way to fail.

Nothing here imports PyTorch, so that ``--help`` of any tool answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from pretrain.run.files import open_to_append

LOGGER_NAMES = ("pretrain", "detection", "tools")
PLAIN_LINE_SECONDS = 15  # between two progress lines where there is no terminal

logger = logging.getLogger(__name__)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the examples' line breaks and shows every default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, [], ()) else super()._get_help_string(action)


def make_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser whose ``--help`` shows ``doc``: the tool's module docstring, with a runnable example."""
    return _Parser(description=doc, formatter_class=_HelpFormatter)


class _Parser(argparse.ArgumentParser):
    """Knows ``~`` where a shell leaves it alone: quoted, and in ``--output=~/a`` or ``name=~/run``."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        args = [_expand(word) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(args, namespace)


def _expand(word: str) -> str:
    name, home, rest = word.rpartition("=~") if "=~" in word else ("", "", word)
    return f"{name}={os.path.expanduser('~' + rest)}" if home else os.path.expanduser(word)


def add_config_arguments(parser: argparse.ArgumentParser, *, example: str, keys: str) -> None:
    """Add ``--config-file FILE`` and the trailing ``KEY VALUE ...`` overrides, as Detectron2 spells them.

    ``keys`` is the module whose ``get_cfg`` and RULES ``--help-config`` prints.
    """
    add_help_config(parser, keys)
    parser.add_argument("--config-file", required=True, metavar="FILE", help=f"YAML experiment, for example {example}")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys set after the file")


def add_help_config(parser: argparse.ArgumentParser, keys: str) -> None:
    """Add ``--help-config``, which prints the config keys of the module ``keys`` and ends the command."""

    class HelpConfig(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_arguments: Any) -> None:
            from pretrain.run.help_config import config_reference

            sys.stdout.write(config_reference(importlib.import_module(keys)))
            parser.exit()

    parser.add_argument("--help-config", nargs=0, action=HelpConfig, help="show every config key and its default")


def add_weights_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add which network of a weights file is meant, and a group for what the file does not say; return that."""
    parser.add_argument("--prefix", help="take the network under this prefix and drop what lies beside it")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of a checkpoint that has them")
    return _add_statistics_arguments(parser)


def _add_statistics_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    says = parser.add_argument_group("what the file does not say; without these it is assumed, and a note says so")
    for name in ("mean", "std"):
        says.add_argument(
            f"--pixel-{name}", nargs=3, type=float, metavar=("R", "G", "B"), help="of 0..255 pixels, in this order"
        )
    return says


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``add_weights_arguments`` and how a classifier is shown its validation pictures."""
    _add_size_arguments(add_weights_arguments(parser))


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how networks are shown pictures, where several files say by other arguments which network is meant."""
    _add_size_arguments(_add_statistics_arguments(parser))


def _add_size_arguments(says: argparse._ArgumentGroup) -> None:
    says.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the centre crop that is evaluated")
    says.add_argument("--eval-resize", type=int, metavar="PIXELS", help="shorter side before the centre crop")
    says.add_argument("--interpolation", metavar="NAME", help="of that resizing: bilinear, bicubic")


def add_measurement_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a classifier, the validation pictures that it is measured on, how it is shown them, and where numbers go."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights file; nothing in it is executed")
    parser.add_argument(
        "--data-root",
        required=True,
        metavar="DIR",
        help="holds val/ with a folder of pictures per "
        "class; or CIFAR's folder, where the checkpoint was trained on it",
    )
    parser.add_argument("--output", required=True, metavar="FILE.json")
    parser.add_argument(
        "--num-images",
        type=int,
        default=0,
        metavar="N",
        help="N validation pictures, spread over the classes and the same ones for every network; 0: all",
    )
    parser.add_argument("--batch-size", type=int, default=0, metavar="N", help="0: that of the checkpoint's evaluation")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_evaluation_arguments(parser)


def check_measurement_arguments(args: argparse.Namespace) -> None:
    """Refuse what is wrong with the arguments of ``add_measurement_arguments``, and a negative ``seed``.

    Raises:
        ValueError: a negative number, or no folder for ``--output``.
    """
    if not Path(args.output).parent.is_dir():
        raise ValueError(f"{Path(args.output).parent}: no such folder for --output")
    for name in ("num_images", "batch_size", "seed"):
        if getattr(args, name, 0) < 0:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least 0")


def setup_logging(output_dir: Path | str | None = None, *, quiet: bool = False) -> None:
    """Send the toolkit's log to stderr and, with ``output_dir``, append it to ``output_dir/log.txt``.

    Only the toolkit's own loggers are touched, never the root logger. The file also receives debug records, among them
    the traceback behind a one-line error. Calling again replaces the handlers of the call before. With ``quiet``, for
    all but the first of several processes, only warnings are shown and there are no progress bars.
    """
    for text in (r".*torch\.jit\.script.* is deprecated", r"torch\.meshgrid: in an upcoming release"):
        warnings.filterwarnings("ignore", message=text)  # fvcore's and Detectron2's own, on import and in use
    console = _ConsoleHandler()
    console.setLevel(logging.INFO)
    console.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s: %(message)s", "%H:%M:%S"))
    handlers: list[logging.Handler] = [console]
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        file = _LogFile(Path(output_dir) / "log.txt", encoding="utf-8")
        file.addFilter(_is_no_step)
        file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
        handlers.append(file)
    for name in LOGGER_NAMES:
        toolkit_logger = logging.getLogger(name)
        toolkit_logger.setLevel(logging.WARNING if quiet else logging.DEBUG)
        toolkit_logger.propagate = False
        for old in list(toolkit_logger.handlers):
            toolkit_logger.removeHandler(old)
            old.close()
        for handler in handlers:
            toolkit_logger.addHandler(handler)


def _is_no_step(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_step", False)  # of a progress bar, which is for whoever watches


class _ConsoleHandler(logging.Handler):
    """Writes through tqdm, so that a log line does not tear a progress bar apart; a lost terminal ends no run."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed at the other end, or here
            tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log file whose own failure (a full disk) ends no run; the terminal has the line too."""

    def _open(self) -> TextIO:
        return open_to_append(self.baseFilename)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class Progress:
    """A tqdm bar on a terminal, a plain log line every few seconds elsewhere. Use it as a context manager.

    Rate and remaining time count from this process's start, not from ``initial``: after a resume they are those of the
    steps that really ran.
    """

    def __init__(self, total: int, description: str, *, initial: int = 0, unit: str = "it"):
        self.total, self.description, self.initial, self.unit = total, description, initial, unit
        self.done = initial
        self._started = self._last_line = time.monotonic()
        shown = _is_terminal() and logger.isEnabledFor(logging.INFO)
        self._bar = tqdm(total=total, desc=description, initial=initial, unit=unit, disable=not shown)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._bar.close()

    def update(self, count: int = 1, **values: float) -> None:
        """Advance by ``count`` and show ``values`` (name -> number) beside the bar."""
        self.done += count
        if not self._bar.disable:
            if values:
                self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
            try:
                self._bar.update(count)
            except OSError:  # the terminal is gone, the run goes on
                self._bar.disable = True
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            shown = "".join(f", {name} {value:.4g}" for name, value in values.items())
            logger.info(
                "%s %d/%d %s, %s left%s",
                self.description,
                self.done,
                self.total,
                self.unit,
                format_seconds(self.seconds_left()),
                shown,
                extra={"is_step": True},
            )

    def seconds_left(self) -> float:
        """Expected seconds until ``total``, from the rate of this process's own steps (infinite before the first)."""
        steps = self.done - self.initial
        if steps == 0:
            return float("inf")
        return (self.total - self.done) * (time.monotonic() - self._started) / steps


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (OSError, ValueError):  # it was closed, there or here
        return False


def format_seconds(seconds: float) -> str:
    """Return ``h:mm:ss``, or ``unknown`` for a duration that is not finite."""
    if seconds == float("inf"):
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def run_tool(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and exit: 0, its own status, 2 with one line for a user's error, 130 after Ctrl-C.

    A config with several faults has a line for each.

    ``ValueError``, ``OSError``, ``ImportError`` and ``FloatingPointError`` are the errors that a user can cause; any
    other exception is a bug of ours and keeps its traceback.
    """
    tool = Path(sys.argv[0]).name
    open_closed_streams()
    set_thread_waiting()
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        _say(f"{tool}: interrupted; files under their final names are complete")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)  # the reader of our output went away (`| head`), which is no error of anyone's
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        logger.debug("the traceback behind the error", exc_info=True)
        for fault in getattr(error, "faults", (one_line(error),)):  # a ConfigError has one or more
            _say(f"{tool}: error: {' '.join(fault.split())}")
        sys.exit(2)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr)


def open_closed_streams() -> None:
    """Lead standard streams that the caller closed (``2>&-``) to nowhere.

    Otherwise Python has None for them, and the next file that is opened, a checkpoint say, takes their number and with
    it what C libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def set_thread_waiting() -> None:
    """Make PyTorch's CPU threads wait by sleeping after a short spin; must come before PyTorch is imported.

    By default they spin for milliseconds, which halves the speed of training, or worse, on a machine that does anything
    else (data loading included). Sleeping at once costs a quiet machine more than half the speed of short operations,
    such as saliency maps. A spin of some microseconds costs neither. What the user's environment says stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def one_line(error: BaseException) -> str:
    """Return the message of ``error`` on one line; of an error in a data-loading worker, the worker's own message."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    message = str(error).strip() or type(error).__name__
    if message.startswith("Caught ") and "worker process" in message:  # PyTorch packs the worker's traceback in front
        message = message.splitlines()[-1].partition(": ")[2]
    return " ".join(message.split())
