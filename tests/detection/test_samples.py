import logging
from itertools import islice
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from PIL import Image

from detection.config import get_cfg
from detection.datasets.types import AnnotatedPicture
from detection.datasets.voc import load_voc
from detection.run_data import read_run_data
from detection.samples import (
    InferenceSamples,
    TrainingBatches,
    TrainingSamples,
    inference_loader,
    iterate,
    resized_shape,
    training_loader,
)
from pretrain.run.pictures import read_picture

CLASSES = ("dog", "person", "car")


def samples_of(cfg):
    return TrainingSamples(cfg, read_run_data(cfg)[1].train)


def loader_of(cfg, **options):
    return training_loader(cfg, samples_of(cfg), **options)


@pytest.fixture
def cfg(voc_root):
    cfg = get_cfg()
    cfg.VOC.ROOT = str(voc_root)
    cfg.VOC.CLASSES = CLASSES
    cfg.DATASETS.TRAIN = ("voc_2007_trainval", "voc_2012_trainval")
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SEED = 7
    return cfg


@pytest.mark.parametrize(
    "height, width, short_side, max_size, expected",
    [
        (375, 500, 800, 1333, (800, 1067)),  # 500 * 800 / 375 = 1066.67
        (500, 375, 800, 1333, (1067, 800)),
        (375, 1000, 800, 1333, (500, 1333)),  # 2133 is too long: 800 * 1333 / 2133.3 = 499.9
        (100, 100, 32, 1333, (32, 32)),
        (333, 500, 0, 1333, (333, 500)),
        (1, 5000, 800, 1333, (1, 1333)),  # 0.27 rows
    ],
)
def test_resized_shape__table(height, width, short_side, max_size, expected):
    assert resized_shape(height, width, short_side, max_size) == expected


def test_resized_shape__is_detectron2s():
    transforms = pytest.importorskip("detectron2.data.transforms", reason="Detectron2 is not installed")
    theirs = transforms.ResizeShortestEdge.get_output_shape
    for height, width, short_side in np.random.default_rng(0).integers(100, 1500, (2000, 3)).tolist():
        assert resized_shape(height, width, short_side, 1333) == theirs(height, width, short_side, 1333)


def test_training_samples__boxes_lose_one_pixel_at_the_near_corner(cfg):
    sample = samples_of(cfg)[0, 0]
    assert sample["image_id"] == "000001"
    assert (sample["height"], sample["width"]) == (48, 64)
    assert sample["boxes"].tolist() == [[4, 5, 30, 40], [33, 2, 60, 44]]  # XML: 5 6 30 40 and 34 3 60 44
    assert sample["boxes"].dtype == torch.float32
    assert sample["classes"].tolist() == [0, 1]
    assert sample["image"].dtype == torch.uint8
    assert np.array_equal(sample["image"].permute(1, 2, 0), Image.open(samples_of(cfg).pictures[0].path))


def test_training_samples__resized_then_flipped(cfg):
    plain = samples_of(cfg)
    cfg = cfg.clone()
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    half = samples_of(cfg)
    flips = [position for position in range(20) if half[0, position]["boxes"][0, 0] != 2]  # 4 / 2
    assert 0 < len(flips) < 20
    sample = half[0, flips[0]]
    assert sample["boxes"].tolist() == [[17, 2.5, 30, 20], [2, 1, 15.5, 22]]  # x of the first: 32 - 30/2, 32 - 4/2
    small = Image.open(plain.pictures[0].path).resize((32, 24), Image.Resampling.BILINEAR)
    assert np.array_equal(sample["image"].permute(1, 2, 0), np.asarray(small)[:, ::-1])


def test_training_samples__vertical_flip(cfg):
    cfg.INPUT.RANDOM_FLIP = "vertical"
    samples = samples_of(cfg)
    boxes = {tuple(samples[0, position]["boxes"][0].tolist()) for position in range(20)}
    assert boxes == {(4, 5, 30, 40), (4, 8, 30, 43)}


def test_training_samples__bgr_reverses_the_channels(cfg):
    rgb = samples_of(cfg)[0, 0]["image"]
    cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(samples_of(cfg)[0, 0]["image"], rgb.flip(0))


def test_training_samples__difficult_objects_stay_and_pictures_without_objects_go(cfg):
    samples = samples_of(cfg)
    assert [picture.image_id for picture in samples.pictures] == [
        "000001",
        "000002",
        "000004",
        "2008_000001",
        "2008_000002",
    ]
    assert samples[1, 0]["classes"].tolist() == [2, 0]  # the dog is difficult
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    empty = samples_of(cfg)[2, 0]
    assert empty["image_id"] == "000003"
    assert empty["boxes"].shape == (0, 4)
    assert empty["classes"].shape == (0,)


def test_training_samples__boxes_are_clipped_or_dropped(cfg, voc_tree):
    boxes = [(-9, 10, 30, 999), (10, 10, 9, 20), (70, 3, 80, 9), (20, 20, 20, 20)]  # outside, inverted, beyond, 1 pixel
    objects = "".join(
        f"<object><name>dog</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    voc_tree.annotation("000001").write_text(f"<annotation>{objects}</annotation>")
    assert samples_of(cfg)[0, 0]["boxes"].tolist() == [[0, 9, 30, 48], [19, 19, 20, 20]]


def test_training_samples__short_sides_are_drawn(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN = (30, 60)
    samples = samples_of(cfg)
    assert {samples[0, position]["image"].shape[1] for position in range(20)} == {30, 60}
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    samples = samples_of(cfg)
    heights = {samples[0, position]["image"].shape[1] for position in range(60)}
    assert len(heights) > 10
    assert min(heights) >= 30
    assert max(heights) <= 60


def test_training_samples__same_as_detectron2s_mapper(cfg, voc_tree):
    data = pytest.importorskip("detectron2.data", reason="Detectron2 is not installed")
    from detectron2.data import transforms
    from detectron2.data.datasets.pascal_voc import load_voc_instances

    cfg.INPUT.MIN_SIZE_TRAIN = (37,)
    cfg.INPUT.MAX_SIZE_TRAIN = 48
    cfg.INPUT.FORMAT = "BGR"
    augmentations = [transforms.ResizeShortestEdge((37,), 48, "choice"), transforms.RandomFlip(1.0)]
    mapper = data.DatasetMapper(is_train=True, augmentations=augmentations, image_format="BGR")
    samples = samples_of(cfg)
    samples.input.RANDOM_FLIP = "horizontal"
    for name in ("Annotations/000001.xml", "Annotations/000002.xml"):  # their reader wants these tags
        path = voc_tree.folder() / name
        path.write_text(path.read_text().replace("<difficult>", "<pose>x</pose><truncated>0</truncated><difficult>"))
    records = load_voc_instances(f"{cfg.VOC.ROOT}/VOC2007", "trainval", CLASSES)
    for index in range(2):
        theirs = mapper(records[index])
        flipped = (samples[index, position] for position in range(100))
        ours = next(sample for sample in flipped if torch.equal(sample["image"], theirs["image"]))
        assert torch.equal(ours["boxes"], theirs["instances"].gt_boxes.tensor)
        assert torch.equal(ours["classes"], theirs["instances"].gt_classes)


def test_inference_samples__have_no_boxes(cfg, voc_root):
    dataset = load_voc("voc_2007_test", root=voc_root, classes=CLASSES)
    cfg.INPUT.MIN_SIZE_TEST = 24
    samples = list(inference_loader(cfg, dataset))
    assert [sample["image_id"] for sample in samples] == ["000005", "000006", "000007"]
    assert [tuple(sample["image"].shape) for sample in samples] == [(3, 24, 32), (3, 32, 24), (3, 24, 32)]
    assert set(InferenceSamples(cfg, dataset)[0]) == {"image_id", "image", "height", "width"}


def batches(shapes, size, count, **options):
    pictures = [AnnotatedPicture(str(i), None, None, width, height, ()) for i, (width, height) in enumerate(shapes)]
    options = {"seed": 0, "group_by_shape": True, **options}
    return list(islice(TrainingBatches(pictures, size, **options), count))


def test_training_batches__stream_is_one_permutation_after_another():
    stream = [pair for batch in batches([(2, 1)] * 5, 3, 5) for pair in batch]
    assert [position for _, position in stream] == list(range(15))
    indices = [index for index, _ in stream]
    for epoch in (indices[:5], indices[5:10], indices[10:]):
        assert sorted(epoch) == [0, 1, 2, 3, 4]
    generator = torch.Generator().manual_seed(0)  # Detectron2's TrainingSampler
    assert indices[:10] == [i for _ in range(2) for i in torch.randperm(5, generator=generator).tolist()]


def test_training_batches__shapes_are_not_mixed_and_none_is_lost():
    shapes = [(3, 2), (2, 3), (2, 2), (4, 2), (3, 2)]
    drawn = batches(shapes, 2, 50)
    wide = {0, 3, 4}
    assert all(len({index in wide for index, _ in batch}) == 1 for batch in drawn)
    positions = sorted(position for batch in drawn for _, position in batch)
    assert len(positions) - 1 <= positions[-1] <= len(positions) + 1  # at most one waits in each line
    mixed = batches(shapes, 2, 50, group_by_shape=False)
    assert any(len({index in wide for index, _ in batch}) == 2 for batch in mixed)


def test_training_batches__resume_and_share_are_parts_of_the_same_stream():
    shapes = [(3, 2), (2, 3), (2, 2), (4, 2), (3, 2)]
    whole = batches(shapes, 4, 20)
    assert batches(shapes, 4, 13, start_iteration=7) == whole[7:]
    shares = [batches(shapes, 4, 20, rank=rank, world_size=2) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    assert batches(shapes, 4, 20, seed=1) != whole


def test_training_loader__workers_and_the_global_generator_change_nothing(cfg):
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    state = torch.get_rng_state()
    alone = list(islice(iterate(loader_of(cfg)), 4))
    cfg.DATALOADER.NUM_WORKERS = 2
    helped = list(islice(iterate(loader_of(cfg, start_iteration=1)), 3))
    assert torch.equal(torch.get_rng_state(), state)
    for batch, other in zip(alone[1:], helped, strict=True):
        for sample, twin in zip(batch, other, strict=True):
            assert sample["image_id"] == twin["image_id"]
            assert all(torch.equal(sample[key], twin[key]) for key in ("image", "boxes", "classes"))


@pytest.mark.parametrize("setting, workers", [(-1, 3), (0, 0), (5, 5)])
def test_training_loader__takes_the_cores_that_its_process_has_besides_its_own(cfg, monkeypatch, setting, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    cfg.DATALOADER.NUM_WORKERS = setting
    assert loader_of(cfg).num_workers == workers


@pytest.mark.parametrize("device, pinned", [("cpu", False), ("cuda", True), ("cuda:1", True)])
def test_training_loader__pins_memory_for_a_gpu(cfg, device, pinned):
    cfg.MODEL.DEVICE = device
    assert loader_of(cfg).pin_memory is pinned


def test_iterate__workers_end_with_it(cfg):
    cfg.DATALOADER.NUM_WORKERS = 1
    before = set(active_children())
    batches = iterate(loader_of(cfg))
    next(batches)
    (worker,) = set(active_children()) - before
    batches.close()
    assert not worker.is_alive()


def test_training_loader__bad_input(cfg, voc_tree):
    cfg.SOLVER.IMS_PER_BATCH = 3
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH 3 is not divisible by 2 processes; try 2"):
        loader_of(cfg, world_size=2)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        loader_of(cfg)
    cfg.DATASETS.TRAIN = ("voc_2007_empty",)
    voc_tree.image_set("empty").write_text("000003\n")
    with pytest.raises(ValueError, match=r"none of the 1 pictures of voc_2007_empty has an object"):
        loader_of(cfg)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_loader__names_the_picture_that_cannot_be_read(cfg, voc_tree, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    for image_id in ("000001", "000002", "000004"):
        path = voc_tree.picture(image_id)
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"picture .*00000[124].jpg cannot be read"):
        list(islice(iterate(loader_of(cfg)), 4))


def test_training_samples__size_in_the_xml_contradicts_the_picture(cfg, voc_tree):
    Image.new("RGB", (60, 48)).save(voc_tree.picture("000001"))
    with pytest.raises(ValueError, match=r"000001.xml: the boxes are for a picture of 64x48 .*000001.jpg has 60x48"):
        samples_of(cfg)[0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_picture__applies_the_orientation(tmp_path, orientation):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels[::-1].T,
        7: pixels[::-1, ::-1].T,
        8: pixels.T[::-1],
    }[orientation]
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png"))[:, :, 0], expected)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_read_picture__any_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (3, 2)).save(path)
    assert read_picture(path).mode == "RGB"


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_read_picture__16_bits_keep_their_upper_8(tmp_path, name):
    values = np.array([[0, 255, 256], [0x7F80, 0xFF00, 0xFFFF]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert np.asarray(read_picture(tmp_path / name))[:, :, 1].tolist() == [[0, 0, 1], [127, 255, 255]]


def test_read_picture__numbers_that_are_no_brightness(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif cannot be read: its pixels are 0 to 70000, but 8 or 16 bits are"):
        read_picture(tmp_path / "a.tif")
    Image.fromarray(np.array([[0.5]], np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b.tif cannot be read: floating-point pixels have no fixed range"):
        read_picture(tmp_path / "b.tif")


def test_read_picture__bad_files(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"picture .*text.jpg cannot be read: not a picture"):
        read_picture(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match=r"absent.jpg"):
        read_picture(tmp_path / "absent.jpg")


def test_training_samples__eighty_classes_are_one_line_with_the_rarest(configure, voc_root, caplog):
    names = ("dog", "person", "car", *(f"class{number}" for number in range(77)))
    cfg = configure("VOC.CLASSES", str(names), "MODEL.ROI_HEADS.NUM_CLASSES", 80)
    with caplog.at_level(logging.INFO):
        TrainingSamples(cfg, [load_voc("voc_2007_trainval", root=voc_root, classes=names)])
    assert caplog.records[-1].message == (
        "5 objects of 80 classes, the rarest class0 0, class1 0, class2 0, class3 0, class4 0"
    )
