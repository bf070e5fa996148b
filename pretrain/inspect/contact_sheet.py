"""Pictures of what the mixing augmentations do, to be looked at before training (Figures 2 and 4 of the paper)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pretrain.mixing import make_mixing
from pretrain.mixing.patches import extremes, kept_share
from pretrain.mixing.saliencymix import SaliencyMix
from pretrain.names import STYLES
from pretrain.run.files import atomic_write
from pretrain.run.pictures import pictures_in, read_picture

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image, in its wheel
COLUMNS = ("source", "its saliency", "target", "its saliency", "mixed")
CELL_INCHES = 1.8
CUT_COLOUR, PASTE_COLOUR = "#ff3b30", "#00c8ff"


class PatchBox(NamedTuple):
    """A patch in pixels: rows [top, top + height) and columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int


class Marked(NamedTuple):
    """What is shown of a saliency map: the map and the pixels chosen in it, ``(row, col)`` each."""

    map_: Tensor
    anchors: list[tuple[int, int]]


class Row(NamedTuple):
    """One mixed picture and where it comes from; ``None`` where the method has no such thing."""

    title: str
    source: int | None  # index of a picture
    target: int
    mixed: Tensor  # uint8 (3, H, W)
    weights: list[float]  # the label, a share of each picture
    area: float | None = None  # the target's share of the pixels, where the label is not of the area
    source_box: PatchBox | None = None
    target_box: PatchBox | None = None
    source_map: Marked | None = None
    target_map: Marked | None = None


def load_pictures(paths: Sequence[Path | str], size: int) -> tuple[list[str], Tensor]:
    """Return names and ``uint8 (B, 3, size, size)`` pictures: shorter side scaled to ``size``, centre cut out.

    A folder among ``paths`` stands for the pictures in it. Without ``paths``, scikit-image's photographs.

    Raises:
        FileNotFoundError, ValueError: as ``read_picture``; or there are fewer than two pictures.
    """
    if paths:
        files = [file for path in map(Path, paths) for file in (pictures_in(path) if path.is_dir() else [path])]
        names = [file.stem for file in files]
        opened = [read_picture(file) for file in files]
    else:
        try:
            from skimage import data
        except ImportError as error:
            raise ValueError("give at least two with --input, or install scikit-image for its photographs") from error
        names, opened = list(PHOTOGRAPHS), [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    if len(opened) < 2:
        raise ValueError(f"mixing needs at least 2 pictures, but got {len(opened)}")
    squares = []
    for picture in opened:
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        left, top = (width - size) // 2, (height - size) // 2
        square = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
        squares.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
    return names, torch.stack(squares)


def rows_of(method: str, images: Tensor, *, seed: int, share: float | None = None, **options: Any) -> list[Row]:
    """Return a row for every picture as the target, its neighbour before it in ``images`` as the source.

    ``options`` go to ``make_mixing``. ``share`` is the part of the target that SaliencyMix or ResizeMix is asked to
    keep; it is drawn where it is ``None``. Each picture is a class of its own.
    """
    mix = make_mixing(method, num_classes=len(images), **options)
    if mix is None or method == "manifold_mixup":
        raise ValueError(f"method {method!r} does not mix pictures, there is nothing to show")
    torch.manual_seed(seed)
    if isinstance(mix, SaliencyMix):
        return _saliencymix_rows(mix, images, share)
    mixed, weights = mix(images, torch.arange(len(images)))
    mixed = mixed.round().clamp(0, 255).to(torch.uint8)
    boxes = [None] * len(images) if method == "mixup" else _replaced(mix, images.shape, seed)
    rows = []
    for target, (weight, box) in enumerate(zip(weights.tolist(), boxes, strict=True)):
        # CutMix cuts where it pastes; Cutout's square comes from nowhere.
        source, source_box = (None, None) if method == "cutout" else ((target - 1) % len(images), box)
        rows.append(Row(method, source, target, mixed[target], weight, None, source_box, box))
    return rows


def rows_of_each(
    methods: Sequence[str],
    images: Tensor,
    *,
    saliencies: Sequence[str],
    patches: Sequence[str],
    labels: Sequence[str] = ("area",),
    num_targets: int | None = None,
    seed: int,
    share: float | None = None,
    alpha: float = 1.0,
    basnet_checkpoint: Path | str | None = None,
    **options: Any,
) -> list[Row]:
    """Return ``rows_of`` each of ``methods`` in turn, of SaliencyMix once for every saliency, patch and label.

    ``num_targets``: only the first so many pictures are targets; None: all. ``alpha`` is that of the methods that draw
    a share. ``basnet_checkpoint`` is for the saliency of that name, ``options`` are for SaliencyMix alone.
    """
    rows = []
    for method in methods:
        if method != "saliencymix":
            drawn = {} if method == "cutout" else {"alpha": alpha}
            rows += rows_of(method, images, seed=seed, share=share, **drawn)[:num_targets]
            continue
        for saliency, patch, label in itertools.product(saliencies, patches, labels):
            own = {"checkpoint": basnet_checkpoint} if saliency == "basnet" and basnet_checkpoint else {}
            rows += rows_of(
                method,
                images,
                seed=seed,
                share=share,
                alpha=alpha,
                saliency=saliency,
                saliency_options=own,
                patch=patch,
                label=label,
                **options,
            )[:num_targets]
    return rows


def furthest(rows: Sequence[Row]) -> int | None:
    """Return the number of the row whose label differs most from the share of pixels, the first among equals; None
    where no label is of anything else."""
    differing = [number for number, row in enumerate(rows) if row.area is not None]
    return max(differing, key=lambda number: abs(difference(rows[number])), default=None)


def where_furthest(rows: Sequence[Row], names: Sequence[str]) -> str | None:
    """Return the line that says where label and area differ most (``furthest``), and how far."""
    most = furthest(rows)
    if most is None:
        return None
    row = rows[most]
    source, target = names[row.source], names[row.target]
    return (
        f"label and area differ most in row {most + 1}, {source} in {target}: the label says "
        f"{row.weights[row.target]:.2f} {target}, the area {row.area:.2f} ({difference(row):+.2f})"
    )


def difference(row: Row) -> float:
    """Return how much more of the target the label of ``row`` has than the pixels, where it is not of these."""
    return row.weights[row.target] - row.area


def _replaced(mix: nn.Module, shape: Sequence[int], seed: int) -> list[PatchBox | None]:
    """Return the box in which ``mix`` replaces each picture of a batch of ``shape`` when seeded so; None for no pixel.

    CutMix and Cutout draw it from seed and sizes alone. So it is where pictures of one colour each get another colour.
    """
    number = torch.arange(shape[0])
    blue = torch.full_like(number, 255)  # which Cutout does not paint with
    colours = torch.stack([number % 256, number // 256, blue], dim=1).to(torch.uint8)[:, :, None, None]
    torch.manual_seed(seed)
    mixed, _ = mix(colours.expand(*shape).contiguous(), number)
    boxes: list[PatchBox | None] = []
    for changed in (mixed != colours).any(dim=1):
        rows, cols = (changed.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
        boxes.append(PatchBox(rows[0], cols[0], len(rows), len(cols)) if rows else None)
    return boxes


def _saliencymix_rows(mix: SaliencyMix, images: Tensor, share: float | None) -> list[Row]:
    count = len(images)
    draws = mix.draw(count)._replace(mix=True, partners=torch.arange(count).roll(1))
    if share is not None:
        draws = draws._replace(lam=torch.full_like(draws.lam, share))
    mixed, weights = mix.mix_as(images, torch.arange(count), draws)
    patches = mix.locate(images, draws)
    areas = kept_share(patches, *images.shape[-2:]).expand(count).tolist()
    boxes = [field.expand(count).tolist() for field in patches[:6]]
    maps = mix.saliency(images) if mix.patch in STYLES or mix.label != "area" else None
    cut, pasted = STYLES.get(mix.patch, (None, None))

    def marked(picture: int, which: str | None) -> Marked | None:
        if maps is None:
            return None
        chosen = [tuple(extremes(maps[picture : picture + 1], which)[0].tolist())] if which else []
        return Marked(maps[picture], chosen)

    title = [mix.patch.replace("_to_", " to "), f"{mix.scope}, {mix.placement}"]
    if maps is not None:
        title.insert(0, mix.saliency_name)
    if mix.label != "area":
        title.append(f"label {mix.label}")
    rows = []
    for target, source in enumerate(draws.partners.tolist()):
        source_top, source_left, target_top, target_left, height, width = (field[target] for field in boxes)
        shown = (height, width) if patches.scale is None else images.shape[-2:]
        rows.append(
            Row(
                "\n".join(title),
                source,
                target,
                mixed[target],
                weights[target].tolist(),
                None if mix.label == "area" else areas[target],
                PatchBox(source_top, source_left, *shown),
                PatchBox(target_top, target_left, height, width),
                marked(source, cut),
                marked(target, pasted if pasted != "corresponding" else None),
            )
        )
    return rows


def write_sheet(rows: Sequence[Row], names: Sequence[str], images: Tensor, path: Path | str) -> None:
    """Draw ``rows`` under one another and write the sheet to ``path`` (PNG), whole or not at all.

    Red marks the place of the cut and the pixel that chose it, blue the place of the paste. Above the mixed picture
    stands the label, beside it the shares of pixels where it is not of these; bold where the two differ most.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = furthest(rows)
    caption_lines = 1 if most is None else 2
    title_inches, header_inches = 1.6, 0.35 + 0.15 * caption_lines
    width = title_inches + len(COLUMNS) * CELL_INCHES
    height = header_inches + len(rows) * (CELL_INCHES + 0.25)
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(rows),
        len(COLUMNS),
        left=title_inches / width,
        right=0.995,
        top=1 - header_inches / height,
        bottom=0.02,
        wspace=0.04,
        hspace=0.16,
    )
    for number, row in enumerate(rows):
        axes = [figure.add_subplot(grid[number, col]) for col in range(len(COLUMNS))]
        for axis in axes:
            axis.set_axis_off()
        if number == 0:
            for axis, column in zip(axes, COLUMNS, strict=True):
                axis.set_title(column, fontsize=11, pad=5 + 11 * caption_lines)
        axes[0].text(-0.06, 0.5, row.title, transform=axes[0].transAxes, ha="right", va="center", fontsize=8)
        if row.source is not None:
            show_picture(axes[0], images[row.source], names[row.source], row.source_box, CUT_COLOUR)
        _show_map(axes[1], row.source_map, CUT_COLOUR)
        show_picture(axes[2], images[row.target], names[row.target], row.target_box, PASTE_COLOUR)
        _show_map(axes[3], row.target_map, PASTE_COLOUR)
        show_picture(axes[4], row.mixed, _label(row, names), None, PASTE_COLOUR, bold=number == most)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path | str) -> None:
    """Write a matplotlib figure, whole or not at all, in the format of ``path``, one of SHEET_SUFFIXES."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format=Path(path).suffix.lower().removeprefix("."))


def _label(row: Row, names: Sequence[str]) -> str:
    shares = {row.target: row.weights[row.target], row.source: 1 - row.weights[row.target]}
    label = " + ".join(f"{share:.2f} {names[picture]}" for picture, share in shares.items() if picture is not None)
    if row.area is None:
        return label
    return f"{label}\narea {row.area:.2f} + {1 - row.area:.2f}, label {difference(row):+.2f}"


def show_picture(
    axis: Any, picture: Tensor, caption: str, box: PatchBox | None, colour: str, *, bold: bool = False
) -> None:
    """Draw ``uint8 (3, H, W)`` on a matplotlib axis, the caption above it and ``box`` outlined."""
    from matplotlib.patches import Rectangle

    axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
    weight = "bold" if bold else "normal"
    axis.text(0.5, 1.02, caption, transform=axis.transAxes, ha="center", va="bottom", fontsize=7.5, weight=weight)
    if box is not None and box.height and box.width:
        # imshow puts the centre of pixel (0, 0) at the origin, so that its border is half a pixel before.
        corner = (box.left - 0.5, box.top - 0.5)
        axis.add_patch(Rectangle(corner, box.width, box.height, fill=False, edgecolor=colour, linewidth=1.6))


def _show_map(axis: Any, marked: Marked | None, colour: str) -> None:
    if marked is None:
        return
    axis.imshow(marked.map_.numpy(), cmap="gray", interpolation="nearest")
    for row, col in marked.anchors:
        axis.plot(
            col,
            row,
            marker="o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=colour,
            markeredgewidth=2,
            clip_on=False,
        )
