"""COCO files mean what the same objects mean in the VOC layout, and every defect in them is named."""

import json

import pytest
from PIL import Image

from detection.config import get_cfg
from detection.datasets.coco import load_coco
from detection.datasets.load import load_dataset
from detection.datasets.types import AnnotatedObject
from detection.run_data import read_run_data
from detection.samples import TrainingSamples


def content():
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 3, "file_name": "b.png", "width": 48, "height": 64},
        ],
        "categories": [{"id": 9, "name": "person"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [4, 5, 26, 35], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 9, "bbox": [33.5, 2, 20, 40]},
            {"id": 3, "image_id": 3, "category_id": 9, "bbox": [0, 0, 48, 64], "iscrowd": 1},
        ],
    }


def write(root, file="annotations/train.json", data=None, pictures="images"):
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data if data is not None else content()))
    (root / pictures).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(root / pictures / "a.png")
    Image.new("RGB", (48, 64)).save(root / pictures / "b.png")
    return path


def test_load_coco__is_a_voc_dataset(tmp_path):
    path = write(tmp_path)
    dataset = load_dataset("annotations/train.json", root=tmp_path)
    assert (dataset.name, dataset.image_set, dataset.folder) == ("annotations_train", "train", tmp_path)
    assert dataset.classes == ("dog", "person")  # by number, as in Detectron2
    first, second = dataset.pictures
    assert (first.image_id, first.path, first.annotation) == ("7", tmp_path / "images" / "a.png", path)
    assert (first.width, first.height) == (64, 48)
    assert first.objects == (
        AnnotatedObject("dog", (5, 6, 30, 40), False, bbox=(4, 5, 26, 35)),
        AnnotatedObject("person", (34.5, 3, 53.5, 42), False, bbox=(33.5, 2, 20, 40)),
    )
    assert second.objects == (AnnotatedObject("person", (1, 1, 48, 64), True, True, bbox=(0, 0, 48, 64)),)


@pytest.mark.parametrize(
    "name, file, pictures",
    [
        ("coco_2017_val", "coco/annotations/instances_val2017.json", "coco/val2017"),
        ("instances_default.json", "instances_default.json", "images"),
        ("valid/_annotations.coco.json", "valid/_annotations.coco.json", "valid"),
        ("annotations/part.json", "annotations/part.json", "part"),
        ("annotations/part.json", "annotations/part.json", "."),
    ],
)
def test_load_coco__finds_the_pictures(tmp_path, name, file, pictures):
    write(tmp_path, file, pictures=pictures)
    found = load_coco(name, root=tmp_path).pictures[0].path
    assert found.samefile(tmp_path / pictures / "a.png")


def test_load_coco__detectron2_reads_the_same(tmp_path):
    coco = pytest.importorskip("detectron2.data.datasets.coco", reason="Detectron2 is not installed")
    path = write(tmp_path)
    records = {record["image_id"]: record for record in coco.load_coco_json(str(path), str(tmp_path / "images"), "own")}
    for picture in load_coco("annotations/train.json", root=tmp_path).pictures:
        record = records[int(picture.image_id)]
        assert (record["file_name"], record["width"]) == (str(picture.path), picture.width)
        for theirs, ours in zip(record["annotations"], picture.objects, strict=True):
            left, top, width, height = theirs["bbox"]
            assert (left, top, left + width, top + height) == (ours.box[0] - 1, ours.box[1] - 1, *ours.box[2:])
            assert theirs["category_id"] == ("dog", "person").index(ours.name)


def test_training_samples__leave_crowds_out(tmp_path):
    write(tmp_path)
    cfg = get_cfg()
    cfg.VOC.ROOT, cfg.VOC.CLASSES = str(tmp_path), ("dog", "person")
    cfg.DATASETS.TRAIN = ("annotations/train.json",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP, cfg.SEED = (48,), "none", 0
    samples = TrainingSamples(cfg, read_run_data(cfg)[1].train)
    assert [picture.image_id for picture in samples.pictures] == ["7"]
    assert samples[0, 0]["boxes"].tolist() == [[4, 5, 30, 40], [33.5, 2, 53.5, 42]]
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert TrainingSamples(cfg, read_run_data(cfg)[1].train)[1, 0]["boxes"].shape == (0, 4)


def test_load_coco__a_size_that_is_absent_comes_from_the_picture(tmp_path):
    data = content()
    del data["images"][0]["width"]
    write(tmp_path, data=data)
    assert load_coco("annotations/train.json", root=tmp_path).pictures[0].width == 64


def change(*keys, **values):
    """Return a damage: the entry at ``keys`` gets ``values``; None removes."""

    def damage(data):
        for key in keys:
            data = data[key]
        for name, value in values.items():
            if value is None:
                del data[name]
            else:
                data[name] = value

    return damage


@pytest.mark.parametrize(
    "damage, error, text",
    [
        (change(images=None), ValueError, r"train.json: expected a list 'images'; it holds categories, annotations"),
        (change(images=[]), ValueError, r"train.json names no picture"),
        (change(categories=[]), ValueError, r"train.json has no category"),
        (change("categories", 1, name="person"), ValueError, r"categories\[1\]: a second category 2 or 'person'"),
        (change("categories", 1, name=None), ValueError, r"categories\[1\] without name"),
        (change("images", 1, id=7), ValueError, r"images\[1\]: duplicate id 7"),
        (change("images", 1, id=None), ValueError, r"images\[1\] without id"),
        (change("images", 1, file_name="c.png"), FileNotFoundError, r"picture .*c.png of images\[1\] does not exist"),
        (change("images", 0, file_name="c.png"), FileNotFoundError, r"picture .*c.png of images\[0\] does not exist"),
        (change("images", 0, file_name=None), ValueError, r"images\[0\]: file_name must be text, but is None"),
        (change("images", 0, file_name="c\0.png"), FileNotFoundError, r"of images\[0\] does not exist"),
        (change("images", 0, file_name="\ud800"), ValueError, r"images\[0\]: file_name must be text, but is '\\ud800'"),
        (change("images", 0, id="\ud800"), ValueError, r"images\[0\]: id '\\ud800' holds a control character"),
        (change("images", 0, id=True), ValueError, r"images\[0\]: id must be a number or text, but is True"),
        (change("images", 0, id="a b"), ValueError, r"images\[0\]: id 'a b' is not one word"),
        (change("images", 0, width="64"), ValueError, r"images\[0\]: width is not a whole number: '64'"),
        (change("images", 0, width=64.5), ValueError, r"images\[0\]: width is not a whole number: 64.5"),
        (change("images", 0, height=-48), ValueError, r"images\[0\]: height is negative: -48"),
        (change("images", 0, height=10**400), ValueError, r"images\[0\]: height is not a whole number: an integer of"),
        (change("categories", 0, id=True), ValueError, r"categories\[0\]: expected a number and a name, but got True"),
        (change("categories", 0, name="a/c"), ValueError, r"categories\[0\]: class name 'a/c' holds a slash"),
        (change("categories", 0, name="a\0c"), ValueError, r"categories\[0\]: class name 'a\\x00c' holds a control"),
        (change("categories", 0, name="x" * 151), ValueError, r"class name 'x+'... is longer than 150 bytes"),
        (
            change("annotations", 0, image_id=True),
            ValueError,
            r"annotations\[0\]: image_id True is not among the images",
        ),
        (change("annotations", 0, category_id=2.0), ValueError, r"category_id 2.0 is not among the categories"),
        (
            change("annotations", 0, bbox=[10**400, 2, 3, 4]),
            ValueError,
            r"bbox must be four finite numbers, but is \[1000",
        ),
        (
            change("annotations", 0, bbox=["4", 5, 26, 35]),
            ValueError,
            r"bbox must be four finite numbers, but is \['4'",
        ),
        (
            change("annotations", 0, bbox=[True, 5, 26, 35]),
            ValueError,
            r"bbox must be four finite numbers, but is \[True",
        ),
        (
            change("annotations", 0, iscrowd="maybe"),
            ValueError,
            r"annotations\[0\]: iscrowd is neither 0 nor 1: 'maybe'",
        ),
        (change("annotations", 0, iscrowd=2), ValueError, r"annotations\[0\]: iscrowd is neither 0 nor 1: 2"),
        (change("annotations", 0, area="910"), ValueError, r"annotations\[0\]: area is not a finite number: '910'"),
        (change("annotations", 2, image_id=8), ValueError, r"annotations\[2\]: image_id 8 is not among the images"),
        (change("annotations", 2, image_id=[3]), ValueError, r"annotations\[2\]: image_id \[3\] is not among"),
        (change("annotations", 2, category_id=1), ValueError, r"category_id 1 is not among the categories"),
        (change("annotations", 2, bbox=None), ValueError, r"annotations\[2\] without bbox"),
        (change("annotations", 2, bbox=[1, 2, 3]), ValueError, r"bbox must be four finite numbers, but is \[1, 2, 3\]"),
        (change("annotations", 2, bbox=[1, 2, 3, float("nan")]), ValueError, r"bbox must be four finite numbers"),
    ],
)
def test_load_coco__names_the_file_and_the_entry(tmp_path, damage, error, text):
    data = content()
    damage(data)
    write(tmp_path, data=data)
    with pytest.raises(error, match=text):
        load_coco("annotations/train.json", root=tmp_path)


def test_load_coco__unknown_class_and_files_that_are_none(tmp_path):
    path = write(tmp_path)
    with pytest.raises(ValueError, match=r"annotations\[1\]: unknown class 'person'; the known ones are dog"):
        load_coco("annotations/train.json", root=tmp_path, classes=["dog"])
    path.write_text('{"images":\n [}')
    with pytest.raises(ValueError, match=r"train.json, line 2: not JSON"):
        load_coco("annotations/train.json", root=tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"expected an object with images, annotations, categories, but got list"):
        load_coco("annotations/train.json", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"COCO file .*none.json does not exist"):
        load_coco("none.json", root=tmp_path)


def test_load_coco__on_defect_is_told_of_every_defect_and_the_rest_is_read(tmp_path):
    data = content()
    data["images"].append({"id": 3, "file_name": "b.png"})
    data["annotations"][0]["bbox"] = "wide"
    data["annotations"][1]["category_id"] = 1
    write(tmp_path, data=data)
    defects = []
    dataset = load_coco("annotations/train.json", root=tmp_path, on_defect=defects.append)
    assert [len(picture.objects) for picture in dataset.pictures] == [0, 1]
    assert ["duplicate id 3" in str(defects[0]), "bbox must" in str(defects[1]), len(defects)] == [True, True, 3]


@pytest.mark.parametrize(
    "value, crowd", [(0, False), ("0", False), (False, False), (1, True), ("1", True), (True, True)]
)
def test_load_coco__iscrowd_means_what_it_says(tmp_path, value, crowd):
    data = content()
    data["annotations"][0]["iscrowd"] = value
    write(tmp_path, data=data)
    item = load_coco("annotations/train.json", root=tmp_path).pictures[0].objects[0]
    assert (item.crowd, item.difficult) == (crowd, crowd)


def test_load_coco__keeps_numbers_of_categories_and_areas(tmp_path):
    data = content()
    data["annotations"][0]["area"] = 77
    data["categories"].append({"id": 0, "name": "animals"})
    write(tmp_path, data=data)
    for classes in (None, ["person", "dog"]):
        dataset = load_coco("annotations/train.json", root=tmp_path, classes=classes)
        assert dataset.classes == tuple(classes or ("animals", "dog", "person"))
        assert dataset.categories == ((0, "animals"), (2, "dog"), (9, "person"))
    assert [item.area for item in dataset.pictures[0].objects] == [77, None]


def test_load_coco__keeps_boxes_to_the_last_bit(tmp_path):
    data = content()
    data["annotations"][0]["bbox"] = [0.1, 0.2, 0.3, 0.4]  # .1 + 1 - 1 is not .1
    write(tmp_path, data=data)
    item = load_coco("annotations/train.json", root=tmp_path).pictures[0].objects[0]
    assert item.bbox == (0.1, 0.2, 0.3, 0.4)
    assert item.box == (1.1, 1.2, 0.1 + 0.3, 0.2 + 0.4)


def test_load_coco__ids_are_numbers_or_words(tmp_path):
    data = content()
    data["images"][1]["id"] = data["annotations"][2]["image_id"] = "3"
    write(tmp_path, data=data)
    dataset = load_coco("annotations/train.json", root=tmp_path)
    assert [(picture.image_id, picture.number) for picture in dataset.pictures] == [("7", 7), ("3", None)]
    assert dataset.format == "coco"


def test_load_coco__a_size_of_0_or_none_comes_from_the_picture(tmp_path):
    data = content()
    data["images"][0]["width"], data["images"][1]["height"] = 0, None
    write(tmp_path, data=data)
    pictures = load_coco("annotations/train.json", root=tmp_path).pictures
    assert [(picture.width, picture.height) for picture in pictures] == [(64, 48), (48, 64)]


def test_load_coco__evaluation_finds_the_pictures_where_training_does(tmp_path):
    path = write(tmp_path, pictures="images")
    found = load_coco("annotations/train.json", root=tmp_path, check_pictures=False).pictures[1].path
    assert found == tmp_path / "images" / "b.png"
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).unlink()
    pictures = load_coco("annotations/train.json", root=tmp_path, check_pictures=False).pictures
    assert [picture.path for picture in pictures] == [path.parent / "a.png", path.parent / "b.png"]
    with pytest.raises(
        FileNotFoundError, match=r"the first picture, a.png, is in none of .*, and neither is any other"
    ):
        load_coco("annotations/train.json", root=tmp_path)


def test_load_coco__where_every_entry_is_defective_all_defects_are_told(tmp_path):
    data = content()
    for image in data["images"]:
        del image["file_name"]
    data["annotations"][0]["bbox"] = None
    for category in data["categories"]:
        category["name"] = 5
    write(tmp_path, data=data)
    told = []
    dataset = load_coco("annotations/train.json", root=tmp_path, on_defect=lambda defect: told.append(str(defect)))
    assert (dataset.pictures, dataset.classes) == ((), ())
    assert sum("categories[" in text and "expected a number and a name" in text for text in told) == 2
    assert "no image has a file_name that is text" in told[-1]


def test_load_coco__text_of_other_encodings_and_keys_that_stand_twice(tmp_path):
    path = write(tmp_path)
    good = path.read_text()
    path.write_text(good, "utf-8-sig")
    assert len(load_coco("annotations/train.json", root=tmp_path).pictures) == 2
    path.write_text(good, "utf-16")
    with pytest.raises(ValueError, match=r"train.json, line 1: the file is UTF-16; save it as UTF-8"):
        load_coco("annotations/train.json", root=tmp_path)
    path.write_text(good.replace('"annotations"', '"images": [], "annotations"'))
    with pytest.raises(ValueError, match=r"train.json: .*the key 'images' stands twice"):
        load_coco("annotations/train.json", root=tmp_path)


@pytest.mark.parametrize(
    "name", ["{elsewhere}/secret.png", "../../elsewhere/secret.png", "a/../../../elsewhere/secret.png"]
)
def test_load_coco__a_picture_outside_of_the_root_is_refused_unless_meant(name, tmp_path):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    elsewhere.mkdir()
    (root / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(elsewhere / "secret.png")
    data = content()
    data["images"][0]["file_name"] = name.format(elsewhere=elsewhere)
    write(root, data=data)
    defects = []
    dataset = load_coco("annotations/train.json", root=root, on_defect=lambda error: defects.append(str(error)))
    assert [picture.image_id for picture in dataset.pictures] == ["3"]
    assert len(defects) == 1
    assert f"images[0]: file_name {data['images'][0]['file_name']!r} lies outside of the dataset's folder" in defects[0]
    assert "VOC.PICTURES_ANYWHERE True" in defects[0]
    meant = load_coco("annotations/train.json", root=root, pictures_anywhere=True)
    assert meant.pictures[0].path.resolve() == elsewhere / "secret.png"


def test_load_coco__pictures_elsewhere_in_the_root(tmp_path):
    """Named by a path from the file, by their whole path, and in folders that are links."""
    real, root = tmp_path / "disk", tmp_path / "root"
    write(real / "set", pictures="pictures")
    root.mkdir()
    (root / "linked").symlink_to(real / "set")
    for first in ("../pictures/a.png", f"{root}/linked/pictures/a.png"):
        data = content()
        data["images"][0]["file_name"] = first
        data["images"][1]["file_name"] = first.replace("a.png", "b.png")
        (real / "set" / "annotations" / "train.json").write_text(json.dumps(data))
        dataset = load_coco("linked/annotations/train.json", root=root)
        assert dataset.pictures[0].path == root / "linked" / "pictures" / "a.png"


def test_load_coco__what_lies_above_a_linked_folder_is_outside(tmp_path):
    """``images`` leads to another disk; ``images/..`` is the root, and not that disk."""
    root, disk = tmp_path / "root", tmp_path / "disk"
    (disk / "images").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(disk / "secret.png")
    data = content()
    data["images"][0]["file_name"] = "../root/images/../secret.png"
    root.mkdir()
    (root / "images").symlink_to(disk / "images")
    write(root, data=data)
    with pytest.raises(FileNotFoundError, match=r"secret\.png of images\[0\] does not exist"):
        load_coco("annotations/train.json", root=root)


def test_read_run_data__pictures_anywhere(tmp_path):
    data = content()
    for image in data["images"]:
        image["file_name"] = str(tmp_path / "elsewhere" / image["file_name"])
    write(tmp_path / "root", data=data, pictures=tmp_path / "elsewhere")
    cfg = get_cfg()
    cfg.VOC.ROOT, cfg.DATASETS.TEST = str(tmp_path / "root"), ("annotations/train.json",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    with pytest.raises(ValueError, match="lies outside of the dataset's folder"):
        read_run_data(cfg, train=False)
    cfg.VOC.PICTURES_ANYWHERE = True
    assert len(read_run_data(cfg, train=False)[1].test[0].pictures) == 2
