"""Every defect of a dataset is found, named and weighed; only those that training cannot survive stop it."""

import json
import logging

import pytest
from PIL import Image

from detection.config import get_cfg
from detection.datasets import check as check_module
from detection.datasets.check import (
    SURVIVED,
    check_before_training,
    check_dataset,
    describe_datasets,
    list_defects,
    overlaps,
)
from detection.run_data import read_run_data
from detection.samples import TrainingSamples

CLASSES = ("dog", "person", "car")


def check(tree, name="voc_2007_trainval", **options):
    return check_dataset(name, root=tree.root, **{"classes": CLASSES, **options})


def set_box(tree, *box, image_id="000004"):
    sides = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    tree.annotation(image_id).write_text(
        f"<annotation><size><width>64</width><height>48</height></size>"
        f"<object><name>dog</name><bndbox>{sides}</bndbox></object></annotation>"
    )


def test_check_dataset__nothing_is_wrong_with_the_miniature_tree(voc_tree):
    assert check(voc_tree).defects == ()


@pytest.mark.parametrize("box, kind, trained", [
    ((1, 1, 64, 48), None, 1),
    ((10, 10, 9, 20), "box without area", 0),  # 9 is left of 10: not a single column
    ((10, 20, 30, 12), "box without area", 0),
    ((10, 10, 10, 20), "box of one pixel", 1),
    ((65, 3, 80, 9), "box outside of the picture", 0),
    ((3, -9, 30, 0), "box outside of the picture", 0),
    ((0, 1, 64, 48), "box across the border", 1),
    ((1, 1, 64, 49), "box across the border", 1),
    ((1, 1.5, 64, 48), "coordinates not whole", 1),
])  # fmt: skip
def test_check_dataset__boxes_are_judged_as_training_treats_them(voc_tree, box, kind, trained):
    set_box(voc_tree, *box)
    result = check(voc_tree)
    assert dict(result.survived()) == ({kind: 1} if kind else {})
    assert all("000004.xml: dog (" in defect.text and "in 64x48" in defect.text for defect in result.defects)
    cfg = get_cfg()
    cfg.VOC.ROOT, cfg.VOC.CLASSES, cfg.SEED = str(voc_tree.root), CLASSES, 0
    cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TRAIN = ("voc_2007_trainval",), (48,)
    samples = TrainingSamples(cfg, read_run_data(cfg)[1].train)
    place = [picture.image_id for picture in samples.pictures].index("000004")
    assert len(samples[place, 0]["boxes"]) == trained


def test_check_dataset__pictures(voc_tree):
    voc_tree.picture("000002").write_bytes(voc_tree.picture("000002").read_bytes()[:300])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(voc_tree.picture("000001"), exif=exif)  # 64x48 as displayed
    Image.new("RGB", (64, 48)).save(voc_tree.picture("000004"), exif=exif)
    result = check(voc_tree)
    assert any("000002.jpg cannot be read" in text for text in result.fatal)
    assert any("000004.xml: the boxes are for a picture of 64x48 pixels" in text for text in result.fatal)
    assert len(result.fatal) == 2
    assert dict(result.survived()) == {"rotated picture": 1}
    assert check(voc_tree, read_pictures=False).defects == ()


def test_check_dataset__collects_what_the_reader_refuses(voc_tree):
    voc_tree.image_set("trainval").write_text("000001\n000001\n000002\n000009\n")
    path = voc_tree.annotation("000002")
    path.write_text(path.read_text().replace("<name>car", "<name>lorry"))
    result = check(voc_tree)
    assert len(result.fatal) == 3
    assert [picture.image_id for picture in result.dataset.pictures] == ["000001", "000002"]
    with pytest.raises(ValueError, match=r"duplicate id '000001', .*; and 2 more such defects, which tools/check_data"):
        check_before_training([result])


def test_check_dataset__what_the_reader_gave_up_for_comes_last(voc_tree, monkeypatch):
    def load(name, *, on_defect, **_options):
        on_defect(ValueError("first"))
        raise ValueError("then")

    monkeypatch.setattr(check_module, "load_dataset", load)
    result = check(voc_tree)
    assert result.fatal == ["first", "then"]
    assert result.dataset.classes == CLASSES
    assert ["pictures", "0"] in [line.split() for line in describe_datasets([result])]


@pytest.mark.parametrize("annotations, text", [
    ([], r"none of the 1 pictures of gt has an object to train on; training stops unless DATALOADER.FILTER_EMPTY"),
    ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1}],
     r"none of the 1 pictures of gt has an object to train on; its 1 objects are crowds"),
])  # fmt: skip
def test_check_dataset__nothing_to_train_on(voc_tree, annotations, text):
    image = {"id": 1, "file_name": "JPEGImages/000001.jpg", "width": 64, "height": 48}
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
    (voc_tree.folder() / "gt.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=text):
        check_before_training([check_dataset("gt.json", root=voc_tree.folder())])
    assert check_dataset("gt.json", root=voc_tree.folder(), alone=False).defects == ()


def test_check_dataset__where_all_pictures_are_missing_they_are_the_defects(voc_tree):
    for image_id in ("000005", "000006", "000007"):
        voc_tree.picture(image_id).unlink()
    result = check_dataset("test", root=voc_tree.folder())
    assert len(result.fatal) == 3
    assert all("does not exist" in text for text in result.fatal)


def test_check_before_training__counts_what_it_survives(voc_tree, caplog):
    set_box(voc_tree, 10, 10, 9, 20)
    set_box(voc_tree, 0, 10, 9, 20, image_id="000001")
    set_box(voc_tree, 0, 10, 9, 20, image_id="000003")
    caplog.set_level(logging.WARNING, "detection")
    check_before_training([check(voc_tree)])
    assert "voc_2007_trainval: 2 x box across the border: clipped in training" in caplog.text
    assert "voc_2007_trainval: 1 x box without area: left out of training" in caplog.text


def test_describe_datasets__counts_by_class_and_split(voc_tree):
    checks = [check(voc_tree), check(voc_tree, "voc_2007_test")]
    lines = {tuple(line.split()) for line in describe_datasets(checks)}
    assert {
        ("voc_2007_trainval", "voc_2007_test"),
        ("dog", "2", "1"),
        ("person", "2", "1"),
        ("car", "1", "1"),
        ("all", "objects", "5", "3"),
        ("difficult", "or", "crowd", "1", "1"),
        ("pictures", "4", "3"),
        ("without", "objects", "1", "1"),
        ("width,", "min", "median", "max", "48", "64", "64", "48", "64", "64"),
    } <= lines
    more = check(voc_tree, classes=(*CLASSES, "cat"))
    assert describe_datasets([more])[-1] == "voc_2007_trainval has no example of cat"


def test_overlaps__the_same_file_in_two_splits(voc_tree):
    assert overlaps([check(voc_tree), check(voc_tree, "voc_2007_test")]) == []
    with voc_tree.image_set("test").open("a") as file:
        file.write("000001\n")
    (line,) = overlaps([check(voc_tree), check(voc_tree, "voc_2007_test")])
    assert line.startswith("voc_2007_trainval and voc_2007_test share 1 pictures, such as ")


def test_list_defects__fatal_ones_first_and_long_lists_cut(voc_tree):
    box = "<bndbox><xmin>0</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = f"<object><name>dog</name>{box}</object>" * 25
    voc_tree.annotation("000001").write_text(f"<annotation>{objects}</annotation>")
    voc_tree.annotation("000002").unlink()
    lines = list_defects(check(voc_tree))
    assert lines[0].startswith("FATAL  ")
    assert lines[-1] == "box across the border: 5 more"
    assert len(lines) == 1 + 20 + 1
    assert set(SURVIVED) >= {line.partition(",")[0].partition(":")[0] for line in lines[1:]}
