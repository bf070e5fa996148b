"""The hash of a stage's code: it follows what the code does, and nothing else."""

import pytest

from tools.studies.experiments import ROOT
from tools.studies.planning.code_version import STAGES, code_version, reachable, stage_version

FILES = {
    "pretrain/__init__.py": "",
    "pretrain/trainer.py": '"""Trains."""\nfrom pretrain import data\ndef train():\n "Train."\n return data.load()\n',
    "pretrain/data.py": "def load():\n    from pretrain.decoding import decode\n    return decode() + 1\n",
    "pretrain/decoding.py": "import numpy\n\ndef decode():\n    return 1  # one\n",
    "pretrain/run/cli.py": "WIDTH = 80\n",
    "pretrain/unrelated.py": "X = 1\n",
    "detection/__init__.py": "",
    "detection/relative.py": "from . import other\n",
    "detection/other.py": "from ..pretrain.data import load\nfrom pretrain.run import cli\n",
}  # fmt: skip


@pytest.fixture
def version(tmp_path):
    """Return a function: the version of pretrain.trainer in FILES with one text replaced in one file."""
    calls = iter(range(1000))

    def version(name="pretrain/trainer.py", old="", new="", module="pretrain.trainer", **options):
        root = tmp_path / str(next(calls))  # a fresh root, because files are read once
        for path, text in FILES.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path == name:
                assert old in text
                text = text.replace(old, new)
            target.write_text(text)
        return code_version((module,), root=root, **options)

    return version


@pytest.mark.parametrize("name, old, new", [
    ("pretrain/trainer.py", '"Train."', '"Train a lot."'),
    ("pretrain/trainer.py", '"""Trains."""\n', ""),
    ("pretrain/decoding.py", "# one", "# still one"),
    ("pretrain/decoding.py", "    return 1", "    return (\n        1\n    )"),
    ("pretrain/unrelated.py", "X = 1", "X = 2"),
    ("detection/other.py", "load", "cli"),
])  # fmt: skip
def test_code_version__words_and_unreached_modules_do_not_count(version, name, old, new):
    assert version(name, old, new) == version()


@pytest.mark.parametrize("name, old, new", [
    ("pretrain/trainer.py", "data.load()", "data.load() + 0"),
    ("pretrain/data.py", "+ 1", "+ 2"),
    ("pretrain/decoding.py", "return 1", "return 2"),
    ("pretrain/decoding.py", "return 1", "return True"),
    ("pretrain/__init__.py", "", "SEED = 1"),
])  # fmt: skip
def test_code_version__what_is_reached_counts(version, name, old, new):
    assert version(name, old, new) != version()


def test_code_version__left_out_modules_do_not_count(version):
    left_out = frozenset({"pretrain.data"})
    assert version("pretrain/decoding.py", "1", "2", leave_out=left_out) == version(leave_out=left_out)


def test_code_version__of_relative_imports(version):
    module = "detection.relative"
    assert version("detection/other.py", "load\n", "load as read\n", module=module) != version(module=module)
    assert version("pretrain/run/cli.py", "80", "81", module=module) == version(module=module)  # only talks


def test_reachable__of_the_toolkit_itself():
    training = reachable(["pretrain.trainer"])
    assert {"pretrain.mixing", "pretrain.saliency.centre_surround", "pretrain"} <= training
    assert "pretrain.config" not in training  # its values stand in the inputs
    assert not any(name.startswith(("detection", "tools")) for name in training)
    fine_tuning = reachable(["detection.engines.torchvision"], leave_out=frozenset({"detection.evaluation.voc"}))
    assert {"detection.engines.torchvision.roi_heads", "detection.samples"} <= fine_tuning
    assert "detection.engines.detectron2" not in fine_tuning
    assert not {"detection.evaluation.average_precision", "detection.report.write"} & fine_tuning
    assert {"pretrain.inspect.attacks", "pretrain.inspect.pretrained"} <= reachable(["pretrain.inspect.robustness"])
    for kind in STAGES:
        assert len(stage_version(kind, "torchvision")) == 16
    assert all(
        (ROOT / f"{name.replace('.', '/')}.py").is_file() or (ROOT / name.replace(".", "/")).is_dir()
        for name in fine_tuning
    )
