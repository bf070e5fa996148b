"""The data of a run: read once, checked once, with the classes that it names."""

import json
import logging

import pytest
from PIL import Image

from detection.config import load_detection_config
from detection.datasets import check as check_module
from detection.run_data import read_run_data

OWN = ["DATASETS.TRAIN", "('trainval',)", "DATASETS.TEST", "('test',)", "SEED", "0"]


@pytest.fixture
def configure(voc_tree):
    def load(*opts, classes=3):
        fixed = [*OWN, "VOC.ROOT", str(voc_tree.folder()), "MODEL.ROI_HEADS.NUM_CLASSES", str(classes)]
        return load_detection_config(None, [*fixed, *opts])

    return load


@pytest.fixture
def reads(monkeypatch):
    """The names of the datasets in the order in which they were read."""
    names = []
    load = check_module.load_dataset

    def record(name, **options):
        names.append(name)
        return load(name, **options)

    monkeypatch.setattr(check_module, "load_dataset", record)
    return names


def test_read_run_data__finds_the_classes_and_reads_every_dataset_once(configure, reads, caplog):
    caplog.set_level(logging.INFO, "detection")
    given = configure()
    cfg, data = read_run_data(given)
    assert cfg.VOC.CLASSES == ("car", "dog", "person")
    assert given.VOC.CLASSES == ()
    assert [dataset.name for dataset in (*data.train, *data.test)] == ["trainval", "test"]
    assert all(dataset.classes == cfg.VOC.CLASSES for dataset in (*data.train, *data.test))
    assert reads == ["trainval", "test"]
    assert "classes found in trainval: car, dog, person" in caplog.text


def test_read_run_data__given_classes_and_a_set_that_is_named_twice(configure, reads):
    given = configure("VOC.CLASSES", "('dog', 'person', 'car')", "DATASETS.TEST", "('trainval', 'test')")
    cfg, data = read_run_data(given)
    assert cfg == given
    assert data.train[0] is data.test[0]
    assert reads == ["trainval", "test"]


def test_read_run_data__held_out_pictures_are_tested_on_and_not_trained_on(configure, caplog):
    caplog.set_level(logging.INFO, "detection")
    both = ["DATASETS.TEST", "('trainval', 'test')", "DATASETS.HELD_OUT", "0.5"]
    _, whole = read_run_data(configure())
    _, data = read_run_data(configure(*both))
    rest, held = ({one.image_id for one in dataset.pictures} for dataset in (data.train[0], data.test[0]))
    assert rest.isdisjoint(held)
    assert rest | held == {one.image_id for one in whole.train[0].pictures}
    assert data.test[1] == whole.test[0]
    assert f"{len(held)} pictures of the training data are held out, {len(rest)} left" in caplog.text
    _, alone = read_run_data(configure(*both), train=False)  # as it is evaluated later
    assert alone == data._replace(train=())


def test_read_run_data__of_an_evaluation_alone(configure, reads):
    _, data = read_run_data(configure("VOC.CLASSES", "('dog', 'person', 'car')"), train=False)
    assert (data.train, len(data.test), reads) == ((), 1, ["test"])


def test_read_run_data__several_lists_become_one(configure, voc_tree):
    voc_tree.add("more", "000009", (64, 48), [("car", (5, 6, 30, 40), False)])
    cfg, data = read_run_data(configure("DATASETS.TRAIN", "('more', 'trainval')"))
    assert cfg.VOC.CLASSES == ("car", "dog", "person")
    assert [dataset.classes for dataset in data.train] == [cfg.VOC.CLASSES] * 2


def test_read_run_data__classes_of_coco_files_keep_their_order(configure, voc_tree):
    content = {
        "images": [{"id": 1, "file_name": "JPEGImages/000001.jpg", "width": 64, "height": 48}],
        "annotations": [],
        "categories": [{"id": 5, "name": "person"}, {"id": 2, "name": "zebra"}],
    }
    (voc_tree.folder() / "train.json").write_text(json.dumps(content))
    cfg, _ = read_run_data(configure("DATASETS.TRAIN", "('train.json',)", "DATASETS.TEST", "()", classes=2))
    assert cfg.VOC.CLASSES == ("zebra", "person")
    both = configure("DATASETS.TRAIN", "('trainval', 'train.json')", "DATASETS.TEST", "()", classes=4)
    assert read_run_data(both)[0].VOC.CLASSES == ("car", "dog", "person", "zebra")


def test_read_run_data__refuses_another_number_of_classes(configure):
    with pytest.raises(ValueError, match=r"is 20, but trainval \(car, dog, person\) has 3 classes; write .* 3"):
        read_run_data(configure(classes=20))


def test_read_run_data__says_the_defect_that_hides_a_class(configure, voc_tree):
    voc_tree.annotation("000002").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"000002\.xml, line 1, column 13: not well-formed XML"):
        read_run_data(configure())


@pytest.mark.parametrize(
    "ids, why", [("000006", "there is no object"), ("000005", "all 1 objects are difficult or crowds")]
)
def test_read_run_data__refuses_a_test_set_that_gives_no_number(configure, voc_tree, ids, why):
    path = voc_tree.annotation("000005")
    path.write_text(
        "<annotation><size><width>64</width><height>48</height></size><object><name>dog</name>"
        "<difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        "</object></annotation>"
    )
    voc_tree.image_set("test").write_text(f"{ids}\n")
    with pytest.raises(ValueError, match=f"test, of DATASETS.TEST, has nothing to find in 1 pictures: {why}"):
        read_run_data(configure())


def test_read_run_data__refuses_an_image_set_that_is_not_there(configure):
    with pytest.raises(FileNotFoundError, match=r"Main/train.txt does not exist; this folder has test, trainval"):
        read_run_data(configure("DATASETS.TRAIN", "('train',)"))


def test_read_run_data__an_own_set_whose_name_begins_like_the_challenges(configure, voc_tree):
    voc_tree.image_set("trainval").rename(voc_tree.image_set("voc_train"))
    cfg, data = read_run_data(configure("DATASETS.TRAIN", "('voc_train',)"))
    assert cfg.VOC.CLASSES == ("car", "dog", "person")
    assert [dataset.image_set for dataset in data.train] == ["voc_train"]


def test_read_run_data__refuses_a_found_name_as_a_given_one(configure, voc_tree):
    annotation = voc_tree.annotation("000001")
    annotation.write_text(annotation.read_text().replace("<name>dog<", "<name>a/c unit<"))
    with pytest.raises(ValueError, match=r"000001\.xml, line \d+: class name 'a/c unit' holds a slash"):
        read_run_data(configure())


def test_read_run_data__a_test_set_with_a_class_that_training_lacks(configure, voc_tree):
    annotation = voc_tree.annotation("000007")
    annotation.write_text(annotation.read_text().replace("<name>car<", "<name>bus<"))
    with pytest.raises(ValueError, match=r"000007\.xml, line \d+: unknown class 'bus'; the known ones are car"):
        read_run_data(configure())


def test_read_run_data__opens_every_picture_and_names_the_first_that_is_damaged(configure, voc_tree):
    for image_id in ("000002", "000004", "000007"):
        voc_tree.picture(image_id).write_bytes(voc_tree.picture(image_id).read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"000002\.jpg cannot be read: .*; and 2 more such .*/check_dataset\.py lists"):
        read_run_data(configure())
    with pytest.raises(ValueError, match=r"000007\.jpg cannot be read: image file is truncated \(\d+ bytes [^;]*$"):
        read_run_data(configure(), train=False)
    assert len(read_run_data(configure(), open_pictures=False)[1].train[0].pictures) == 4


def test_read_run_data__says_what_training_survives_of_the_pictures(configure, voc_tree, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (64, 48)).save(voc_tree.picture("000001"), exif=exif)
    caplog.set_level(logging.WARNING, "detection")
    read_run_data(configure())
    assert "trainval: 1 x rotated picture: turned upright" in caplog.text
