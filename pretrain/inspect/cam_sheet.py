"""Class activation maps of mixed pictures, several networks side by side (Figure 5 of the paper)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.inspect.class_activation import class_activation_maps
from pretrain.inspect.contact_sheet import CELL_INCHES, CUT_COLOUR, PASTE_COLOUR, PatchBox, Row, rows_of, show_picture
from pretrain.inspect.pairs import LabelledPicture
from pretrain.inspect.pretrained import Pretrained
from pretrain.learner import Preparation
from pretrain.run.files import atomic_write, sha256

PAIR_METHODS = ("saliencymix", "cutmix", "mixup")  # those that mix two pictures
CAPTION_INCHES, MARGIN_INCHES, HEADER_INCHES, GAP_INCHES = 0.24, 1.15, 0.55, 0.18
HEAT_ALPHA = 0.55


class Pair(NamedTuple):
    """Two pictures and what mixing makes of them: ``uint8 (3, S, S)``, ``share`` of its label being the target's."""

    source: LabelledPicture
    target: LabelledPicture
    mixed: Tensor
    share: float
    box: PatchBox | None  # the source's patch; None where the method tells of none


class Seen(NamedTuple):
    """What a network sees in a mixed picture: the maps of both classes, ``(h, w)``, and every class's probability."""

    source_map: Tensor
    target_map: Tensor
    probabilities: Tensor  # (num_classes,)


def mix_pairs(
    pairs: Sequence[tuple[LabelledPicture, LabelledPicture]], method: str, *, seed: int, share: float | None = None
) -> list[Pair]:
    """Mix each (source, target) by ``method``, one of ``PAIR_METHODS``; ``share`` as for ``contact_sheet.rows_of``."""
    images = torch.stack([picture.image for pair in pairs for picture in pair])
    rows: list[Row] = rows_of(method, images, seed=seed, share=share)[1::2]  # a row's source is the picture before it
    return [
        Pair(source, target, row.mixed, row.weights[row.target], row.target_box)
        for (source, target), row in zip(pairs, rows, strict=True)
    ]


@torch.no_grad()
def look(model: nn.Module, pairs: Sequence[Pair], prepare: Callable[[Tensor], Tensor]) -> list[Seen]:
    """Return what ``model``, in evaluation mode, sees in every mixed picture; all on the CPU."""
    images = prepare(torch.stack([pair.mixed for pair in pairs]))
    sources, targets = (
        torch.tensor(labels) for labels in zip(*((pair.source.label, pair.target.label) for pair in pairs), strict=True)
    )
    maps = [class_activation_maps(model, images, classes).cpu() for classes in (sources, targets)]
    probabilities = model(images).float().softmax(dim=1).cpu()
    return [Seen(*seen) for seen in zip(*maps, probabilities, strict=True)]


def look_with_each(
    networks: Mapping[str, Pretrained], pairs: Sequence[Pair], classes: Sequence[str], device: torch.device
) -> dict[str, list[Seen]]:
    """Return name -> what that network sees in every mixed picture, computed on ``device`` one network at a time.

    Raises:
        ValueError: a network does not know ``classes``, or its weights do not fit its config.
    """
    return {
        name: look(pretrained.network(device, list(classes)), pairs, Preparation(pretrained.cfg, device))
        for name, pretrained in networks.items()
    }


def numbers_of(
    networks: Mapping[str, Pretrained],
    pairs: Sequence[Pair],
    columns: Mapping[str, Sequence[Seen]],
    classes: Sequence[str],
    *,
    method: str,
    seed: int,
) -> dict[str, Any]:
    """Return the numbers behind the sheet and where they come from, ready for JSON.

    ``columns``: network's name -> its view of every pair. ``method`` and ``seed`` are those of ``mix_pairs``.
    """
    return {
        "pairs": _numbers_of_pairs(pairs, columns, classes),
        "networks": [
            {
                "name": name,
                "checkpoint": str(network.path),
                "checkpoint_sha256": sha256(network.path),
                "arch": network.cfg.MODEL.ARCH,
                "method": network.state["method"],
            }
            for name, network in networks.items()
        ],
        "method": method,
        "seed": seed,
    }


def _numbers_of_pairs(
    pairs: Sequence[Pair], columns: Mapping[str, Sequence[Seen]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "source": {"picture": pair.source.name, "class": classes[pair.source.label]},
            "target": {"picture": pair.target.name, "class": classes[pair.target.label]},
            "share_of_target": pair.share,
            "patch": pair.box._asdict() if pair.box else None,
            "networks": [
                {
                    "name": name,
                    "top2": [
                        {"class": classes[label], "probability": probability}
                        for probability, label in zip(*_top2(seen[number].probabilities), strict=True)
                    ],
                    "source": _numbers_of_map(seen[number].source_map, seen[number].probabilities, pair.source.label),
                    "target": _numbers_of_map(seen[number].target_map, seen[number].probabilities, pair.target.label),
                }
                for name, seen in columns.items()
            ],
        }
        for number, pair in enumerate(pairs)
    ]


def _top2(probabilities: Tensor) -> tuple[list[float], list[int]]:
    top = probabilities.topk(min(2, len(probabilities)))
    return top.values.tolist(), top.indices.tolist()


def _numbers_of_map(map_: Tensor, probabilities: Tensor, label: int) -> dict[str, float]:
    return {"probability": float(probabilities[label]), "least": float(map_.min()), "most": float(map_.max())}


def write_cam_sheet(
    pairs: Sequence[Pair], columns: Mapping[str, Sequence[Seen]], classes: Sequence[str], path: Path | str
) -> None:
    """Draw two lines for each pair, the target's class above the source's, and write a PNG, whole or not at all.

    From the left: the picture itself, the mixed picture, and for every network the map of the line's class over the
    mixed picture in grey. A map is cut off at 0, where cells begin to speak against the class, and drawn up to its own
    maximum. The source's patch is outlined.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    line_inches = CELL_INCHES + CAPTION_INCHES
    pair_inches = 2 * line_inches + GAP_INCHES
    width = MARGIN_INCHES + (2 + len(columns)) * (CELL_INCHES + 0.08) + 0.08
    height = HEADER_INCHES + len(pairs) * pair_inches
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)

    def cell(col: int, top_inches: float) -> Any:
        left = MARGIN_INCHES + col * (CELL_INCHES + 0.08)
        bottom = height - top_inches - CELL_INCHES
        axis = figure.add_axes((left / width, bottom / height, CELL_INCHES / width, CELL_INCHES / height))
        axis.set_axis_off()
        return axis

    for col, name in enumerate(("picture", "mixed", *columns)):
        centre = MARGIN_INCHES + col * (CELL_INCHES + 0.08) + CELL_INCHES / 2
        title = _wrapped(name)
        figure.text(centre / width, 1 - 0.3 / height, title, ha="center", va="center", fontsize=10, fontweight="bold")
    for number, pair in enumerate(pairs):
        top = HEADER_INCHES + number * pair_inches + CAPTION_INCHES
        mixed = cell(1, top + line_inches / 2)
        share = f"{pair.share:.2f} {classes[pair.target.label]} + {1 - pair.share:.2f} {classes[pair.source.label]}"
        show_picture(mixed, pair.mixed, _shortened(share), pair.box, CUT_COLOUR)
        for picture, role, colour in ((pair.target, "target", PASTE_COLOUR), (pair.source, "source", CUT_COLOUR)):
            axis = cell(0, top)
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
            for col, seen in enumerate(columns.values(), start=2):
                map_ = seen[number].target_map if role == "target" else seen[number].source_map
                caption = f"probability {float(seen[number].probabilities[picture.label]):.2f}"
                _show_heat(cell(col, top), pair, map_, caption if map_.max() > 0 else f"{caption}, seen nowhere")
            top += line_inches
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


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
