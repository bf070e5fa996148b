"""Keep what a released version writes, so that later ones are tested on it.

    git clone . /tmp/released && git -C /tmp/released checkout v0.2.0
    python tests/old_runs/make.py /tmp/released tests/old_runs/0.2.0

RELEASED is a clone at the released commit, whose own tools make everything; TARGET receives an archive for each part,
and ``expected.json``, what the same version said when it went on from the very files. It takes some minutes, Detectron2
and the extra "demo", and relies on the command lines of the tools alone.

Networks are drawn so that they compress (see ``patch/sitecustomize.py``); nothing else is changed, no file is altered
later. Left out are the best checkpoints, those on the way of finished runs, and the weights of runs that stand for
their reports. All versions work on the same pictures, ``data.tar.xz``, which ``tools/make_digits.py`` made of DIGITS.
"""

import argparse
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DIGITS = {"TRAIN_PER_CLASS": 6, "VAL_PER_CLASS": 2, "SIDE": 32, "SCENES": 12, "TEST_SCENES": 8, "SCENE_SIDE": 96}
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PRETRAIN = {
    "DEVICE": "cpu",
    "DATA": {"IMAGE_SIZE": 32, "EVAL_RESIZE": 32, "FLIP_PROB": 0.0, "NUM_WORKERS": 0},
    "MODEL": {"ARCH": "resnet18"},
    "MIXING": {"METHOD": "baseline"},
    "SOLVER": {"EPOCHS": 4, "BATCH_SIZE": 20, "BASE_LR": 0.01, "STEPS": "()"},
    "CHECKPOINT_PERIOD": 2,
    "LOG_PERIOD": 1,
}
DETECTOR = {
    "VERSION": 2,
    "MODEL": {
        "DEVICE": "cpu",
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [58.395, 57.12, 57.375],
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18, "RES2_OUT_CHANNELS": 64, "NORM": "BN", "STRIDE_IN_1X1": False,
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[14], [24], [40]], "ASPECT_RATIOS": [[1.0, 1.5, 2.0]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4"], "BATCH_SIZE_PER_IMAGE": 32, "PRE_NMS_TOPK_TRAIN": 100,
            "PRE_NMS_TOPK_TEST": 100, "POST_NMS_TOPK_TRAIN": 100, "POST_NMS_TOPK_TEST": 50,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 10,
            "BATCH_SIZE_PER_IMAGE": 32, "POSITIVE_FRACTION": 0.5, "SCORE_THRESH_TEST": 0.0,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 4, "FC_DIM": 16},
    },
    "INPUT": {
        "FORMAT": "RGB", "MIN_SIZE_TRAIN": "(96,)", "MIN_SIZE_TEST": 96, "MAX_SIZE_TRAIN": 96, "MAX_SIZE_TEST": 96,
        "RANDOM_FLIP": "none",
    },
    "VOC": {"CLASSES": NAMES},
    "DATASETS": {"TRAIN": "('voc_2007_trainval',)", "TEST": "('voc_2007_trainval',)"},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 4, "BASE_LR": 0.03, "STEPS": "()", "MAX_ITER": 60, "WARMUP_ITERS": 10, "CHECKPOINT_PERIOD": 58,
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "norm"},
    },
    "TEST": {"DETECTIONS_PER_IMAGE": 20},
    "SEED": 1,
}  # fmt: skip
STUDY = {
    "TITLE": "Two methods",
    "KIND": "transfer",
    "OUTPUT_DIR": "out",
    "SEEDS": [0],
    "THREADS": 1,
    "EXPERIMENTS": [
        {"METHOD": "baseline", "CONFIG": "pretrain.yaml"},
        {"METHOD": "cutmix", "CONFIG": "pretrain.yaml", "OPTS": ["MIXING.METHOD", "cutmix"]},
    ],
    "DETECTION": {"CONFIG": "detector.yaml", "ENGINE": "torchvision"},
    "DIGITS": DIGITS,
}
# Archive -> what it holds, in this order: equal tensors less than DICTIONARY bytes apart cost nothing.
ARCHIVES = {
    "pretraining": ("pretraining/middle", "pretraining/finished", "backbone"),
    "detectors": ("torchvision/middle", "detectron2/middle", "torchvision/finished", "detectron2/finished"),
    "reports": ("reports",),
    "study": ("study",),
}
DICTIONARY = 256 << 20
LEFT_OUT = ("*/finished/model_0*.pth", "**/model_best.pth", "reports/**/*.pth")


class Released:
    """The tools of a released version, run in a folder of their own."""

    def __init__(self, clone: Path, folder: Path):
        self.clone, self.folder = clone, folder
        paths = os.pathsep.join([str(HERE / "patch"), str(clone)])
        self.environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(self, tool: str, *words: str, where: str = ".", killed_before_step: int = 0) -> str:
        """Run ``tools/<tool>.py`` in the folder ``where`` and return its standard output."""
        environment = self.environment
        if killed_before_step:
            environment = {**environment, "KILLED_BEFORE_STEP": str(killed_before_step)}
        command = [sys.executable, str(self.clone / "tools" / f"{tool}.py"), *words]
        print("$", tool, *words, flush=True)
        done = subprocess.run(command, cwd=self.folder / where, env=environment, stdout=subprocess.PIPE, text=True)
        killed = 2 if tool == "study" else -signal.SIGKILL  # a study outlives its stage and says that it failed
        expected = killed if killed_before_step else 0
        if done.returncode != expected:
            raise SystemExit(f"{tool} ended with {done.returncode}, not {expected}")
        return done.stdout

    def write(self, name: str, content: dict) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))  # which is YAML, too

    def go_on(self, middle: str, finished: str, tool: str, *words: str) -> list[dict]:
        """Resume a copy of the run ``middle`` and return what is in its metrics.json in the end."""
        shutil.copytree(self.folder / middle, self.folder / finished)
        self.run(tool, "--resume", *words, "OUTPUT_DIR", finished)
        return [json.loads(line) for line in (self.folder / finished / "metrics.json").read_text().splitlines()]


def make_pretrainings(released: Released) -> dict:
    """A run killed after iteration 3, its checkpoint of iteration 2 resumed to the end, and backbones of that."""
    middle, finished = "pretraining/middle", "pretraining/finished"
    run = [
        "--config-file", "pretrain.yaml", "DATA.ROOT", "data/pictures", "MIXING.METHOD", "saliencymix",
        "SOLVER.EPOCHS", "2", "SOLVER.EMA_DECAY", "0.9",
    ]  # fmt: skip
    released.run("pretrain", *run, "OUTPUT_DIR", middle, killed_before_step=4)
    metrics = released.go_on(middle, finished, "pretrain", *run)
    (released.folder / "backbone").mkdir()
    for target in ("backbone/backbone.pth", "backbone/older.pkl"):
        released.run("convert_checkpoint", f"{finished}/model_final.pth", target)
    said = released.run("pretrain", "--eval-only", *run, "OUTPUT_DIR", finished)
    return {"resumed": [one for one in metrics if one["iteration"] > 2], "evaluated": said.strip()}


def fine_tuning(engine: str, backbone: str, folder: str) -> list[str]:
    """Return the words for ``train_net`` behind its flags."""
    return [
        "--config-file", "detector.yaml", "--engine", engine, "VOC.ROOT", "data/VOCdevkit", "MODEL.WEIGHTS", backbone,
        "OUTPUT_DIR", folder,
    ]  # fmt: skip


def make_detectors(released: Released, engine: str) -> dict:
    """A run killed before its last step, and its checkpoint from one step before resumed to the end."""
    middle, finished = f"{engine}/middle", f"{engine}/finished"
    run = fine_tuning(engine, "backbone/backbone.pth", middle)
    released.run("train_net", *run, killed_before_step=60)
    return {"resumed": released.go_on(middle, finished, "train_net", *run)[-1]}


def make_reports(released: Released) -> None:
    """Two runs of one method, two of another by --repeat, and their comparison."""
    for method in ("baseline", "cutmix"):
        run = ["--config-file", "pretrain.yaml", "DATA.ROOT", "data/pictures", "MIXING.METHOD", method]
        released.run("pretrain", *run, "OUTPUT_DIR", f"pretrained_{method}")
        released.run("convert_checkpoint", f"pretrained_{method}/model_final.pth", f"{method}.pth")
    for seed in ("1", "2"):
        run = fine_tuning("torchvision", "baseline.pth", f"reports/baseline_{seed}")
        released.run("train_net", *run, "SEED", seed)
    released.run("train_net", "--repeat", "2", *fine_tuning("torchvision", "cutmix.pth", "reports/cutmix"))
    released.run(
        "voc_map", "--devkit", "data/VOCdevkit", "--split", "voc_2007_trainval", "--classes", ",".join(NAMES),
        "--resamples", "50", "--output", "reports/comparison", "--compare", "reports/baseline_1", "reports/baseline_2",
        "reports/cutmix/seed_1", "reports/cutmix/seed_2",
    )  # fmt: skip


def make_study(released: Released) -> None:
    """A chain that is done, and one whose first stage was killed."""
    for name, content in (("pretrain", PRETRAIN), ("detector", DETECTOR), ("study", STUDY)):
        released.write(f"study/{name}.yaml", content)
    study = ["--config-file", "study.yaml", "--jobs", "1"]
    released.run("study", *study, "--only", "baseline", where="study")
    released.run("study", *study, "--only", "cutmix/seed0/pretrain", where="study", killed_before_step=4)


def pack(folder: Path, members: tuple[str, ...], target: Path) -> None:
    """Write ``members`` of ``folder`` as an archive that says nothing of who made it."""

    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": DICTIONARY}]
    with (
        lzma.open(target, "wb", filters=filters) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in members:
            archive.add(folder / member, member, filter=anonymous)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("released", type=Path, metavar="RELEASED")
    parser.add_argument("target", type=Path, metavar="TARGET")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(HERE / "data.tar.xz") as archive:
            archive.extractall(folder)
        released = Released(args.released.resolve(), folder)
        released.write("pretrain.yaml", PRETRAIN)
        released.write("detector.yaml", DETECTOR)
        expected: dict[str, Any] = {"pretraining": make_pretrainings(released)}
        for engine in ("torchvision", "detectron2"):
            expected[engine] = make_detectors(released, engine)
        make_reports(released)
        make_study(released)
        for path in [path for pattern in LEFT_OUT for path in folder.glob(pattern)]:
            path.unlink()
        args.target.mkdir(parents=True, exist_ok=True)
        (args.target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        for name, members in ARCHIVES.items():
            pack(folder, members, args.target / f"{name}.tar.xz")


if __name__ == "__main__":
    main()
