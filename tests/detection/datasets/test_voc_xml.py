"""An annotation's objects are read where tools put them beyond doubt; what else looks like one is a defect."""

import pytest

from detection.datasets.types import AnnotatedObject
from detection.datasets.voc_xml import known_names, read_annotation

BOX = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"
CAT = AnnotatedObject("cat", (5, 6, 30, 40), False)


def thing(inside=BOX, name="cat"):
    return f"\n<object><name>{name}</name>{inside}</object>"


def read(text, names=("cat", "dog")):
    """Return what ``read_annotation`` makes of a file, and the defects that it told of without the file's name."""
    defects = []
    content = text if isinstance(text, bytes) else text.encode()
    width, height, objects = read_annotation("a.xml", content, known_names(names), defects.append)
    assert all(str(defect).startswith("a.xml, line ") for defect in defects)
    return (width, height), objects, [str(defect).removeprefix("a.xml, ") for defect in defects]


def annotation(*inside):
    return f"<annotation>{SIZE}{''.join(inside)}</annotation>"


@pytest.mark.parametrize(
    "text",
    [
        annotation(thing()),
        annotation("<objects>", thing(), "</objects>"),
        f'<annotation xmlns="http://x/y" verified="yes">{SIZE}{thing()}</annotation>',
        f'<v:annotation xmlns:v="urn:v">{SIZE}{thing()}</v:annotation>',
        # What LabelImg, CVAT, Roboflow, VoTT, labelme2voc and ImageNet-VID write besides.
        annotation("<folder/><filename>object.jpg</filename><path>/x</path><segmented>0</segmented>", thing()),
        annotation("<source><database>Difficult object bndbox</database><annotation>x</annotation></source>", thing()),
        annotation(
            "<owner><name>dog</name></owner>", thing(f"<pose/><truncated>0</truncated><occluded>0</occluded>{BOX}")
        ),
        annotation(thing(f"{BOX}<polygon><x1>1</x1><y1>2</y1></polygon><trackid>0</trackid><generated>0</generated>")),
        annotation(
            thing(f"<attributes><attribute><name>rotation</name><value>0</value></attribute></attributes>{BOX}")
        ),
        # The challenge's own: parts of persons with boxes, actions, a point.
        annotation(thing(f"{BOX}<part><name>head</name>{BOX}</part><part><name>foot</name>{BOX}</part>")),
        annotation(thing(f"{BOX}<actions><jumping>1</jumping></actions><point><x>4</x><y>5</y></point>")),
        annotation(thing(f"{BOX}<face>{BOX}</face>"), "<relation><object>cat</object></relation>"),
        annotation(thing(f"<difficult/>{BOX}"), "<!-- an object with bndbox -->"),
        annotation(thing()).encode("utf-16"),
    ],
)
def test_read_annotation__one_object(text):
    assert read(text) == ((64, 48), (CAT,), [])


@pytest.mark.parametrize("tag", ["difficult", "Difficult", "DIFFICULT"])
@pytest.mark.parametrize("value", ["1", "true", " 1 "])
def test_read_annotation__difficult_in_any_case(tag, value):
    _, objects, defects = read(annotation(thing(f"<{tag}>{value}</{tag}>{BOX}"), thing()))
    assert [item.difficult for item in objects] == [True, False]
    assert not defects


@pytest.mark.parametrize(
    "inside, text",
    [
        (thing(BOX * 3), "line 2: object 'cat' with 3 bndbox; expected one, and an object for each box"),
        (thing(f"{BOX}<difficult>0</difficult><difficult>1</difficult>"), "line 2: object 'cat' with 2 difficult"),
        (thing(f"{BOX}<difficult>0</difficult><Difficult>1</Difficult>"), "line 2: object 'cat' with 2 difficult"),
        (thing(BOX.replace("<ymin>", "<xmin>7</xmin><ymin>")), "line 2: object 'cat' with 2 xmin"),
        (thing(f"<name>dog</name>{BOX}"), "line 2: object 'cat' with several names"),
        (thing(BOX + BOX.replace("bndbox", "BndBox")), "line 2: object 'cat' with the tag 'BndBox'; expected 'bndbox'"),
        (thing(BOX.replace("bndbox", "BndBox")), "line 2: object 'cat' without bndbox"),
        (thing(BOX.replace("xmin", "Xmin")), "line 2: object 'cat' without xmin"),
        (thing().replace("object", "Object"), "line 2: the tag 'Object' is not read in annotation"),
        (f"<Objects>{thing()}</Objects>", "line 2: the tag 'object' is not read in annotation > Objects"),
        (f"<annotation>{thing()}</annotation>", "line 2: the tag 'object' is not read in annotation > annotation"),
        (thing(BOX + thing(name="dog")), "line 3: the tag 'object' is not read in annotation > object"),
        (f"\n<item><name>cat</name>{BOX}</item>", "line 2: the tag 'bndbox' is not read in annotation > item"),
        (f"\n{BOX}", "line 2: the tag 'bndbox' is not read in annotation"),
        ("\n<difficult>1</difficult>", "line 2: the tag 'difficult' is not read in annotation"),
        (thing(f"{BOX}<attributes>\n<difficult>1</difficult></attributes>"),
         "line 3: the tag 'difficult' is not read in annotation > object > attributes"),
        (thing(f"{BOX}<difficult>maybe</difficult>"), "line 2: difficult of object 'cat' is neither 0 nor 1: 'maybe'"),
        (thing(f"{BOX}<difficult>2</difficult>"), "line 2: difficult of object 'cat' is neither 0 nor 1: '2'"),
        (thing(BOX.replace("5", "1_0")), "line 2: xmin of object 'cat' is not a number: '1_0'"),
        (thing(BOX.replace("5", "9" * 400)), "line 2: xmin of object 'cat' is not a number: '999"),
        (thing(BOX.replace("5", "\ufeff5")), "line 2: xmin of object 'cat' is not a number: '\\ufeff5'"),
    ],
)  # fmt: skip
def test_read_annotation__what_is_not_understood_is_a_defect(inside, text):
    _, objects, defects = read(annotation(thing(name="dog"), inside))
    assert objects[0].name == "dog"
    (defect,) = defects
    number, text = text.split(": ", 1)
    assert f"line {int(number[5:]) + 1}: {text}" in defect


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "<HRSC_Image>\n<x/></HRSC_Image>",
            "line 1: the outermost tag is 'HRSC_Image', but a VOC annotation has 'annot",
        ),
        (f"\n<annotations>{annotation(thing())}</annotations>", "line 2: the outermost tag is 'annotations'"),
        (f"<annotation>\n{SIZE}\n{SIZE}</annotation>", "line 3: 2 tags 'size'; expected one"),
        (annotation().replace("<depth>", "<width>9</width><depth>"), "line 1: size with 2 width; expected one"),
        (annotation().replace("64", "wide"), "line 1: width of the picture is not a number: 'wide'"),
        (annotation().replace("48", "48.5"), "line 1: height of the picture is not a whole number: 48.5"),
        (annotation().replace("48", "-48"), "line 1: height of the picture is negative: -48"),
        (annotation().replace("48", "9" * 400), "line 1: height of the picture is not a number: '999"),
    ],
)
def test_read_annotation__refuses(text, message):
    with pytest.raises(ValueError, match=f"a.xml, {message}"):
        read(text)


@pytest.mark.parametrize("size", ["", "<size/>", SIZE.replace("64", "0").replace("48", "0"), "<size><width/></size>"])
def test_read_annotation__a_size_of_0_is_none(size):
    assert read(f"<annotation>{size}</annotation>")[0] == (0, 0)


def test_read_annotation__names_with_accents_have_one_form():
    composed, apart = "caf\u00e9", "cafe\u0301"
    for given, found in ((composed, apart), (apart, composed)):
        assert read(annotation(thing(name=found)), names=(given,))[1][0].name == given
    assert read(annotation(thing(name=apart)), names=None)[1][0].name == composed


def test_read_annotation__tags_nested_deeply():
    _, objects, defects = read(annotation("<a>" * 50_000, "<bndbox/>", "</a>" * 50_000, thing()))
    assert (len(objects), len(defects)) == (1, 1)
