"""tools/check_dataset.py: what it prints and how it ends."""


def test_check_dataset__a_good_tree(load_tool, voc_root, capsys):
    tool = load_tool("check_dataset")
    splits = ["voc_2007_trainval", "voc_2007_test"]
    assert tool.main(["--data-root", str(voc_root), "--classes", "dog,person,car", *splits]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["voc_2007_trainval", "voc_2007_test"]
    assert printed[-1] == "0 defects would stop the training, 0 it would survive"


def test_check_dataset__finds_classes_and_defects(load_tool, voc_tree, capsys):
    voc_tree.picture("000001").write_bytes(b"no picture")
    assert load_tool("check_dataset").main(["--data-root", str(voc_tree.folder()), "trainval"]) == 1
    printed = capsys.readouterr().out
    assert "FATAL  picture " in printed
    assert printed.endswith("1 defects would stop the training, 0 it would survive\n")
    assert load_tool("check_dataset").main(["--data-root", str(voc_tree.folder()), "--fast", "trainval"]) == 0
