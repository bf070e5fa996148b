"""Sheets of class activation maps: one mixed picture seen by several networks, or a picture by each method seen by one
(Figure 5 of the paper).

A map is drawn over the mixed picture in grey, cut off at 0, where cells begin to speak against the class, and up to its
own maximum. Patches are outlined.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.inspect.contact_sheet import CELL_INCHES, CUT_COLOUR, PASTE_COLOUR, save_figure, show_picture
from pretrain.inspect.mixed_pairs import Pair, Seen, View

CAPTION_INCHES, MARGIN_INCHES, HEADER_INCHES, GAP_INCHES = 0.24, 1.15, 0.55, 0.18
LINE_INCHES, COLUMN_INCHES = CELL_INCHES + CAPTION_INCHES, CELL_INCHES + 0.08
HEAT_ALPHA = 0.55


def write_sheet_by_network(views: Sequence[View], classes: Sequence[str], path: Path | str) -> None:
    """Draw two lines for each pair, the target's class above the source's, and write a PNG, whole or not at all.

    From the left: the picture itself, the mixed picture, and for every network the map of the line's class. ``views``
    are of one method.
    """
    sheet = _Sheet(["picture", "mixed", *(view.network for view in views)], len(views[0].pairs), lines=2)
    for number, pair in enumerate(views[0].pairs):
        _show_mixed(sheet.cell(number, 0.5, 1), pair)
        _show_class_lines(sheet, number, views, classes, first_line=0, first_col=2)
    sheet.write(path)


def write_sheet_by_method(views: Sequence[View], classes: Sequence[str], path: Path | str) -> None:
    """Draw three lines for each pair: the pictures that the methods make of it, the target's class, the source's class.

    From the left: the two pictures themselves, below the network's name, and for every method its picture and the maps
    of the classes in it. ``views`` are of one network. The PNG is written whole or not at all.
    """
    titles = ["input" if view.method == "baseline" else view.method for view in views]
    sheet = _Sheet(["picture", *titles], len(views[0].pairs), lines=3)
    for number in range(len(views[0].pairs)):
        sheet.cell(number, 0, 0).text(0.5, 0.5, f"seen by\n{_wrapped(views[0].network)}", ha="center", va="center")
        for col, view in enumerate(views, start=1):
            _show_mixed(sheet.cell(number, 0, col), view.pairs[number])
        _show_class_lines(sheet, number, views, classes, first_line=1, first_col=1)
    sheet.write(path)


class _Sheet:
    """A figure of cells below column titles; each pair has ``lines`` lines of them."""

    def __init__(self, titles: Sequence[str], num_pairs: int, *, lines: int):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._pair_inches = lines * LINE_INCHES + GAP_INCHES
        self._width = MARGIN_INCHES + len(titles) * COLUMN_INCHES + 0.08
        self._height = HEADER_INCHES + num_pairs * self._pair_inches
        self._figure = Figure(figsize=(self._width, self._height), dpi=110, facecolor="white")
        FigureCanvasAgg(self._figure)
        for col, title in enumerate(titles):
            self._figure.text(
                (MARGIN_INCHES + col * COLUMN_INCHES + CELL_INCHES / 2) / self._width,
                1 - 0.3 / self._height,
                _wrapped(title),
                ha="center",
                va="center",
                fontsize=10,
                fontweight="bold",
            )

    def cell(self, number: int, line: float, col: int) -> Any:
        """Return the axis of a cell of pair ``number``; a ``line`` of 0.5 is halfway between the first two."""
        left = MARGIN_INCHES + col * COLUMN_INCHES
        top = HEADER_INCHES + number * self._pair_inches + CAPTION_INCHES + line * LINE_INCHES
        bottom = self._height - top - CELL_INCHES
        axis = self._figure.add_axes(
            (left / self._width, bottom / self._height, CELL_INCHES / self._width, CELL_INCHES / self._height)
        )
        axis.set_axis_off()
        return axis

    def write(self, path: Path | str) -> None:
        save_figure(self._figure, path)


def _show_mixed(axis: Any, pair: Pair) -> None:
    shares = ((pair.share, "target"), (1 - pair.share, "source"))
    label = " + ".join(f"{share:.2f} {role}" for share, role in shares if share)
    show_picture(axis, pair.mixed, label, pair.box, CUT_COLOUR)


def _show_class_lines(
    sheet: _Sheet, number: int, views: Sequence[View], classes: Sequence[str], *, first_line: int, first_col: int
) -> None:
    """Draw for both classes of a pair the picture itself, at the left, and from ``first_col`` on a map a view."""
    pair = views[0].pairs[number]
    roles = ((pair.target, "target", PASTE_COLOUR), (pair.source, "source", CUT_COLOUR))
    for line, (picture, role, colour) in enumerate(roles, start=first_line):
        axis = sheet.cell(number, line, 0)
        show_picture(axis, picture.image, _shortened(Path(picture.name).stem), None, colour)
        axis.text(
            -0.06,
            0.5,
            f"{_wrapped(classes[picture.label], 14)}\n({role})",
            transform=axis.transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
        for col, view in enumerate(views, start=first_col):
            seen = view.seen[number]
            map_ = seen.target_map if role == "target" else seen.source_map
            _show_heat(sheet.cell(number, line, col), view.pairs[number], map_, _caption(seen, map_, picture.label))


def _caption(seen: Seen, map_: Tensor, label: int) -> str:
    caption = f"probability {float(seen.probabilities[label]):.2f}"
    return caption if map_.max() > 0 else f"{caption}, seen nowhere"


def _show_heat(axis: Any, pair: Pair, map_: Tensor, caption: str) -> None:
    grey = pair.mixed.float().mean(dim=0, keepdim=True).to(torch.uint8).expand(3, -1, -1)
    show_picture(axis, grey, caption, pair.box, "white")
    size = pair.mixed.shape[-2:]
    heat = functional.interpolate(map_.clamp(min=0)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    most = max(float(heat.max()), torch.finfo(torch.float32).tiny)  # a map without a positive value is all zero
    axis.imshow(heat.numpy(), cmap="turbo", vmin=0, vmax=most, alpha=HEAT_ALPHA, interpolation="nearest")


def _wrapped(text: str, width: int = 20) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder=" ..."))


def _shortened(text: str, most: int = 34) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
