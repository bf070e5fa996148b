"""What stands where on the two sheets."""

import pytest
import torch
from matplotlib.figure import Figure

from pretrain.inspect.cam_sheet import write_sheet_by_method, write_sheet_by_network
from pretrain.inspect.contact_sheet import PatchBox
from pretrain.inspect.mixed_pairs import Pair, Seen, View
from pretrain.inspect.pairs import LabelledPicture

CLASSES = ["tiger cat", "golden retriever"]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return a function: a writer of sheets and its views -> column titles, and line by line the captions of cells."""

    def draw(write, views):
        figures = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: figures.append(figure))
        write(views, CLASSES, tmp_path / "sheet.png")
        (figure,) = figures
        lines = {}
        for axis in figure.axes:
            box = axis.get_position()
            lines.setdefault(round(-box.y0, 3), []).append((box.x0, [text.get_text() for text in axis.texts]))
        cells = [[text for _, text in sorted(line)] for _, line in sorted(lines.items())]
        return [text.get_text() for text in figure.texts], cells

    return draw


def view(network, method, *, share, probabilities, nowhere=False):
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    source, target = LabelledPicture("a/cat.jpg", 0, picture), LabelledPicture("b/dog.jpg", 1, picture)
    pair = Pair(source, target, picture, share, PatchBox(0, 0, 4, 4) if share < 1 else None)
    seen = Seen(torch.full((2, 2), -1.0 if nowhere else 1.0), torch.ones(2, 2), torch.tensor(probabilities))
    return View(network, method, [pair], [seen])


LABELS = [["dog", "golden\nretriever\n(target)"], ["cat", "tiger cat\n(source)"]]


def test_write_sheet_by_method__the_pictures_above_the_maps_of_both_classes(drawn):
    views = [
        view("plain", "baseline", share=1.0, probabilities=[0.1, 0.9], nowhere=True),
        view("plain", "cutmix", share=0.75, probabilities=[0.3, 0.7]),
    ]
    titles, cells = drawn(write_sheet_by_method, views)
    assert titles == ["picture", "input", "cutmix"]
    assert cells == [
        [["seen by\nplain"], ["1.00 target"], ["0.75 target + 0.25 source"]],
        [LABELS[0], ["probability 0.90"], ["probability 0.70"]],
        [LABELS[1], ["probability 0.10, seen nowhere"], ["probability 0.30"]],
    ]


def test_write_sheet_by_network__the_mixed_picture_beside_the_maps_of_both_classes(drawn):
    views = [
        view("one", "cutmix", share=0.5, probabilities=[0.2, 0.8]),
        view("two", "cutmix", share=0.5, probabilities=[0.4, 0.6]),
    ]
    titles, cells = drawn(write_sheet_by_network, views)
    assert titles == ["picture", "mixed", "one", "two"]
    assert cells == [
        [LABELS[0], ["probability 0.80"], ["probability 0.60"]],
        [["0.50 target + 0.50 source"]],  # halfway between the two lines
        [LABELS[1], ["probability 0.20"], ["probability 0.40"]],
    ]
