"""Training and evaluation from end to end, on pictures and scenes that are unlike the others, with both engines."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from detection.config import EFFECTS, get_cfg
from detection.datasets import check
from detection.datasets.voc import VOC_CLASSES, load_voc
from detection.engines import select
from detection.engines.torchvision.model import build_model
from detection.evaluation.protocol import MAIN_KEYS
from detection.fine_tune import describe, fine_tune, inference_folder
from pretrain.run.checkpoint import save_checkpoint
from pretrain.run.pictures import read_picture

ENGINES = [
    "torchvision",
    pytest.param("detectron2", marks=pytest.mark.skipif(
        not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed")),
]  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")
OWN = ["VOC.CLASSES", "('dog', 'person', 'car', 'unicorn')", "MODEL.ROI_HEADS.NUM_CLASSES", "4"]


def replace(tree, image_id, image, box=None, **options):
    """Put ``image`` in the place of a picture of the tree, with one dog in it (or, without a box, nothing)."""
    suffix = options.pop("suffix", ".jpg")
    tree.picture(image_id).unlink()
    image.save(tree.picture(image_id).with_suffix(suffix), **options)
    objects = ""
    if box:
        sides = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(CORNERS, box, strict=True))
        objects = f"<object><name>dog</name><bndbox>{sides}</bndbox></object>"
    tree.annotation(image_id).write_text(f"<annotation>{objects}</annotation>")


def odd_pictures(tree):
    """Make every picture of the tree odd in its own way."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    deep = (np.random.default_rng(0).random((48, 64)) * 65535).astype(np.uint16)
    replace(tree, "000001", Image.new("RGB", (1, 1), (200, 10, 10)), (1, 1, 1, 1))
    replace(tree, "000002", Image.new("L", (64, 48), 99), (4, 4, 40, 40))
    replace(tree, "000003", Image.new("CMYK", (48, 64), (9, 99, 9, 0)))  # a scene without objects
    replace(tree, "000004", Image.fromarray(deep), (4, 4, 40, 40), suffix=".png")
    replace(tree, "000005", Image.new("RGB", (64, 48)), (4, 4, 40, 60), exif=rotated)  # 48 x 64 as displayed
    replace(tree, "000006", Image.new("RGB", (300, 1)), (1, 1, 90, 1))
    replace(tree, "000007", Image.new("P", (64, 48)), (4, 4, 40, 40), suffix=".png")


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__odd_pictures_are_trained_on_and_evaluated(configure, voc_tree, engine):
    odd_pictures(voc_tree)
    splits = "('voc_2007_trainval', 'voc_2007_test')"
    cfg = configure(
        *OWN,
        "DATASETS.TRAIN",
        splits,
        "DATASETS.TEST",
        splits,
        "SOLVER.MAX_ITER",
        6,
        "SOLVER.BASE_LR",
        0.001,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
        False,
    )
    reports = fine_tune(cfg, engine=engine)
    assert [report["num_images"] for report in reports.values()] == [4, 3]
    for report in reports.values():
        assert report["voc07"]["per_class"]["unicorn"] is None
        assert report["voc07"]["num_classes_scored"] == 1  # dog


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__reads_each_dataset_once(configure, monkeypatch, engine):
    """Also where it evaluates on the way and takes precise statistics from the training pictures."""
    read, load_dataset = [], check.load_dataset
    monkeypatch.setattr(
        check, "load_dataset", lambda name, **options: read.append(name) or load_dataset(name, **options)
    )
    precise = ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 1, "MODEL.RESNETS.NORM", "BN")
    cfg = configure("TEST.EVAL_PERIOD", 1, *precise)
    fine_tune(cfg, engine=engine)
    assert sorted(read) == sorted([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__the_last_checkpoint_finds_no_room(configure, monkeypatch, engine):
    """Detectron2 still runs its hooks then, of which one divides by the iterations since it last did."""
    saved = []

    def full(state, path):
        saved.append(path)
        if len(saved) == 2:
            raise OSError("no space left")
        save_checkpoint(state, path)

    monkeypatch.setattr("pretrain.run.checkpoint.save_checkpoint", full)
    with pytest.raises(OSError, match="no space left"):
        fine_tune(configure("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1), engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__the_report_says_how_many_processes_trained(configure, engine):
    (report,) = fine_tune(configure(), engine=engine).values()
    assert report["protocol"]["training"]["processes"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__the_report_says_what_it_was_trained_on_and_keeps_it(configure, engine):
    """Difficult objects are trained on; an evaluation that trains nothing takes it from the report that was there."""
    cfg = configure("DATASETS.TRAIN", "('voc_2007_trainval',)")
    (report,) = fine_tune(cfg, engine=engine).values()
    counts = {name: count for name, count in report["training_objects"].items() if count}
    assert counts == {"dog": 2, "person": 2, "car": 1}
    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}/model_final.pth"
    (again,) = fine_tune(cfg, engine=engine, eval_only=True).values()
    assert again["training_objects"] == report["training_objects"]


def test_fine_tune__a_picture_of_a_hundred_megapixels(configure, voc_tree):
    replace(
        voc_tree, "000001", Image.new("L", (10000, 10000), 128), (1, 1, 10000, 9000), suffix=".png", compress_level=1
    )
    for name in ("trainval", "test"):
        voc_tree.image_set(name).write_text("000001\n")
    (report,) = fine_tune(configure("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 1), engine="torchvision").values()
    assert report["num_objects"]["dog"] == 1


def test_read_picture__more_pixels_than_are_safe(tmp_path):
    Image.new("1", (15000, 12000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"bomb.png cannot be read: Image size \(180000000 pixels\) exceeds limit"):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__coco_files(configure, voc_tree, coco_files, tmp_path, engine):
    for name in ("trainval", "test"):
        dataset = load_voc(f"voc_2007_{name}", root=voc_tree.root, classes=("dog", "person", "car"))
        annotations = [
            {
                "image_id": int(picture.image_id),
                "category_id": dataset.classes.index(item.name),
                "iscrowd": 0,
                "bbox": [
                    item.box[0] - 1,
                    item.box[1] - 1,
                    item.box[2] - item.box[0] + 1,
                    item.box[3] - item.box[1] + 1,
                ],
            }
            for picture in dataset.pictures
            for item in picture.objects
        ]
        for number, item in enumerate(annotations, start=1):
            item |= {"id": number, "area": item["bbox"][2] * item["bbox"][3]}
        images = [
            {"id": int(p.image_id), "file_name": p.path.name, "width": p.width, "height": p.height}
            for p in dataset.pictures
        ]
        categories = [{"id": label, "name": name} for label, name in enumerate(dataset.classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (voc_tree.folder() / "JPEGImages" / f"{name}.json").write_text(json.dumps(content))
    files = (
        "VOC.ROOT",
        voc_tree.folder(),
        "DATASETS.TRAIN",
        "('JPEGImages/trainval.json',)",
        "DATASETS.TEST",
        "('JPEGImages/test.json',)",
        "MODEL.ROI_HEADS.NUM_CLASSES",
        3,
    )
    ((name, report),) = fine_tune(configure(*files, run="coco"), engine=engine).items()
    assert name == "JPEGImages_test"
    assert report["classes"] == ["dog", "person", "car"]
    folder = tmp_path / "coco" / "inference" / name
    assert len(list(folder.glob("comp4_det_test_*.txt"))) == 3
    results = json.loads((folder / "coco_instances_results.json").read_text())
    assert len(results) == report["num_detections"] > 0
    assert coco_files.numbers(content, results) == report["coco"]
    voc = configure("VOC.CLASSES", "('dog', 'person', 'car')", "MODEL.ROI_HEADS.NUM_CLASSES", 3, run="voc")
    (same,) = fine_tune(voc, engine=engine).values()
    finals = [torch.load(tmp_path / run / "model_final.pth")["model"] for run in ("coco", "voc")]
    assert all(torch.equal(tensor, finals[1][key]) for key, tensor in finals[0].items())
    assert same["num_detections"] == report["num_detections"]


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__eval_only_refuses_weights_of_other_classes(configure, tmp_path, engine):
    cfg = configure(*OWN)
    save_checkpoint({"model": build_model(cfg).detectron2_state_dict(), "config": cfg.dump()}, tmp_path / "w.pth")
    other = configure(
        "VOC.CLASSES",
        "('person', 'dog', 'car', 'unicorn')",
        "MODEL.ROI_HEADS.NUM_CLASSES",
        4,
        "MODEL.WEIGHTS",
        tmp_path / "w.pth",
    )
    with pytest.raises(ValueError, match=r"was trained for the classes dog, person, .* but the config has person, dog"):
        fine_tune(other, engine=engine, eval_only=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_fine_tune__refuses_what_the_engine_lacks_before_reading_data(configure, engine):
    changes = {"torchvision": ("MODEL.RESNETS.NORM", "GN"), "detectron2": ("SOLVER.AMP.ENABLED", True)}[engine]
    with pytest.raises(ValueError, match=rf"{changes[0]} is {changes[1]!r}, which .* supports?"):
        fine_tune(configure(*changes, "VOC.ROOT", "nowhere"), engine=engine)


def test_check_config__detectron2_starts_its_own_processes(configure, monkeypatch):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"Detectron2 starts its own processes: use --num-gpus 4 instead of torchrun"):
        select("detectron2").check_config(configure())


def test_describe__records_every_key_that_affects_the_number(configure, tmp_path):
    trained = configure(*OWN, "SOLVER.BASE_LR", 0.02, "SEED", 3, "VOC.CLASSES", "()", "MODEL.ROI_HEADS.NUM_CLASSES", 20)
    save_checkpoint({"model": {}, "iteration": 4, "processes": 2, "config": trained.dump()}, tmp_path / "w.pth")
    tested = configure("MODEL.WEIGHTS", tmp_path / "w.pth", "SEED", 4, "MODEL.RPN.NMS_THRESH", 0.5)
    protocol = describe(tested, engine="torchvision", config_file=None)
    assert protocol["complete"] is True
    training, test = protocol["training"], protocol["test"]
    free = EFFECTS.free_on_resume | {"VERSION", "SEED"}
    assert set(training) == {key for key in EFFECTS.first_values(get_cfg()) if key not in free} | {
        "iterations",
        "processes",
    }
    assert training["processes"] == 2
    assert training["iterations"] == 5  # of an early checkpoint, fewer than SOLVER.MAX_ITER
    assert list(training)[: len(MAIN_KEYS["training"])] == list(MAIN_KEYS["training"])
    assert (training["SOLVER.BASE_LR"], training["MODEL.ROI_BOX_HEAD.FC_DIM"], protocol["seed"]) == (0.02, 32, 3)
    assert training["VOC.CLASSES"] == list(VOC_CLASSES)  # an empty list means these
    assert (training["MODEL.RPN.NMS_THRESH"], test["MODEL.RPN.NMS_THRESH"]) == (0.7, 0.5)
    assert list(test)[: len(MAIN_KEYS["test"])] == list(MAIN_KEYS["test"])
    assert {"INPUT.FORMAT", "TEST.AUG.ENABLED", "MODEL.ROI_BOX_HEAD.POOLER_TYPE"} <= set(test)
    assert not {"MODEL.WEIGHTS", "MODEL.DEVICE", "DATASETS.TEST", "TEST.EVAL_PERIOD", "SEED", "SOLVER.GAMMA"} & set(
        test
    )
    json.dumps(protocol)


def test_describe__a_key_that_the_checkpoint_lacks_had_its_first_default(configure, tmp_path):
    saved = yaml.safe_load(configure().dump())
    del saved["SOLVER"]["NESTEROV"], saved["MODEL"]["RPN"]["NMS_THRESH"]
    save_checkpoint({"model": {}, "config": yaml.safe_dump(saved)}, tmp_path / "w.pth")
    protocol = describe(configure("MODEL.WEIGHTS", tmp_path / "w.pth"), engine="torchvision", config_file=None)
    assert (protocol["training"]["SOLVER.NESTEROV"], protocol["training"]["MODEL.RPN.NMS_THRESH"]) == (False, 0.7)
    save_checkpoint({"model": {}}, tmp_path / "bare.pth")
    protocol = describe(configure("MODEL.WEIGHTS", tmp_path / "bare.pth"), engine="torchvision", config_file=None)
    assert (protocol["training"], protocol["seed"]) == (None, None)
    assert protocol["test"]["MODEL.RPN.NMS_THRESH"] == 0.7


@pytest.mark.parametrize("weights, is_finished, eval_only, folder", [
    ("run/model_final.pth", True, True, "inference"),
    ("run/model_0004999.pth", True, True, "inference_model_0004999"),
    ("run/model_0004999.pth", False, True, "inference_model_0004999"),
    ("other/model_0004999.pth", True, True, "inference_model_0004999"),  # beside the report of this run
    ("other/model_final.pth", False, True, "inference"),  # a folder for this evaluation alone
    ("backbone.pth", True, False, "inference"),  # what training starts from
])  # fmt: skip
def test_inference_folder__says_which_weights_where_they_are_not_the_run_s(
    configure, tmp_path, weights, is_finished, eval_only, folder
):
    if is_finished:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "model_final.pth").touch()
    cfg = configure()
    cfg.MODEL.WEIGHTS = str(tmp_path / weights)
    assert inference_folder(cfg, "voc", eval_only=eval_only) == tmp_path / "run" / folder / "voc"
