"""Which pixel comes from where, and whether the labels say so."""

import math
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.mixing import make_mixing
from pretrain.mixing.cutout import Cutout
from pretrain.mixing.manifold_mixup import ManifoldMixup
from pretrain.mixing.saliencymix import SaliencyMix
from pretrain.names import METHODS, PLACEMENTS, SCOPES, STYLES


def labelled_pictures(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures whose every pixel names its source (picture, row, column), and a class of its own for each."""
    picture, row, col = torch.meshgrid(torch.arange(count), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([picture, row, col], dim=1).to(torch.uint8), torch.arange(count)


def noise_maps(count: int, height: int, width: int) -> torch.Tensor:
    """Saliency maps with a single largest and a single smallest value each, all over the picture."""
    shuffled = [torch.randperm(height * width) for _ in range(count)]
    return torch.stack(shuffled).view(count, height, width).float()


def mixer(maps: torch.Tensor, **settings) -> SaliencyMix:
    """SaliencyMix that finds ``maps[k]`` in picture k of ``labelled_pictures``."""
    return SaliencyMix(len(maps), saliency=lambda images: maps[images[:, 0, 0, 0].long()], **settings)


def expected_pixel_sources(host, donor, host_map, donor_map, lam, style, placement):
    """Name the source of every pixel of one mixed picture, pixel by pixel, from the paper's words."""
    height, width = host_map.shape
    cut, pasted = STYLES[style]

    def anchor(map_, which):
        index = int(map_.argmax() if which == "salient" else map_.argmin())
        return index // width, index % width

    source = anchor(donor_map, cut)
    target = source if pasted == "corresponding" else anchor(host_map, pasted)
    sides = [int(height * math.sqrt(1 - lam)), int(width * math.sqrt(1 - lam))]
    result = np.empty((height, width, 3), np.uint8)
    for row, col in product(range(height), range(width)):
        came_from = []
        for place, side, length, s, t in zip((row, col), sides, (height, width), source, target, strict=True):
            if placement == "clip":  # side // 2 pixels before and after the anchor, where both pictures have them
                inside = -(side // 2) <= place - t < side // 2 and 0 <= place - t + s < length
                came_from.append(place - t + s if inside else None)
            else:  # the whole side, moved inside
                first_source = min(max(s - side // 2, 0), length - side)
                first_target = min(max(t - side // 2, 0), length - side)
                inside = first_target <= place < first_target + side
                came_from.append(place - first_target + first_source if inside else None)
        result[row, col] = (host, row, col) if None in came_from else (donor, *came_from)
    return result


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(8, 8), (7, 13), (2, 5), (1, 1)])
def test_saliencymix__every_pixel_and_weight(style, placement, scope, size):
    torch.manual_seed(0)
    for _ in range(3):
        images, labels = labelled_pictures(5, *size)
        maps = noise_maps(5, *size)
        mix = mixer(maps, style=style, placement=placement, scope=scope)
        state = torch.get_rng_state()
        mixed, soft_labels = mix(images, labels)
        torch.set_rng_state(state)
        draws = mix.draw(5)
        for host, donor in enumerate(draws.partners.tolist()):
            lam = draws.lam.expand(5)[host].item()
            # scope "batch": one place for all, from the first picture and its partner
            pair = (0, int(draws.partners[0])) if scope == "batch" else (host, donor)
            expected = expected_pixel_sources(host, donor, maps[pair[0]], maps[pair[1]], lam, style, placement)
            assert np.array_equal(mixed[host].permute(1, 2, 0).numpy(), expected)
            pasted = (expected[..., 0] != host).mean() if donor != host else 0.0
            weights = np.zeros(5)
            weights[host] += 1 - pasted
            weights[donor] += pasted
            np.testing.assert_allclose(soft_labels[host].numpy(), weights, atol=1e-7)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_saliencymix__the_peak_lies_in_the_patch(placement):
    torch.manual_seed(0)
    images, _ = labelled_pictures(64, 31, 18)
    maps = noise_maps(64, 31, 18)
    mix = mixer(maps, placement=placement)
    draws = mix.draw(64)
    patches = mix.locate(images, draws)
    peaks = maps.flatten(1).argmax(1)[draws.partners]
    row, col = peaks // 18, peaks % 18
    some = patches.height * patches.width > 0
    assert some.sum() > 50
    for first, extent, peak in ((patches.source_top, patches.height, row), (patches.source_left, patches.width, col)):
        assert ((first <= peak) & (peak < first + extent))[some].all()
        assert (first >= 0).all()


def test_saliencymix__shifted_patches_are_whole():
    torch.manual_seed(0)
    images, _ = labelled_pictures(32, 31, 18)
    mix = mixer(noise_maps(32, 31, 18), placement="shift", style="salient_to_nonsalient")
    draws = mix.draw(32)
    patches = mix.locate(images, draws)
    assert torch.equal(patches.height, (31 * (1 - draws.lam).sqrt()).long())
    assert torch.equal(patches.width, (18 * (1 - draws.lam).sqrt()).long())
    assert (patches.target_top >= 0).all()
    assert (patches.target_top + patches.height <= 31).all()


@pytest.mark.parametrize("scope", SCOPES)
def test_saliencymix__leaves_the_batch_alone_and_repeats(scope):
    images = torch.randint(0, 256, (6, 3, 32, 24), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    copies = images.clone(), labels.clone()
    mix = SaliencyMix(3, scope=scope)
    torch.manual_seed(3)
    first = mix(images, labels)
    assert torch.equal(images, copies[0])
    assert torch.equal(labels, copies[1])
    torch.manual_seed(3)
    second = mix(images, labels)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[0].dtype == torch.uint8
    assert first[1].dtype == torch.float32
    assert not torch.equal(first[0], mix(images, labels)[0])


def test_saliencymix__official_batch_is_the_authors_procedure():
    """Their training step written down with NumPy and OpenCV, given the same lambda and permutation."""
    cv2 = pytest.importorskip("cv2")
    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs")
    pictures = [
        cv2.resize(picture(), (65, 48), interpolation=cv2.INTER_AREA)
        for picture in (data.astronaut, data.chelsea, data.coffee, data.rocket)
    ]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    labels = torch.arange(4)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    mix = SaliencyMix(4, saliency="official", scope="batch")
    for seed in range(8):
        torch.manual_seed(seed)
        draws = mix.draw(4)
        torch.manual_seed(seed)
        mixed, soft_labels = mix(images, labels)

        normalised = (images.float().div(255) - mean) / std
        lam, order = draws.lam.item(), draws.partners
        picture = normalised[order[0]].permute(1, 2, 0).numpy()
        _, map_ = cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(np.ascontiguousarray(picture))
        peak_row, peak_col = np.unravel_index(np.argmax((map_ * 255).astype("uint8")), map_.shape)
        cut_rows, cut_cols = int(48 * np.sqrt(1 - lam)), int(65 * np.sqrt(1 - lam))
        top, bottom = np.clip([peak_row - cut_rows // 2, peak_row + cut_rows // 2], 0, 48)
        left, right = np.clip([peak_col - cut_cols // 2, peak_col + cut_cols // 2], 0, 65)
        expected = normalised.clone()
        expected[:, :, top:bottom, left:right] = normalised[order, :, top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (48 * 65)

        patches = mix.locate(images, draws)
        box = [patches.source_top, patches.source_left, patches.height, patches.width]
        assert [int(value) for value in box] == [top, left, bottom - top, right - left]
        assert torch.equal((mixed.float().div(255) - mean) / std, expected)
        by_hand = nn.functional.one_hot(labels) * kept + nn.functional.one_hot(labels[order]) * (1 - kept)
        torch.testing.assert_close(soft_labels, by_hand.float(), rtol=0, atol=1e-7)


def test_saliencymix__works_with_rows_of_probabilities():
    images, _ = labelled_pictures(4, 9, 9)
    probabilities = torch.rand(4, 7).softmax(1)
    torch.manual_seed(0)
    _, soft_labels = SaliencyMix()(images, probabilities)
    torch.testing.assert_close(soft_labels.sum(1), torch.ones(4))
    torch.manual_seed(0)
    one_hot = SaliencyMix(4)(images, torch.arange(4))[1]  # the weights of each picture in each mixed one
    torch.testing.assert_close(soft_labels, one_hot @ probabilities)


def test_saliencymix__shares_follow_alpha():
    torch.manual_seed(0)
    for alpha in (0.2, 1.0, 5.0):
        shares = SaliencyMix(2, alpha=alpha).draw(20000).lam
        assert abs(shares.mean() - 0.5) < 0.01
        assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.005  # variance of Beta(alpha, alpha)


def test_saliencymix__reduced_resolution_and_pickling():
    mix = pickle.loads(pickle.dumps(SaliencyMix(4, resolution=16, style="nonsalient_to_salient")))
    images = torch.randint(0, 256, (4, 3, 40, 50), dtype=torch.uint8)
    assert mix(images, torch.arange(4))[0].shape == images.shape


@pytest.mark.parametrize(
    "method", [name for name in METHODS if name not in ("baseline", "dropblock", "stochastic_depth", "manifold_mixup")]
)
def test_make_mixing__one_convention(method):
    images, labels = labelled_pictures(6, 16, 20)
    dtype = torch.float32 if method == "mixup" else torch.uint8
    for p, expect_mixed in ((1.0, True), (0.0, False)):
        mix = make_mixing(method, num_classes=6, alpha=1.0, p=p)
        torch.manual_seed(1)
        mixed, soft_labels = mix(images, labels)
        assert mixed.shape == images.shape
        assert mixed.dtype == dtype
        assert soft_labels.shape == (6, 6)
        assert soft_labels.dtype == torch.float32
        torch.testing.assert_close(soft_labels.sum(1), torch.ones(6))
        assert torch.equal(mixed.to(torch.uint8), images) != expect_mixed
        one_hot = torch.equal(soft_labels, torch.eye(6))
        assert one_hot == (not expect_mixed or method == "cutout")


@pytest.mark.parametrize("method", ["baseline", "dropblock", "stochastic_depth"])
def test_make_mixing__leaves_the_batch_to_methods_that_act_elsewhere(method):
    assert make_mixing(method, num_classes=3) is None


def test_p__is_how_often_a_batch_is_mixed():
    images, labels = labelled_pictures(8, 8, 8)
    mix = make_mixing("saliencymix", num_classes=8, p=0.3)
    torch.manual_seed(0)
    mixed = sum(not torch.equal(mix(images, labels)[1], torch.eye(8)) for _ in range(200))
    assert 40 <= mixed <= 80  # 60 expected, standard deviation 6.5; a few mixed batches have empty patches only


@pytest.mark.parametrize("size", [(12, 9), (5, 5)])
def test_cutout__a_clipped_square_of_the_fill(size):
    images, labels = labelled_pictures(7, *size)
    cutout = Cutout(7, size=4, fill=(200, 201, 202))
    torch.manual_seed(0)
    cut, soft_labels = cutout(images, labels)
    torch.manual_seed(0)
    _, centres = cutout.draw(7, *size)
    assert torch.equal(soft_labels, torch.eye(7))
    for number, (row, col) in enumerate(centres.tolist()):
        expected = images[number].clone()
        top, left = max(0, row - 2), max(0, col - 2)
        expected[:, top : row + 2, left : col + 2] = torch.tensor([200, 201, 202]).view(3, 1, 1)
        assert torch.equal(cut[number], expected)


def tiny_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5))


@pytest.mark.parametrize("layer", ["", "0", "1"])
def test_manifold_mixup__blends_at_the_layer(layer):
    network, mix = tiny_network(), ManifoldMixup(5, layers=(layer,))
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    torch.manual_seed(1)
    with mix(network, labels) as soft_labels:
        found = network(images)
    torch.manual_seed(1)
    _, partners, kept = mix.draw(6)
    hidden, steps = images, list(network)
    before = {"": 0, "0": 1, "1": 2}[layer]
    for step in steps[:before]:
        hidden = step(hidden)
    hidden = hidden * kept + hidden[partners] * (1 - kept)
    for step in steps[before:]:
        hidden = step(hidden)
    torch.testing.assert_close(found, hidden)
    one_hot = nn.functional.one_hot(labels, 5).float()
    torch.testing.assert_close(soft_labels, one_hot * kept + one_hot[partners] * (1 - kept))


def test_manifold_mixup__leaves_no_hook_behind():
    network, mix = tiny_network(), ManifoldMixup(5, layers=("0",))
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    plain = network(images)
    with pytest.raises(KeyboardInterrupt), mix(network, labels):
        raise KeyboardInterrupt
    assert torch.equal(network(images), plain)
    with ManifoldMixup(5, layers=("0",), p=0.0)(network, labels) as soft_labels:
        assert torch.equal(network(images), plain)
    assert torch.equal(soft_labels, nn.functional.one_hot(labels, 5).float())


def test_manifold_mixup__names_the_unknown_layer():
    with pytest.raises(ValueError, match="the network has no layer 'layer1'; its stages are 0, 1, 2, 3"):
        ManifoldMixup(5)(tiny_network(), torch.tensor([0, 1])).__enter__()


def test_manifold_mixup__refuses_a_compiled_network():
    compiled = nn.Module()
    compiled._orig_mod = tiny_network()  # what torch.compile returns has this attribute
    with pytest.raises(ValueError, match="cannot be used on a compiled one"):
        ManifoldMixup(5)(compiled, torch.tensor([0, 1])).__enter__()


IMAGES, LABELS = torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2])
BATCH_METHODS = ("saliencymix", "resizemix", "cutout", "cutmix", "mixup")


@pytest.mark.parametrize("method", BATCH_METHODS)
@pytest.mark.parametrize("images, labels, message", [
    (IMAGES.float(), LABELS, "8-bit pictures .* got torch.float32"),
    (IMAGES[0], LABELS, "Expected a batched input with 4 dims, but got 3 dimensions instead"),
    (IMAGES[:, :1], LABELS, r"RGB pictures of shape \(B, 3, H, W\), but got shape \(3, 1, 8, 8\)"),
    (IMAGES, [0, 1, 2], "The labels must be a tensor, but got <class 'list'> instead"),
    (IMAGES, LABELS.view(3, 1, 1), r"index based with shape \(batch_size,\) .* got a tensor of shape \(3, 1, 1\)"),
    (IMAGES, LABELS[:2], "does not match the batch size of the labels: 3 != 2"),
    (IMAGES, LABELS.float(), "class numbers of an integer type, but got torch.float32"),
    (IMAGES, LABELS + 2, r"labels in 0..2, but got 2..4"),
    (IMAGES, LABELS - 1, r"labels in 0..2, but got -1..1"),
    (IMAGES, torch.zeros(3, 4), "last dimension must match num_classes: 4 != 3"),
])  # fmt: skip
def test_mixing__refuses_a_bad_batch(method, images, labels, message):
    with pytest.raises(ValueError, match=message):
        make_mixing(method, num_classes=3)(images, labels)


@pytest.mark.parametrize("method", [name for name in BATCH_METHODS if name != "cutout"])
def test_mixing__refuses_a_batch_of_one(method):
    with pytest.raises(ValueError, match="batch of at least 2 pictures to mix, but got 1 instead"):
        make_mixing(method, num_classes=3)(IMAGES[:1], LABELS[:1])


def test_mixing__needs_num_classes_for_class_numbers():
    with pytest.raises(ValueError, match="num_classes must be passed if the labels are index-based"):
        SaliencyMix()(IMAGES, LABELS)


@pytest.mark.parametrize("arguments, message", [
    ({"method": "puzzlemix"}, "unknown method 'puzzlemix'; known: baseline, cutout, .*saliencymix"),
    ({"alpha": 0.0}, "alpha must be greater than 0, but got 0.0"),
    ({"alpha": -1.0}, "alpha must be greater than 0, but got -1.0"),
    ({"alpha": float("nan")}, "alpha must be greater than 0, but got nan"),
    ({"p": 1.5}, r"p must be in 0..1, but got 1.5"),
    ({"style": "salient"}, "unknown style 'salient'; known: salient_to_corresponding, "),
    ({"scope": "pair"}, "unknown scope 'pair'; known: image, batch"),
    ({"placement": "wrap"}, "unknown placement 'wrap'; known: clip, shift"),
    ({"saliency": "sobel"}, "unknown saliency 'sobel'; known: fine_grained"),
    ({"resolution": 0}, "resolution must be at least 2 pixels, but got 0"),
    ({"colour": "red"}, "method 'saliencymix' has no option 'colour'; known: label, patch, placement, res"),
    ({"patch": "salient"}, "unknown patch 'salient'; known: uniform, resized, salient_to_corresponding, "),
    ({"label": "pixels"}, "unknown label 'pixels'; known: area, absolute, relative"),
    ({"patch": "resized", "label": "relative"}, "label 'relative' has no meaning for patch 'resized'; expected 'area'"),
    ({"method": "resizemix", "scope": "batch"}, "method 'resizemix' has no option 'scope'; known: none"),
    ({"method": "cutout", "size": 0}, "size must be at least 1 pixel, but got 0"),
    ({"method": "cutout", "fill": (1, 2)}, r"fill must be three values in 0..255, but got \(1, 2\)"),
    ({"method": "manifold_mixup", "layers": ()}, "layers must name at least one submodule"),
    ({"method": "baseline", "style": "shift"}, r"'baseline' takes no mixing options, but got \['style'\]"),
])  # fmt: skip
def test_make_mixing__refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mixing(**{"method": "saliencymix", "num_classes": 3, **arguments})
