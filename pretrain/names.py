"""What the values of the settings are called: every name that a config, a card or a report may hold.

No import here, so that a wrong name is refused before anything heavy is loaded or any data is touched.
"""

METHODS = (
    "baseline", "cutout", "mixup", "manifold_mixup", "cutmix", "dropblock", "stochastic_depth", "resizemix",
    "saliencymix",
)  # fmt: skip
# Whose pictures of a pair can be shown.
PAIR_METHODS = ("baseline", "cutout", "mixup", "cutmix", "resizemix", "saliencymix")
# torchvision's, the same with CIFAR's 3x3 stem, and the wide network of the paper's CIFAR rows.
ARCHITECTURES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
    "resnet18_cifar", "resnet34_cifar", "resnet50_cifar", "wide_resnet28_10",
)  # fmt: skip
DATASETS = ("image_folder", "cifar10", "cifar100")
CROPS = ("resized", "padded", "none")
DECODERS = ("opencv", "pillow")
INTERPOLATIONS = ("bilinear", "bicubic")
SHEET_SUFFIXES = (".png", ".jpg")  # of contact sheets
PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULES = ("steps", "cosine")  # of the learning rate

# Where the patch is cut from and where it is pasted (paper, section 3.4).
STYLES = {
    "salient_to_corresponding": ("salient", "corresponding"),
    "salient_to_salient": ("salient", "salient"),
    "salient_to_nonsalient": ("salient", "nonsalient"),
    "nonsalient_to_salient": ("nonsalient", "salient"),
    "nonsalient_to_nonsalient": ("nonsalient", "nonsalient"),
}
# Where the patch comes from: a place that is drawn, the whole picture made smaller, or one of the styles. METHOD
# saliencymix takes any of them, with any of LABELS; two other methods are the names of one.
PATCHES = ("uniform", "resized", *STYLES)
PATCH_OF_METHOD = {"cutmix": "uniform", "resizemix": "resized"}
LABELS = ("area", "absolute", "relative")  # the share of pixels, or of saliency that is seen
SCOPES = ("image", "batch")
PLACEMENTS = ("clip", "shift")
# fine_grained is the detector of the authors' code, background_subtraction follows the one that the paper names.
SALIENCIES = (
    "fine_grained", "spectral_residual", "frequency_tuned", "background_subtraction", "official", "basnet",
)  # fmt: skip
ATTACKS = ("fgsm", "pgd")
