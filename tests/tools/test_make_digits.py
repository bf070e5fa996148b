"""tools/make_digits.py: what it writes, that it leaves alone what is there, and what it refuses."""

import pytest

SMALL = [
    "--side",
    "16",
    "--train-per-class",
    "2",
    "--val-per-class",
    "1",
    "--scenes",
    "2",
    "--test-scenes",
    "3",
    "--scene-side",
    "64",
]


@pytest.fixture
def tool(load_tool):
    pytest.importorskip("sklearn", reason='made data needs scikit-learn; pip install -e ".[demo]"')
    pytest.importorskip("skimage", reason='made data needs scikit-image; pip install -e ".[demo]"')
    return load_tool("make_digits")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_make_digits__pictures_and_scenes_from_a_seed(tool, tmp_path, capsys):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        tool.main(["--output", str(tmp_path / name), "--seed", seed, *SMALL])
        assert capsys.readouterr().out.splitlines() == [
            f"pictures by class: {tmp_path / name / 'pictures'}",
            f"scenes with boxes: {tmp_path / name / 'VOCdevkit'}",
        ]
    written = files(tmp_path / "a")
    assert written == files(tmp_path / "b")
    assert written != files(tmp_path / "c")
    counts = {
        "pictures/train": 20,
        "pictures/val": 10,
        "VOCdevkit/VOC2007/JPEGImages": 5,
        "VOCdevkit/VOC2012/JPEGImages": 2,
    }
    assert {folder: len(files(tmp_path / "a" / folder)) for folder in counts} == counts


def test_make_digits__leaves_alone_what_is_there_and_leaves_out_what_nobody_asked_for(tool, tmp_path):
    tool.main(["--output", str(tmp_path), *SMALL, "--scenes", "0", "--test-scenes", "0"])
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    picture = tmp_path / "pictures" / "val" / "nine" / "0000.jpg"
    picture.write_bytes(b"mine")
    tool.main(["--output", str(tmp_path), *SMALL])
    assert picture.read_bytes() == b"mine"
    assert (tmp_path / "VOCdevkit" / "VOC2007").is_dir()


def test_make_digits__scenes_in_coco_s_format(tool, tmp_path, capsys):
    tool.main(["--output", str(tmp_path), *SMALL, "--train-per-class", "0", "--val-per-class", "0", "--format", "coco"])
    assert capsys.readouterr().out.splitlines() == [f"scenes with boxes: {tmp_path / 'coco'}"]
    counts = {"coco/train2017": 4, "coco/val2017": 3, "coco/annotations": 2}
    assert {folder: len(files(tmp_path / folder)) for folder in counts} == counts


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seed", "-1"], r"--seed is -1; expected at least 0"),
        (["--side", "8"], r"--side is 8; expected at least 16"),
        (["--val-per-class", "0"], r"--train-per-class is 400 and --val-per-class 0; give both, or 0 for both"),
        (["--scenes", "0"], r"--scenes is 0 and --test-scenes 150; give both, or 0 for both"),
        (["--train-per-class", "0", "--val-per-class", "0", "--scenes", "0", "--test-scenes", "0"], r"nothing to make"),
    ],
)
def test_make_digits__refuses(load_tool, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_tool("make_digits").main(["--output", str(tmp_path / "digits"), *arguments])
    assert not (tmp_path / "digits").exists()
