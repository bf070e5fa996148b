"""The engine that is Detectron2: its models, trainer, hooks and launcher, on our data path and checkpoint files.

Detectron2 is imported inside functions only, so that everything else works where it is not installed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from detection.datasets.types import DetectionDataset
from detection.defaults import add_voc_config
from detection.engines import ONE_PROCESS, Launch
from detection.engines.common import (
    LEFTOVERS,
    LESS_MEMORY,
    amp_dtype,
    check_classes,
    check_fit,
    checkpoint_to_resume,
    evaluation_metrics,
    find_in_dataset,
    read_model_file,
    recompute_batch_norm,
    say_random_weights,
    without_other_classes,
)
from detection.engines.initial_weights import draw_initial_weights
from detection.evaluation.voc import PictureDetections
from detection.run_data import RunData
from detection.samples import Sample, TrainingSamples, training_loader
from pretrain.run.checkpoint import save_last
from pretrain.run.cli import setup_logging
from pretrain.run.files import remove_leftovers
from pretrain.run.loading import Loading
from pretrain.run.processes import (
    SINGLE_CPU_PROCESS,
    Processes,
    explained_memory,
    num_workers,
    random_state,
    set_random_state,
)
from pretrain.run.run_folder import drop_later, write_config

if TYPE_CHECKING:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import DefaultTrainer

logger = logging.getLogger(__name__)


def check_config(cfg: CfgNode, launch: Launch = ONE_PROCESS) -> None:
    """Refuse by name what Detectron2 would only stumble over, before anything is read or built.

    Raises:
        ValueError: the key or flag, its value and what would be right.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"Detectron2 starts its own processes: use --num-gpus {os.environ['WORLD_SIZE']} instead of "
            "torchrun, or --engine torchvision"
        )
    largest = cfg.SEED + cfg.SOLVER.MAX_ITER + launch.world_size
    if largest >= 2**32:
        raise ValueError(f"SEED is {cfg.SEED}, but Detectron2's generators take seeds below 2**32; use a smaller one")
    if launch.num_gpus > max(torch.cuda.device_count(), 1):
        raise ValueError(f"--num-gpus is {launch.num_gpus}, but PyTorch sees {torch.cuda.device_count()} GPUs here")
    if launch.world_size > 1 and torch.device(cfg.MODEL.DEVICE).type != "cuda":
        raise ValueError(
            f"--num-gpus {launch.num_gpus} --num-machines {launch.num_machines} ask for {launch.world_size} processes, "
            f"which Detectron2 has on GPUs only, but MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; use --engine torchvision, "
            "with torchrun on each machine"
        )
    if cfg.SOLVER.AMP.ENABLED and torch.device(cfg.MODEL.DEVICE).type != "cuda":
        raise ValueError(
            f"SOLVER.AMP.ENABLED is True, which Detectron2 supports on GPUs only, but MODEL.DEVICE is "
            f"{cfg.MODEL.DEVICE!r}; set it to False, or use --engine torchvision"
        )
    if cfg.MODEL.CHANNELS_LAST:
        raise ValueError(
            "MODEL.CHANNELS_LAST is True, which the detectron2 engine does not support; set it to False, or use "
            "--engine torchvision"
        )


def train(cfg: CfgNode, data: RunData, *, resume: bool, launch: Launch = ONE_PROCESS) -> None:
    """Fine-tune on ``data`` as ``cfg`` says with Detectron2's trainer, in as many processes as ``launch`` says.

    Writes the same run folder as the torchvision engine; checkpoints hold Detectron2's own entries, so that its other
    tools read them. With ``resume`` it goes on from the newest readable checkpoint there.

    Raises:
        FileNotFoundError, ValueError: data, weights, config and checkpoint do not fit together; said before training.
        FloatingPointError: a loss is not finite.
    """
    from detectron2.engine import launch as start_processes

    check_config(cfg, launch)
    start_processes(
        _train_in_this_process,
        launch.num_gpus,
        num_machines=launch.num_machines,
        machine_rank=launch.machine_rank,
        dist_url=launch.dist_url,
        args=(cfg, data, resume),
    )


def detect(cfg: CfgNode, dataset: DetectionDataset) -> dict[str, PictureDetections]:
    """Return the detections of MODEL.WEIGHTS on every picture of ``dataset``, by image id.

    Raises:
        FileNotFoundError, ValueError: the weights are no trained detector for this config, or a picture is unreadable.
    """
    return find_objects(load_model(cfg), cfg, dataset)


def load_model(cfg: CfgNode) -> nn.Module:
    """Return the detector of MODEL.WEIGHTS, on MODEL.DEVICE.

    Raises:
        FileNotFoundError, ValueError: the weights are no trained detector for this config.
    """
    from detectron2.modeling import build_model

    share_log()
    register_extra_norm()
    model = build_model(detectron2_config(cfg))
    load_weights(model, cfg, whole=True)
    return model


def find_objects(
    model: nn.Module, cfg: CfgNode, dataset: DetectionDataset, processes: Processes = SINGLE_CPU_PROCESS
) -> dict[str, PictureDetections]:
    """Run ``model`` on the pictures one by one, shared by ``processes``; it is in its former mode afterwards."""
    return find_in_dataset(model, detect_sample, cfg, dataset, processes)


@torch.no_grad()
def detect_sample(model: nn.Module, sample: Sample) -> PictureDetections:
    """Return what ``model``, in evaluation mode, finds in one picture, the surest first."""
    instances = model([sample])[0]["instances"].to("cpu")
    return PictureDetections(
        instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), instances.pred_classes.numpy()
    )


def model_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights and statistics by their names, as training writes them."""
    return model.state_dict()


def detectron2_config(cfg: CfgNode) -> CfgNode:
    """Return Detectron2's own config with every value of ``cfg``; the number of loading processes is worked out."""
    from detectron2.config import get_cfg

    theirs = get_cfg()
    add_voc_config(theirs)
    theirs.merge_from_other_cfg(CfgNode(cfg))
    theirs.DATALOADER.NUM_WORKERS = num_workers(cfg.DATALOADER.NUM_WORKERS)
    theirs.freeze()
    return theirs


def to_detectron2(sample: Sample) -> dict[str, Any]:
    """Return a training sample as Detectron2's models take it: boxes and labels as Instances."""
    from detectron2.structures import Boxes, Instances

    instances = Instances(tuple(sample["image"].shape[1:]))
    instances.gt_boxes = Boxes(sample["boxes"])
    instances.gt_classes = sample["classes"]
    return {**{name: sample[name] for name in ("image_id", "image", "height", "width")}, "instances": instances}


def to_detectron2_batch(batch: list[Sample]) -> list[dict[str, Any]]:
    """Return a training batch as Detectron2's models take it."""
    return [to_detectron2(sample) for sample in batch]


def load_weights(model: nn.Module, cfg: CfgNode, *, whole: bool = False) -> dict[str, Any] | None:
    """Fill ``model`` from MODEL.WEIGHTS and return the card of the backbone in it, if any.

    Detectron2's checkpointer renames and copies; it only warns of what does not fit, which is an error here.
    """
    content = read_model_file(cfg)
    if whole:
        check_classes(content, cfg)
    else:
        content = without_other_classes(content, cfg)
    if Path(cfg.MODEL.WEIGHTS).suffix == ".pkl" and "__author__" not in content:
        content |= {"__author__": "Caffe2", "matching_heuristics": True}  # as Detectron2 takes such files
    # The public load() would read the file itself, and execute what a .pkl holds.
    incompatible = make_checkpointer(model, cfg)._load_model(dict(content))
    if incompatible.incorrect_shapes:
        name, found, expected = incompatible.incorrect_shapes[0]
        raise ValueError(f"{cfg.MODEL.WEIGHTS}: {name} has shape {found}, but the model needs {expected}")
    missing = incompatible.missing_keys
    loaded = [name for name in model.state_dict() if name not in missing and not LEFTOVERS.fullmatch(name)]
    if not loaded:
        raise ValueError(
            f"{cfg.MODEL.WEIGHTS}: none of its tensors fits the model; "
            "tools/convert_checkpoint.py converts classification checkpoints"
        )
    check_fit(
        cfg.MODEL.WEIGHTS, num_loaded=len(loaded), missing=missing, unexpected=incompatible.unexpected_keys, whole=whole
    )
    return content.get("card")


def make_checkpointer(model: nn.Module, cfg: CfgNode, **parts: Any) -> DetectionCheckpointer:
    """Return Detectron2's checkpointer, made to write whole files that load safely and know their config and card."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.utils import comm

    class WholeFiles(DetectionCheckpointer):
        card: dict[str, Any] | None = None

        def save(self, name: str, **kwargs: Any) -> None:
            if self.save_dir and self.save_to_disk:
                state = {part: item.state_dict() for part, item in self.checkpointables.items()}
                extra = {
                    "rng": [random_state(torch.device(cfg.MODEL.DEVICE))],
                    "card": self.card,
                    "config": cfg.dump(),
                    "processes": comm.get_world_size(),
                }
                save_last({"model": self.model.state_dict(), **state, **kwargs, **extra}, self.save_dir, f"{name}.pth")

    return WholeFiles(model, cfg.OUTPUT_DIR, **parts)


def make_trainer(cfg: CfgNode, data: RunData) -> DefaultTrainer:
    """Return Detectron2's trainer on ``data``, with our checkpoint files and evaluation."""
    from detectron2.engine import DefaultTrainer
    from detectron2.engine.hooks import CallbackHook, EvalHook, PeriodicCheckpointer, PeriodicWriter, PreciseBN
    from detectron2.modeling import build_model
    from detectron2.utils import comm

    training_samples = TrainingSamples(cfg, data.train)

    class Trainer(DefaultTrainer):
        @classmethod
        def build_model(cls, cfg: CfgNode) -> nn.Module:
            model = build_model(cfg)  # the parent's would print every layer
            draw_initial_weights(model.state_dict(), cfg.SEED)
            return model

        @classmethod
        def build_train_loader(cls, cfg: CfgNode, *, start_iteration: int = 0) -> Loading:
            loader = training_loader(
                cfg,
                training_samples,
                start_iteration=start_iteration,
                rank=comm.get_rank(),
                world_size=comm.get_world_size(),
            )
            return Loading(loader, to_detectron2_batch)

        def build_hooks(self) -> list[Any]:
            self.checkpointer = make_checkpointer(self.model, cfg, trainer=weakref.proxy(self))
            hooks = [
                CallbackHook(after_step=lambda _: self.recompute_batch_norm()) if isinstance(hook, PreciseBN) else hook
                for hook in super().build_hooks()
                if not isinstance(hook, EvalHook)
            ]
            # last: what a checkpoint has behind it is in the files, whenever the process is killed
            hooks.sort(key=lambda hook: isinstance(hook, PeriodicCheckpointer))
            if cfg.TEST.EVAL_PERIOD:  # before the writer; the tool evaluates the final model
                place = next((at for at, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)), len(hooks))
                hooks.insert(place, EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate, eval_after_train=False))
            return hooks

        def after_train(self) -> None:
            if sys.exc_info()[0] is None:
                super().after_train()
                return
            with contextlib.suppress(Exception):  # hooks that fail on a run cut short would hide what cut it
                super().after_train()

        def recompute_batch_norm(self) -> None:
            # Detectron2's own hook goes on in the data from one time to the next, which a resumed run cannot.
            done = self.iter + 1
            if done == self.max_iter or (cfg.TEST.EVAL_PERIOD and done % cfg.TEST.EVAL_PERIOD == 0):
                with self.build_train_loader(cfg) as batches:
                    recompute_batch_norm(cfg, self.checkpointer.model, batches)

        def evaluate(self) -> dict[str, float]:
            model = self.checkpointer.model  # without the wrapper of several processes
            processes = Processes(torch.device(cfg.MODEL.DEVICE), comm.get_rank(), comm.get_world_size())
            processes.copy_buffers(model)  # each process has statistics of its own where BN is not synchronised
            return evaluation_metrics(data.test, lambda dataset: find_objects(model, cfg, dataset, processes))

    trainer = Trainer(detectron2_config(cfg))
    if cfg.SOLVER.AMP.ENABLED:  # Detectron2 has an argument for it and no key
        trainer._trainer.precision = amp_dtype(cfg)
    return trainer


def _train_in_this_process(cfg: CfgNode, data: RunData, resume: bool) -> None:
    from detectron2.utils import comm
    from detectron2.utils.env import seed_all_rng

    rank = comm.get_rank()
    if comm.get_world_size() > 1:  # a process that Detectron2 started
        os.environ["LOCAL_WORLD_SIZE"] = str(comm.get_local_size())  # as torchrun says it: they share the cores
        if rank == 0:  # and has no log yet
            setup_logging(cfg.OUTPUT_DIR)
    share_log()
    register_extra_norm()
    last = checkpoint_to_resume(cfg, resume=resume, entry="trainer")
    start = last[0]["iteration"] + 1 if last else 0
    if start >= cfg.SOLVER.MAX_ITER:
        logger.info("%s: all %d iterations are done", last[1], cfg.SOLVER.MAX_ITER)
        return

    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if rank == 0 and Path(cfg.OUTPUT_DIR).is_dir():  # before the trainer opens these files
        drop_later(cfg.OUTPUT_DIR, start - 1 if last else None)
    trainer = make_trainer(cfg, data)
    seed_all_rng(cfg.SEED + rank + start)  # as the torchvision engine does: the steps draw equal numbers in both
    if last:
        state, path = last
        trainer.checkpointer._load_model({"model": state["model"]})
        trainer.checkpointer.card = state["card"]
        trainer.load_state_dict(state["trainer"])
        trainer.start_iter = start
        trainer.data_loader = trainer.build_train_loader(trainer.cfg, start_iteration=start)
        if rank == 0:  # whose state the file holds
            set_random_state(state["rng"][0], torch.device(cfg.MODEL.DEVICE))
        logger.info("resumed from %s, after iteration %d", path, start - 1)
    elif cfg.MODEL.WEIGHTS:
        trainer.checkpointer.card = load_weights(trainer.checkpointer.model, cfg)
    else:
        say_random_weights(cfg)
    if rank == 0:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        remove_leftovers(cfg.OUTPUT_DIR)
        write_config(cfg, Path(cfg.OUTPUT_DIR))
    with explained_memory(LESS_MEMORY), trainer.data_loader:
        trainer.train()


def share_log() -> None:
    """Send the log of Detectron2 and fvcore where the toolkit's own goes, instead of to the standard output."""
    ours = logging.getLogger("detection")
    for name in ("detectron2", "fvcore"):
        theirs = logging.getLogger(name)
        theirs.handlers = list(ours.handlers)
        theirs.propagate = ours.propagate
        theirs.setLevel(logging.INFO)
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_traceback)


def _is_no_traceback(record: logging.LogRecord) -> bool:
    return record.exc_info is None  # the error itself goes on to whoever called


def register_extra_norm() -> None:
    """Make Res5ROIHeadsExtraNorm known to Detectron2: MoCo's transfer recipe, a norm after res5 of the C4 head."""
    from detectron2.layers import get_norm
    from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

    if "Res5ROIHeadsExtraNorm" in ROI_HEADS_REGISTRY:
        return

    class Res5ROIHeadsExtraNorm(Res5ROIHeads):
        @classmethod
        def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
            res5, channels = super()._build_res5_block(cfg)
            res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
            return res5, channels

    ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
