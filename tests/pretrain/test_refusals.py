"""What a pretraining run and an evaluation refuse, by name, and pictures that cannot be read."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from pretrain import learner, run_state, trainer
from pretrain.run.checkpoint import save_checkpoint
from pretrain.run.lock import locked_folder

pytestmark = pytest.mark.usefixtures("tiny_net")


def test_train__a_non_finite_loss_stops_with_iteration_and_losses(config, tmp_path):
    message = r"the loss of iteration \d+ is (nan|inf).*try a lower SOLVER\.BASE_LR"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train(config("run", "SOLVER.BASE_LR", "1e30"), resume=False)
    assert not (tmp_path / "run" / "model_final.pth").exists()


def test_train__refuses_to_write_over_a_run(config):
    trainer.train(config("run"), resume=False)
    with pytest.raises(ValueError, match=r"run already holds model_final\.pth; use --resume, or another OUTPUT_DIR"):
        trainer.train(config("run"), resume=False)


def test_train__refuses_to_resume_another_run(config):
    trainer.train(config("run"), resume=False)
    with pytest.raises(ValueError, match=r"cannot resume: .*SEED was 0, is 1"):
        trainer.train(config("run", "SEED", "1"), resume=True)


def test_train__refuses_a_checkpoint_that_is_no_pretraining_run(config, tmp_path):
    (tmp_path / "run").mkdir()
    save_checkpoint({"model": {}}, tmp_path / "run" / "model_final.pth")
    with pytest.raises(ValueError, match=r"is not a pretraining checkpoint: it lacks config, evaluated"):
        trainer.train(config("run"), resume=True)


def test_evaluate_checkpoint__refuses_other_classes(config, image_folder):
    cfg = config("run")
    trainer.train(cfg, resume=False)
    for split in ("train", "val"):
        (image_folder / split / "dark").rename(image_folder / split / "night")
    message = r"knows 2 classes, the data has 2: only in the checkpoint dark; only in the data night"
    with pytest.raises(ValueError, match=message):
        trainer.evaluate_checkpoint(cfg)


def test_evaluate_checkpoint__refuses_another_architecture(config):
    cfg = config("run")
    trainer.train(cfg, resume=False)
    with pytest.raises(ValueError, match=r"holds a resnet50, but MODEL\.ARCH is resnet18"):
        trainer.evaluate_checkpoint(config("run", "MODEL.ARCH", "resnet18"))


def test_evaluate_checkpoint__refuses_when_there_is_nothing(config):
    with pytest.raises(ValueError, match=r"nothing to evaluate: MODEL\.WEIGHTS is empty and .*run has no checkpoint"):
        trainer.evaluate_checkpoint(config("run"))


def test_train__refuses_to_mix_single_pictures(config):
    message = r"cutmix needs two pictures to mix, but SOLVER\.BATCH_SIZE 4 gives 1 processes 1 at a time; try 8"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "MIXING.METHOD", "cutmix", "SOLVER.ACCUMULATION", "4"), resume=False)


def test_train__refuses_weights_to_start_from(config):
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is 'a\.pth'; training starts from random weights"):
        trainer.train(config("run", "MODEL.WEIGHTS", "a.pth"), resume=False)


def test_train__refuses_a_disk_without_room_for_a_checkpoint(config, monkeypatch):
    monkeypatch.setattr(run_state.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"run: a checkpoint takes 0 MiB, but only 0 MiB are free; make room or choose"):
        trainer.train(config("run"), resume=False)


def test_train__unreadable_pictures_are_replaced_counted_and_named_once(config, image_folder, tmp_path, caplog):
    for name in ("train/dark/0.png", "val/dark/1.png"):
        (image_folder / name).write_bytes(b"not a picture")
    metrics = [trainer.train(config(name, "DATA.NUM_WORKERS", n), resume=False) for name, n in (("a", "0"), ("b", "2"))]
    assert metrics[0] == metrics[1]
    assert metrics[0]["num_images"] == 3  # an evaluation does not count what it could not see
    warnings = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert len(warnings) == 4  # two pictures, two runs
    assert warnings[0].endswith("number 1")
    line = json.loads((tmp_path / "a" / "metrics.json").read_text().splitlines()[-2])
    assert line["unreadable_pictures"] == 2


def test_train__too_many_unreadable_pictures_stop_the_run_with_the_list(config, image_folder):
    for number in range(3):
        (image_folder / "train" / "dark" / f"{number}.png").write_bytes(b"")
    message = r"3 unreadable pictures, where DATA\.MAX_UNREADABLE allows 2: .*png.*png.*png"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "DATA.MAX_UNREADABLE", "2"), resume=False)


def test_evaluate_checkpoint__refuses_another_class_count(config, image_folder):
    cfg = config("run")
    trainer.train(cfg, resume=False)
    for split in ("train", "val"):
        shutil.copytree(image_folder / split / "dark", image_folder / split / "night")
    with pytest.raises(ValueError, match=r"model_final\.pth knows 2 classes, the data has 3: only in the data night"):
        trainer.evaluate_checkpoint(cfg)


def test_train__resuming_names_every_changed_key(config):
    trainer.train(config("run"), resume=False)
    message = r"MIXING\.METHOD was 'saliencymix', is 'cutmix'; SOLVER\.BASE_LR was 0\.1, is 0\.2\); set these keys back"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "MIXING.METHOD", "cutmix", "SOLVER.BASE_LR", "0.2"), resume=True)


def test_train__batch_norm_over_one_picture_names_the_keys(config, monkeypatch):
    monkeypatch.setattr(learner, "build_model", lambda arch, classes, **options: NormOfOne(classes))
    message = r"one picture here: SOLVER.BATCH_SIZE is 1, SOLVER.ACCUMULATION 1; raise the one or lower the other"
    with pytest.raises(ValueError, match=message):
        trainer.train(config("run", "MIXING.METHOD", "baseline", "SOLVER.BATCH_SIZE", "1"), resume=False)


class NormOfOne(torch.nn.Module):
    """BatchNorm over cells of one pixel, as a ResNet has it at the end of small pictures."""

    def __init__(self, classes):
        super().__init__()
        self.norm, self.fc = torch.nn.BatchNorm2d(3), torch.nn.Linear(3, classes)

    def forward(self, images):
        return self.fc(self.norm(images.mean((2, 3), keepdim=True)).flatten(1))


def test_train__a_second_run_in_the_folder_is_refused(config, tmp_path):
    with (
        locked_folder(tmp_path / "run"),
        pytest.raises(ValueError, match=r"in use by the run of process \d+"),
    ):
        trainer.train(config("run"), resume=True)
    assert not (tmp_path / "run" / "metrics.json").exists()
