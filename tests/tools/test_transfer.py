"""tools/transfer.py: what stands on its command line, and that everything is proved before anything is trained."""

import json

import pytest
import torch
import yaml

from tests.conftest import random_resnet
from tools.studies.checkpoints import read_words, study_of
from tools.studies.config import load_study

SMALL = ["--config-file", "detection/configs/digits_r18_fpn.yaml", "--engine", "torchvision"]
SCENES = ["DIGITS.SCENES", "4", "DIGITS.TEST_SCENES", "4", "THREADS", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with a torchvision file, MoCo's kind of file, one in safetensors, and a ResNet that is none."""
    folder = tmp_path_factory.mktemp("checkpoints")
    state = {key: value.clone() for key, value in random_resnet(18).items()}
    torch.save(state, folder / "supervised.pth")
    both = {f"module.encoder_{which}.{key}": value for which in "qk" for key, value in state.items()}
    torch.save({"epoch": 200, "state_dict": both | {"module.queue": torch.zeros(4, 8)}}, folder / "moco v2.pth.tar")
    torch.save(
        {f"a.{key}": value for key, value in state.items()} | {f"b.{key}": state[key] for key in state},
        folder / "two.pth",
    )
    wide = {key: value.repeat(2, *[1] * (value.dim() - 1)) if value.dim() else value for key, value in state.items()}
    torch.save(wide, folder / "wide.pth")
    return folder


@pytest.fixture
def transfer(load_tool, tmp_path, monkeypatch):
    """Return a function: words -> the exit status; output is ``out``, and the study may be run by a stand-in."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    tool = load_tool("transfer")

    def call(*words, config=SMALL, pursue=None):
        if pursue is not None:
            monkeypatch.setattr(tool, "pursue", pursue)
        return tool.main([*words, *config, "--output", str(tmp_path / "out")])

    return call


def test_transfer__proves_writes_the_study_and_pursues_it(transfer, files, tmp_path, capsys):
    plans = []
    words = [f"supervised={files}/supervised.pth", f"moco={files}/moco v2.pth.tar", "random", *SCENES]
    status = transfer(
        *words, "SOLVER.MAX_ITER", "7", "SOLVER.STEPS", "(3,)", pursue=lambda plan, args: plans.append(plan) or 0
    )
    assert status == 0
    out = capsys.readouterr().out
    assert f"supervised: {files}/supervised.pth, resnet18, 100 converted" in out
    assert f"moco: {files}/moco v2.pth.tar, resnet18, 100 converted" in out
    assert out.count("the same tensor, float32: res2 0, res3 0, res4 0, res5 0 (allowed: 0)") == 2
    names = {stage.name for stage in plans[0].stages}
    assert {f"{name}/seed{seed}/evaluate" for name in ("supervised", "moco", "random") for seed in range(3)} <= names
    assert {"supervised/convert", "moco/convert", "transfer/comparison"} <= names

    file = tmp_path / "out" / "transfer.yaml"
    assert load_study(file).dump() == plans[0].cfg.dump()  # tools/study.py goes on with the very study
    content = yaml.safe_load(file.read_text("utf-8"))
    assert content["BASELINE"] == "supervised"
    assert content["EXPERIMENTS"][2] == {"METHOD": "random", "WEIGHTS": "random"}
    assert content["DETECTION"]["OPTS"] == ["SOLVER.MAX_ITER", "7", "SOLVER.STEPS", "(3,)"]
    assert not [path for path in (tmp_path / "out").iterdir() if path.name != "transfer.yaml"]


def test_transfer__one_file_that_is_no_resnet_stops_all_with_the_others_proved(transfer, files, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"^wide: \S+wide\.pth: .* has shape"):
        transfer(f"wide={files}/wide.pth", f"supervised={files}/supervised.pth", *SCENES)
    out = capsys.readouterr().out
    assert "wide: refused" in out
    assert "supervised: " in out
    assert "the same tensor, float32: res2 0" in out
    assert not (tmp_path / "out").exists()


def test_transfer__a_dry_run_writes_nothing(transfer, files, tmp_path, capsys):
    assert transfer(f"supervised={files}/supervised.pth", "random", "--dry-run", "--seeds", "2", *SCENES) == 0
    out = capsys.readouterr().out
    assert "supervised/convert" in out
    assert "random/seed1/evaluate" in out
    assert not (tmp_path / "out").exists()


def test_transfer__a_row_reads_pictures_as_its_card_says(transfer, files, tmp_path):
    state = torch.load(files / "supervised.pth", weights_only=True)
    torch.save(
        {"model": state, "pixel_mean": [0.0, 0.0, 0.0], "pixel_std": [255.0, 255.0, 255.0]}, tmp_path / "own.pth"
    )
    plans = []
    transfer(f"own={tmp_path}/own.pth", "random", *SCENES, pursue=lambda plan, args: plans.append(plan) or 0)
    stages = {stage.name: stage for stage in plans[0].stages}
    assert stages["own/seed0/fine_tune"].inputs["MODEL.PIXEL_STD"] == [255.0, 255.0, 255.0]
    assert stages["random/seed0/fine_tune"].inputs["MODEL.PIXEL_STD"] != [255.0, 255.0, 255.0]


def test_transfer__what_a_file_does_not_say_the_command_line_does(transfer, files):
    plans = []
    said = ["--pixel-mean", "other=103.53,116.28,123.675", "--pixel-std", "other=1,1,1", "--channel-order", "other=BGR"]
    words = [f"supervised={files}/supervised.pth", f"other={files}/supervised.pth", *SCENES, *said]
    assert transfer(*words, pursue=lambda plan, args: plans.append(plan) or 0) == 0
    stages = {stage.name: stage for stage in plans[0].stages}
    convert = stages["other/convert"].command
    assert convert[convert.index("--pixel-mean") + 1 :][:3] == ("103.53", "116.28", "123.675")
    tuned = stages["other/seed0/fine_tune"].command
    assert tuned[tuned.index("INPUT.FORMAT") + 1] == "BGR"
    assert tuned[tuned.index("MODEL.PIXEL_STD") + 1] == "[1.0, 1.0, 1.0]"
    assert "--channel-order" not in stages["supervised/convert"].command


def test_transfer__another_depth_is_refused_with_what_fits(transfer, files):
    with pytest.raises(ValueError, match=r"^supervised is a resnet18, .*DEPTH 50, .* append MODEL\.RESNETS\.DEPTH 18"):
        transfer(f"supervised={files}/supervised.pth", config=["--engine", "torchvision"])


def test_transfer__what_is_done_needs_no_proof(transfer, files, tmp_path, capsys, monkeypatch):
    """A backbone that a stage has made is not converted again to look at its card."""
    from tools.studies import runner

    plans = []
    words = [f"supervised={files}/supervised.pth", *SCENES]
    transfer(*words, pursue=lambda plan, args: plans.append(plan) or 0)
    stage = next(stage for stage in plans[0].stages if stage.kind == "convert")
    stage.folder.mkdir(parents=True)
    card = {"channel_order": "RGB", "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
    (stage.folder / "backbone.card.json").write_text(
        json.dumps({**card, "stride_in_1x1": False, "depth": 18, "res2_out_channels": 64})
    )
    monkeypatch.setattr(runner, "finished", lambda stages: {one.name: {} for one in stages})
    capsys.readouterr()
    transfer(*words, pursue=lambda plan, args: 0)
    assert capsys.readouterr().out == ""


def test_read_words__rows_options_and_keys(files):
    given = read_words(
        [f"two={files}/two.pth", "random", "VOC.ROOT", "/d", "SOLVER.BASE_LR", "0.1", "SLURM.PARTITION", "gpu"],
        {"PREFIX": ["two=a."], "EMA": ["two"], "PIXEL_MEAN": ["two=1,2.5,3"], "CHANNEL_ORDER": ["two=BGR"],
         "STRIDE_IN_1X1": ["two"]},
    )  # fmt: skip
    assert given.rows == [
        {"METHOD": "two", "WEIGHTS": f"{files}/two.pth", "PREFIX": "a.", "EMA": True, "PIXEL_MEAN": [1.0, 2.5, 3.0],
         "CHANNEL_ORDER": "BGR", "STRIDE_IN_1X1": True},
        {"METHOD": "random", "WEIGHTS": "random"},
    ]  # fmt: skip
    assert given.detection_opts == ["SOLVER.BASE_LR", "0.1"]
    assert given.study_opts == ["SLURM.PARTITION", "gpu", "DETECTION.VOC_ROOT", "/d"]


@pytest.mark.parametrize("words, said, faults", [
    ([], {}, ["no checkpoint is given; expected NAME=FILE, one or more"]),
    (["SOLVER.MAX_ITER", "7", "a=x.pth", "random"], {},
     ["no checkpoint is given; 'a=x.pth' stands behind KEY VALUE pairs; expected NAME=FILE"]),
    (["a.pth"], {}, ["'a.pth' names no checkpoint; expected NAME=FILE or random, such as a=a.pth"]),
    (["a=no.pth", "b=/"], {}, ["a: no.pth does not exist", "b: / is no file"]),
    (["random", "random"], {}, ["the name 'random' is given twice"]),
    (["mine=random"], {}, ["write random"]),
    (["random", "VOC.ROOT=/d"], {}, ["'VOC.ROOT=/d' is no pair; write VOC.ROOT /d, with a space in place of the ="]),
    (["random", "VOC.ROOT"], {}, ["expected KEY VALUE pairs, but 'VOC.ROOT' has no value"]),
    (["random"], {"EMA": ["moco"]}, [r"--ema moco: expected the NAME of a checkpoint \(random\)$"]),
    (["random"], {"PREFIX": ["a."]}, [r"--prefix a\.: expected the NAME of a checkpoint \(random\)=PREFIX"]),
    (["random"], {"EMA": ["random=1"]}, [r"--ema random=1: expected the NAME of a checkpoint \(random\)$"]),
    (["random"], {"PIXEL_STD": ["random=1,x"]}, ["--pixel-std random=1,x: expected random=R,G,B"]),
])  # fmt: skip
def test_read_words__refuses_all_at_once(words, said, faults):
    with pytest.raises(ValueError, match="\n.*".join(faults)) as error:
        read_words(words, said)
    assert len(error.value.faults) == len(faults)


def test_read_words__an_address(files):
    with pytest.raises(ValueError, match=r"^https://a\.org/r50\.pth is an address.*\ncurl .*--output r50\.pth"):
        read_words(["a=https://a.org/r50.pth"])


@pytest.mark.parametrize("change, message", [
    ({"seeds": 0}, "--seeds is 0; expected at least 1"),
    ({"baseline": "moco"}, "--baseline moco: no checkpoint has that name; expected one of random"),
])  # fmt: skip
def test_study_of__refuses(tmp_path, change, message):
    said = {"config_file": "x", "engine": "auto", "seeds": 3, "baseline": None, "output": tmp_path}
    with pytest.raises(ValueError, match=message):
        study_of(read_words(["random"]), **{**said, **change})


def test_study_of__refuses_a_row_whose_folder_would_be_the_studys_file(tmp_path):
    (tmp_path / "r18.pth").touch()
    given = read_words([f"Transfer.yaml={tmp_path}/r18.pth"])
    with pytest.raises(ValueError, match=r"a checkpoint is called transfer\.yaml, as the study's own file"):
        study_of(given, config_file="x", engine="auto", seeds=3, baseline=None, output=tmp_path)
