"""Every key of detection with its default: Detectron2's own keys, as far as both engines share them, and a few of ours.

Names and default values are Detectron2's (its config/defaults.py at commit 02b5c4e; a test compares them key by key
where Detectron2 is installed), so that the YAML files here run on either engine; only the default of
DATALOADER.NUM_WORKERS is ours. Keys that Detectron2 has and this file lacks belong to detectors that the toolkit does
not train; setting one is an error that names it.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as CN


def add_voc_config(cfg: CN) -> None:
    """Add the keys that are ours to ``cfg`` in place; Detectron2's own config needs this to read our files."""
    cfg.VOC = type(cfg)()  # merging wants one node type, and Detectron2 has its own
    cfg.VOC.ROOT = ""  # folder with VOC2007 or VOCdevkit/VOC2007; "" is $DETECTRON2_DATASETS, else ./datasets
    cfg.VOC.PICTURES_ANYWHERE = False  # let a COCO file name pictures outside of ROOT: reports then show what it names
    cfg.VOC.CLASSES = ()  # names in the order of their labels; () is the challenge's twenty, or those of your own data
    # Share of the pictures of TRAIN that is kept from training, drawn by its own seed and stratified by class; what
    # TEST shares with TRAIN is then these pictures alone. To choose settings by; 0: none
    cfg.DATASETS.HELD_OUT = 0.0
    cfg.DATASETS.HELD_OUT_SEED = 0
    cfg.MODEL.CHANNELS_LAST = False  # memory layout of pictures and weights; faster on GPUs in half precision
    cfg.SOLVER.AMP.DTYPE = "auto"  # "float16", "bfloat16"; "auto" is float16 on GPUs as in Detectron2, else bfloat16


def drop_voc_config(cfg: CN) -> None:
    """Undo ``add_voc_config`` in place: what is left Detectron2 reads as it is."""
    del cfg["VOC"], cfg.MODEL["CHANNELS_LAST"], cfg.SOLVER.AMP["DTYPE"]
    del cfg.DATASETS["HELD_OUT"], cfg.DATASETS["HELD_OUT_SEED"]
    if cfg.DATALOADER.NUM_WORKERS == -1:
        cfg.DATALOADER.NUM_WORKERS = 4  # its default; it knows no number by the cores


def get_cfg() -> CN:
    """Return a new config with every key at its default."""
    cfg = CN()
    cfg.VERSION = 2  # of Detectron2's config format
    cfg.OUTPUT_DIR = "./output"  # the run folder
    cfg.SEED = -1  # negative: drawn anew for each run, and recorded
    cfg.CUDNN_BENCHMARK = False  # try cuDNN algorithms; pays off only where all pictures have one size
    _add_input(cfg)
    _add_model(cfg)
    _add_solver(cfg)
    _add_test(cfg)
    add_voc_config(cfg)
    return cfg


def _add_input(cfg: CN) -> None:
    cfg.INPUT = CN()
    cfg.INPUT.FORMAT = "BGR"  # channel order that the network sees; RGB for converted torchvision-style weights
    cfg.INPUT.MIN_SIZE_TRAIN = (800,)  # pixels of the short side, drawn for each picture as SAMPLING says
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"  # "choice" among the sizes, or "range" from the first to the second
    cfg.INPUT.MAX_SIZE_TRAIN = 1333  # pixels; a longer long side shrinks the picture further
    cfg.INPUT.MIN_SIZE_TEST = 800  # pixels; 0 leaves pictures at their own size
    cfg.INPUT.MAX_SIZE_TEST = 1333
    cfg.INPUT.RANDOM_FLIP = "horizontal"  # with probability 1/2; "horizontal", "vertical" or "none"
    cfg.INPUT.CROP = CN({"ENABLED": False})

    cfg.DATASETS = CN()
    cfg.DATASETS.TRAIN = ()  # names for detection.datasets.load.load_dataset, read one after the other
    cfg.DATASETS.TEST = ()

    cfg.DATALOADER = CN()
    cfg.DATALOADER.NUM_WORKERS = -1  # processes that prepare samples, for each one that trains; -1: by the cores
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True  # no batch mixes wide pictures with the others, which saves padding
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"  # endless permutations of the data
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True  # leave pictures without objects out of training


def _add_model(cfg: CN) -> None:
    cfg.MODEL = CN()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.DEVICE = "cuda"
    cfg.MODEL.WEIGHTS = ""  # a converted backbone or a detector of either engine; "" is random initialisation
    cfg.MODEL.PIXEL_MEAN = [103.530, 116.280, 123.675]  # in INPUT.FORMAT order, of values 0..255 (ImageNet, BGR)
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]  # 1 for MSRA weights, whose first layer has absorbed it
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.KEYPOINT_ON = False
    cfg.MODEL.LOAD_PROPOSALS = False

    cfg.MODEL.BACKBONE = CN()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"  # C4; "build_resnet_fpn_backbone" is FPN
    # First stages that stay fixed: 0 none, 1 stem, 2 stem and res2, 4 all but res5, 5 all; in C4 res5 is part of the
    # RoI heads and always trains
    cfg.MODEL.BACKBONE.FREEZE_AT = 2

    cfg.MODEL.RESNETS = CN()
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]  # res2 to res5 for FPN
    cfg.MODEL.RESNETS.NUM_GROUPS = 1  # of the 3x3 convolutions; 32 in ResNeXt-50 32x4d
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 64  # channels in res2; 4 in ResNeXt-50 32x4d, 128 in Wide ResNet-50-2
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True  # true for MSRA weights; torchvision-style networks stride in the 3x3
    cfg.MODEL.RESNETS.RES5_DILATION = 1
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256  # 64 for depth 18 and 34
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64  # 128 in SwAV's RN50w2, beside 512 of res2 and 128 per group
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, False, False, False]

    cfg.MODEL.FPN = CN()
    cfg.MODEL.FPN.IN_FEATURES = []
    cfg.MODEL.FPN.OUT_CHANNELS = 256
    cfg.MODEL.FPN.NORM = ""
    cfg.MODEL.FPN.FUSE_TYPE = "sum"

    cfg.MODEL.ANCHOR_GENERATOR = CN()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "DefaultAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64, 128, 256, 512]]  # sqrt of area in input pixels; a list per level
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]  # height / width; a list per level, or one for all
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.0  # of the first anchor's centre from the corner, in strides

    cfg.MODEL.PROPOSAL_GENERATOR = CN()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 0  # input pixels; both sides of a proposal must exceed it

    cfg.MODEL.RPN = CN()
    cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    cfg.MODEL.RPN.IN_FEATURES = ["res4"]
    cfg.MODEL.RPN.BOUNDARY_THRESH = -1  # -1 keeps anchors that leave the picture
    cfg.MODEL.RPN.IOU_THRESHOLDS = [0.3, 0.7]  # below the first background, from the second on object, else ignored
    cfg.MODEL.RPN.IOU_LABELS = [0, -1, 1]
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 256  # anchors that enter the loss
    cfg.MODEL.RPN.POSITIVE_FRACTION = 0.5  # of them, at most
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = "smooth_l1"
    cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 1.0
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # multiply the targets dx, dy, dw, dh
    cfg.MODEL.RPN.SMOOTH_L1_BETA = 0.0  # 0 is L1
    cfg.MODEL.RPN.LOSS_WEIGHT = 1.0
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 12000  # proposals before NMS, per level
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 6000
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 2000  # proposals after NMS, per picture
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    cfg.MODEL.RPN.NMS_THRESH = 0.7  # IoU
    cfg.MODEL.RPN.CONV_DIMS = [-1]  # -1: as many channels as the input

    cfg.MODEL.ROI_HEADS = CN()
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80  # without the background; must be the number of classes of the data
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS = [0.5]  # object from here on, else background
    cfg.MODEL.ROI_HEADS.IOU_LABELS = [0, 1]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 512  # RoIs that enter the loss
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.25  # of them, at most
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05  # detections must score more
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.5  # IoU, within a class
    cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = True  # the annotated boxes join the proposals in training

    cfg.MODEL.ROI_BOX_HEAD = CN()
    cfg.MODEL.ROI_BOX_HEAD.NAME = ""  # "FastRCNNConvFCHead" for FPN; C4 uses res5 instead
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "smooth_l1"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 1.0
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 0.0
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 14  # cells a side
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 0  # 0 adapts the samples of a cell to its size
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 0
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1024
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = 0
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 256
    cfg.MODEL.ROI_BOX_HEAD.NORM = ""
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = False
    cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = False
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = False
    cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = False


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER = CN()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    cfg.SOLVER.MAX_ITER = 40000
    cfg.SOLVER.IMS_PER_BATCH = 16  # pictures per iteration, over all processes
    cfg.SOLVER.BASE_LR = 0.001  # for IMS_PER_BATCH pictures; nothing scales it
    cfg.SOLVER.MOMENTUM = 0.9
    cfg.SOLVER.NESTEROV = False
    cfg.SOLVER.WEIGHT_DECAY = 0.0001
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0  # of the weights and biases of normalisation layers
    cfg.SOLVER.WEIGHT_DECAY_BIAS = None  # of other biases; None is WEIGHT_DECAY
    cfg.SOLVER.BIAS_LR_FACTOR = 1.0
    cfg.SOLVER.GAMMA = 0.1  # the rate is multiplied by it at each of STEPS
    cfg.SOLVER.STEPS = (30000,)  # iterations
    cfg.SOLVER.WARMUP_FACTOR = 1.0 / 1000  # of BASE_LR, at iteration 0
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.SOLVER.WARMUP_METHOD = "linear"
    cfg.SOLVER.RESCALE_INTERVAL = False
    cfg.SOLVER.CHECKPOINT_PERIOD = 5000  # iterations
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0  # 0: batch and rate stay as they are, however many processes there are
    cfg.SOLVER.CLIP_GRADIENTS = CN({"ENABLED": False})
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"  # "value" of each element, or "norm" of each parameter's gradient
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
    cfg.SOLVER.AMP = CN({"ENABLED": False})


def _add_test(cfg: CN) -> None:
    cfg.TEST = CN()
    cfg.TEST.EVAL_PERIOD = 0  # iterations between evaluations in training; 0 evaluates at the end only
    cfg.TEST.DETECTIONS_PER_IMAGE = 100  # the best-scoring ones
    cfg.TEST.AUG = CN({"ENABLED": False})
    cfg.TEST.PRECISE_BN = CN({"ENABLED": False})  # recompute BatchNorm statistics before each evaluation
    cfg.TEST.PRECISE_BN.NUM_ITER = 200  # batches
