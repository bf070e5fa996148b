import os

import pytest
from PIL import Image

from detection.datasets.types import AnnotatedObject
from detection.datasets.voc import VOC_CLASSES, load_voc


def test_load_voc__reads_the_boxes_as_they_stand_in_the_xml(voc_root):
    dataset = load_voc("voc_2007_trainval", root=voc_root)
    assert dataset.classes == VOC_CLASSES
    assert dataset.image_set == "trainval"
    assert [picture.image_id for picture in dataset.pictures] == ["000001", "000002", "000003", "000004"]
    second = dataset.pictures[1]
    assert (second.width, second.height) == (48, 64)
    assert second.path == voc_root / "VOC2007/JPEGImages/000002.jpg"
    assert second.objects == (
        AnnotatedObject("car", (4, 20, 44, 50), False),
        AnnotatedObject("dog", (6, 2, 20, 16), True),
    )
    assert dataset.pictures[2].objects == ()


def test_load_voc__classes_are_alphabetical():
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert len(VOC_CLASSES) == 20


def test_load_voc__finds_the_devkit_folder(voc_root, tmp_path):
    devkit = tmp_path / "other" / "VOCdevkit"
    devkit.parent.mkdir()
    voc_root.rename(devkit)
    assert load_voc("voc_2007_test", root=devkit.parent).folder == devkit / "VOC2007"
    assert load_voc("voc_2007_test", root=devkit).folder == devkit / "VOC2007"


@pytest.mark.parametrize("root", [None, ""])
def test_load_voc__root_defaults_to_the_variable_then_to_datasets(voc_root, monkeypatch, root):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(voc_root))
    assert load_voc("voc_2012_trainval", root=root).folder == voc_root / "VOC2012"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(voc_root.parent)
    assert len(load_voc("voc_2012_trainval", root=root).pictures) == 2


def test_load_voc__other_names_are_image_sets_of_the_root(voc_tree):
    dataset = load_voc("test", root=voc_tree.folder(), classes=["dog", "person", "car"])
    assert dataset.classes == ("dog", "person", "car")
    assert len(dataset.pictures) == 3


def test_load_voc__optional_tags_may_be_missing(voc_tree):
    edit(voc_tree.annotation("000001"), "<difficult>0</difficult>", "")
    edit(voc_tree.annotation("000001"), "<size><width>64</width><height>48</height><depth>3</depth></size>", "")
    picture = load_voc("voc_2007_trainval", root=voc_tree.root).pictures[0]
    assert (picture.width, picture.height) == (64, 48)
    assert not any(item.difficult for item in picture.objects)


def test_load_voc__size_from_a_rotated_picture_is_the_displayed_one(voc_tree):
    edit(voc_tree.annotation("000001"), "<width>64</width>", "<width>0</width>")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(voc_tree.picture("000001"), exif=exif)
    picture = load_voc("voc_2007_trainval", root=voc_tree.root).pictures[0]
    assert (picture.width, picture.height) == (48, 64)


def test_load_voc__odd_boxes_are_kept(voc_tree):
    edit(voc_tree.annotation("000001"), "<xmax>30</xmax>", "<xmax>5.5</xmax>")
    edit(voc_tree.annotation("000001"), "<ymax>44</ymax>", "<ymax>-3</ymax>")
    objects = load_voc("voc_2007_trainval", root=voc_tree.root).pictures[0].objects
    assert [item.box for item in objects] == [(5, 6, 5.5, 40), (34, 3, 60, -3)]


def test_load_voc__other_picture_formats(voc_tree):
    path = voc_tree.picture("000001")
    path.rename(path.with_suffix(".PNG"))
    assert load_voc("voc_2007_trainval", root=voc_tree.root).pictures[0].path == path.with_suffix(".PNG")


@pytest.mark.parametrize("image_id", ["\u00e9" * 300, "x" * 300])
def test_load_voc__an_id_that_is_too_long_for_a_file(voc_tree, image_id):
    voc_tree.image_set("test").write_text(image_id, "utf-8")
    with pytest.raises(ValueError, match=r"test.txt, line 1: annotation .* cannot be read: .*File name too long"):
        load_voc("voc_2007_test", root=voc_tree.root, check_pictures=False)


def test_load_voc__evaluation_needs_no_pictures(voc_tree):
    for image_id in ("000005", "000006", "000007"):
        voc_tree.picture(image_id).unlink()
    assert len(load_voc("voc_2007_test", root=voc_tree.root, check_pictures=False).pictures) == 3


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def replace_in_annotation(old, new):
    return lambda tree: edit(tree.annotation("000001"), old, new)


def test_load_voc__ids_name_folders_below(voc_tree):
    for folder, file in (("JPEGImages", "000001.jpg"), ("Annotations", "000001.xml")):
        path = voc_tree.folder() / folder
        (path / "s1").mkdir()
        (path / file).rename(path / "s1" / file)
    voc_tree.image_set("trainval").write_text("s1/000001\n000002\n")
    first, second = load_voc("voc_2007_trainval", root=voc_tree.root).pictures
    assert (first.image_id, first.path) == ("s1/000001", voc_tree.folder() / "JPEGImages" / "s1" / "000001.jpg")
    assert (len(first.objects), second.path) == (2, voc_tree.picture("000002"))


@pytest.mark.parametrize("in_set, on_disk", [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_load_voc__accents_of_ids_in_either_form(voc_tree, in_set, on_disk):
    voc_tree.picture("000001").rename(voc_tree.picture(on_disk))
    voc_tree.annotation("000001").rename(voc_tree.annotation(on_disk))
    voc_tree.image_set("trainval").write_text(f"{in_set}\n", "utf-8")
    (picture,) = load_voc("voc_2007_trainval", root=voc_tree.root).pictures
    assert (picture.image_id, picture.path.stem, picture.annotation.stem) == (in_set, on_disk, on_disk)


def test_load_voc__image_sets_of_editors(voc_tree):
    voc_tree.image_set("trainval").write_bytes(b"\xef\xbb\xbf000001\r000002\r\n\r\n")
    ids = [picture.image_id for picture in load_voc("voc_2007_trainval", root=voc_tree.root).pictures]
    assert ids == ["000001", "000002"]


def test_load_voc__where_every_entry_is_defective_the_defects_are_the_news(voc_tree):
    told = []
    for lines, damage in (("000001 1\n000002 -1\n", None), ("000001\n", voc_tree.picture("000001"))):
        voc_tree.image_set("own").write_text(lines)
        if damage:
            damage.unlink()
        dataset = load_voc("own", root=voc_tree.folder(), on_defect=lambda defect: told.append(str(defect)))
        assert (dataset.pictures, dataset.classes) == ((), ())
    assert "own.txt, line 1: expected one picture id, but got '000001 1': this is the set of one class" in told[0]
    assert "picture " in told[1]
    assert len(told) == 2


@pytest.mark.parametrize(
    "damage, error, text",
    [
        (lambda t: t.root.rename(t.root.with_name("gone")), FileNotFoundError,
         r"neither .*datasets/VOC2007 nor .*datasets/VOCdevkit/VOC2007 exists; set VOC.ROOT or \$DETECTRON2_DATASETS"),
        (lambda t: t.image_set("trainval").unlink(), FileNotFoundError,
         r"image set .*Main/trainval.txt does not exist; this folder has test$"),
        (lambda t: t.image_set("trainval").write_text("\n \n"), ValueError, r"trainval.txt names no picture"),
        (lambda t: t.image_set("trainval").write_text("000001 -1\n"), ValueError,
         r"trainval.txt, line 1: expected one picture id, but got '000001 -1': this is the set of one class"),
        (lambda t: t.image_set("trainval").write_text("000001\n000002 -1\n"), ValueError,
         r"trainval.txt, line 2: expected one picture id, but got '000002 -1'$"),
        (lambda t: t.image_set("trainval").write_text("../JPEGImages/000001\n"), ValueError,
         r"trainval.txt, line 1: id '../JPEGImages/000001' is no path below JPEGImages"),
        (lambda t: t.image_set("trainval").write_text("000001.jpg\n"), FileNotFoundError,
         r"000001.jpg.jpg of id '000001.jpg' does not exist; an id has no suffix"),
        (lambda t: t.image_set("trainval").write_text("\u00e9" * 300, "utf-8"), FileNotFoundError,
         r"trainval.txt, line 1: picture .* does not exist"),
        (lambda t: t.image_set("trainval").write_bytes("000001".encode("utf-16")), ValueError,
         r"trainval.txt, line 1: the file is UTF-16; save it as UTF-8"),
        (lambda t: t.image_set("trainval").write_bytes(b"000001\n\xe9\n"), ValueError,
         r"trainval.txt, line 2: byte 0xe9 at column 1 is not UTF-8"),
        (lambda t: t.image_set("trainval").write_text("000001\n000002\n\n000001\n"), ValueError,
         r"trainval.txt, line 4: duplicate id '000001', first seen in line 1"),
        (lambda t: t.annotation("000002").unlink(), FileNotFoundError,
         r"trainval.txt, line 2: annotation .*000002.xml of id '000002' does not exist"),
        (lambda t: t.picture("000002").unlink(), FileNotFoundError,
         r"trainval.txt, line 2: picture .*000002.jpg of id '000002' does not exist"),
        (replace_in_annotation("</name>", "</nome>"), ValueError,
         r"000001.xml, line 5, column 16: not well-formed XML \(mismatched tag\)"),
        (lambda t: t.annotation("000001").write_text(""), ValueError, r"000001.xml, line 1.*not well-formed"),
        (replace_in_annotation("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]>\n<annotation>'), ValueError,
         r"000001.xml, line 1: <!DOCTYPE is not allowed"),
        (lambda t: os.truncate(t.annotation("000001"), 1 << 30), ValueError,  # sparse: a gigabyte that takes no disk
         r"000001.xml: more than 16 MiB, which no VOC annotation has"),
        (lambda t: t.annotation("000001").write_bytes('<?xml version="1.0"?>\n<!ENTITY a "">'.encode("utf-16")),
         ValueError, r"000001.xml, line 2: <!ENTITY is not allowed"),
        (replace_in_annotation("<name>person</name>", ""), ValueError, r"000001.xml, line 9: object without name"),
        (replace_in_annotation("<name>dog</name>", "<name>wolf</name>"), ValueError,
         r"000001.xml, line 4: unknown class 'wolf'; the known ones are aeroplane, .*, tvmonitor"),
        (replace_in_annotation("<xmin>34</xmin>", ""), ValueError, r"000001.xml, line 9: object 'person' without xmin"),
        (replace_in_annotation("<ymax>40</ymax>", "<ymax>forty</ymax>"), ValueError,
         r"000001.xml, line 4: ymax of object 'dog' is not a number: 'forty'"),
        (replace_in_annotation("<ymax>40</ymax>", "<ymax>nan</ymax>"), ValueError,
         r"ymax of object 'dog' is not a number: 'nan'"),
        (replace_in_annotation("<width>64</width>", "<width>wide</width>"), ValueError,
         r"000001.xml, line 3: width of the picture is not a number: 'wide'"),
    ],
)  # fmt: skip
def test_load_voc__names_the_file_and_the_line(voc_tree, damage, error, text):
    damage(voc_tree)
    with pytest.raises(error, match=text):
        load_voc("voc_2007_trainval", root=voc_tree.root)


def test_load_voc__object_without_box(voc_tree):
    path = voc_tree.annotation("000002")
    path.write_text(path.read_text().replace("bndbox>", "box>"))
    with pytest.raises(ValueError, match=r"000002.xml, line 4: object 'car' without bndbox"):
        load_voc("voc_2007_trainval", root=voc_tree.root)


def test_load_voc__size_neither_in_xml_nor_in_a_picture(voc_tree):
    edit(voc_tree.annotation("000005"), "<width>64</width>", "")
    voc_tree.picture("000005").unlink()
    with pytest.raises(ValueError, match=r"000005.xml: no picture size, and picture .*000005.jpg"):
        load_voc("voc_2007_test", root=voc_tree.root, check_pictures=False)


def test_load_voc__without_a_class_list_takes_the_names_that_it_finds(voc_tree):
    assert load_voc("trainval", root=voc_tree.folder()).classes == ("car", "dog", "person")
    assert load_voc("voc_2007_trainval", root=voc_tree.root).classes == VOC_CLASSES
    voc_tree.image_set("none").write_text("000003\n")
    with pytest.raises(ValueError, match=r"'none': no picture of .*none.txt has an object, so its classes are unknown"):
        load_voc("none", root=voc_tree.folder())


def test_load_voc__on_defect_is_told_of_every_defect_and_the_rest_is_read(voc_tree):
    voc_tree.image_set("trainval").write_text("000001\n000002\n000002\n000003\n000004 1\n000099\n")
    edit(voc_tree.annotation("000001"), "<name>dog</name>", "<name>wolf</name>")
    edit(voc_tree.annotation("000001"), "<xmin>34</xmin>", "")
    voc_tree.annotation("000003").write_text("<annotation>")
    defects = []
    dataset = load_voc("voc_2007_trainval", root=voc_tree.root, on_defect=defects.append)
    assert [(picture.image_id, len(picture.objects)) for picture in dataset.pictures] == [("000001", 0), ("000002", 2)]
    said = [
        "duplicate id '000002'",
        "expected one picture id",
        "unknown class 'wolf'",
        "without xmin",
        "not well-formed XML",
        "000099.jpg of id '000099' does not exist",
    ]
    assert len(defects) == len(said)
    assert all(text in str(defect) for text, defect in zip(said, defects, strict=True))


@pytest.mark.parametrize(
    "image_id, fault",
    [
        ("/etc/passwd", "is no path below JPEGImages"),
        ("a/../../b", "is no path below JPEGImages"),
        ("..\\..\\b", "is no path below JPEGImages"),
        ("\\\\server\\b", "is no path below JPEGImages"),
        ("C:\\b", "is no path below JPEGImages"),
        ("a\ufeffb", "holds a control character"),
        ("a\x01b", "holds a control character"),
    ],
)
def test_load_voc__an_id_that_leads_elsewhere_or_cannot_be_written(image_id, fault, voc_tree):
    with voc_tree.image_set("trainval").open("a") as file:
        file.write(f"{image_id}\n")
    with pytest.raises(ValueError, match=r"trainval\.txt, line 5: id .* " + fault):
        load_voc("voc_2007_trainval", root=voc_tree.root)


def test_load_voc__found_classes_that_differ_in_case_are_two_where_files_are(voc_tree, monkeypatch):
    edit(voc_tree.annotation("000001"), "<name>dog<", "<name>Car<")
    monkeypatch.setattr("pretrain.run.files.FOLDS_CASE", False)
    assert {"Car", "car"} <= set(load_voc("trainval", root=voc_tree.folder()).classes)
    monkeypatch.setattr("pretrain.run.files.FOLDS_CASE", True)
    with pytest.raises(
        ValueError, match=r"class names 'Car' and 'car' would be one file's name; files are named after"
    ):
        load_voc("trainval", root=voc_tree.folder())


def test_load_voc__own_names_need_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"image set 'a/test' holds a slash; files of detections are named after it"):
        load_voc("a/test", root=tmp_path, classes=["dog"])
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; set VOC.ROOT .* ImageSets/Main/test.txt"):
        load_voc("test", root=tmp_path / "nowhere", classes=["dog"])
