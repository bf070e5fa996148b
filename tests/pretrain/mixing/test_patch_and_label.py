"""Where a patch comes from and what the label says of it, each by hand, by loops, or by the authors' lines."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms import v2

from pretrain.mixing import make_mixing
from pretrain.mixing.patches import Patches, extremes, paste
from pretrain.mixing.saliencymix import Draws, SaliencyMix
from pretrain.mixing.shares import inside_and_outside, kept_by_saliency
from pretrain.names import LABELS, PATCHES, PLACEMENTS, SCOPES, STYLES
from tests.pretrain.mixing.test_mixing import labelled_pictures, mixer, noise_maps


def patches_of(source, target, height, width, *, scale=None):
    """The patches of a batch whose boxes all have one size; ``source`` and ``target`` are (top, left), one each."""
    places = torch.tensor([[*cut, *pasted] for cut, pasted in zip(source, target, strict=True)])
    size = [torch.full((len(places),), side) for side in (height, width)]
    return Patches(*places.unbind(1), *size, True, scale)


def map_of(values):
    """An 8 x 8 map: zero but for these, (row, column) -> value."""
    result = torch.zeros(8, 8)
    for place, value in values.items():
        result[place] = value
    return result


@pytest.mark.parametrize("which, values", [("salient", np.argmax), ("nonsalient", np.argmin)])
def test_extremes__the_first_in_reading_order_among_equals(which, values):
    maps = np.random.default_rng(0).integers(0, 3, (40, 5, 7)).astype(np.float32)
    expected = [np.unravel_index(values(map_), map_.shape) for map_ in maps]
    assert np.array_equal(extremes(torch.from_numpy(maps), which).numpy(), expected)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 8])  # of the width: whole rows of eight, odd ones, and eights that are no rows
def test_paste__is_a_loop_over_pictures(cut, moved):
    images = torch.randint(0, 256, (5, 3, 9, 24), dtype=torch.uint8)[..., cut:]
    before, partners = images.clone(), torch.tensor([3, 0, 2, 4, 1])
    source = torch.tensor([[0, 0], [2, 5], [4, 1], [1, 8], [3, 3]])
    target = source.flip(0) if moved else source
    size = [torch.tensor(sides) for sides in ([4, 0, 5, 2, 6], [7, 3, 8, 1, 5])]
    found = paste(images, partners, Patches(*source.unbind(1), *target.unbind(1), *size, moved))
    for number, expected in enumerate(before.clone()):
        (top, left), (row, col), height, width = (field[number] for field in (source, target, *size))
        patch = before[partners[number], :, top : top + height, left : left + width]
        expected[:, row : row + height, col : col + width] = patch
        assert torch.equal(found[number], expected)
    assert torch.equal(images, before)


def test_inside_and_outside__plain_loops_over_random_boxes():
    rng = np.random.default_rng(0)
    for height, width in [(8, 8), (5, 9), (1, 7), (6, 1), (1, 1)] * 4:
        values = rng.integers(0, 1000, (7, height, width))
        top, left = rng.integers(0, height, 7), rng.integers(0, width, 7)
        rows, cols = (rng.integers(0, length - first + 1) for first, length in ((top, height), (left, width)))
        box = [torch.from_numpy(field) for field in (top, left, rows, cols)]
        whole = [torch.full((7,), side) for side in (0, 0, height, width)]
        found = inside_and_outside(torch.from_numpy(values).double(), [box, whole])
        for number, map_ in enumerate(values.tolist()):
            sums = [0, 0]
            for row, line in enumerate(map_):
                for col, value in enumerate(line):
                    inside = 0 <= row - top[number] < rows[number] and 0 <= col - left[number] < cols[number]
                    sums[0 if inside else 1] += value
            assert [part[number].tolist() for part in found] == [[sums[0], sum(sums)], [sums[1], 0]]


def test_inside_and_outside__the_rest_is_not_what_rounding_leaves():
    torch.manual_seed(0)
    maps = torch.zeros(50, 24, 24, dtype=torch.float64)
    maps[:, 2:19, 3:22] = torch.rand(50, 17, 19, dtype=torch.float64)
    inside, outside = inside_and_outside(maps, [torch.tensor([[2], [3], [17], [19]]).expand(-1, 50)])
    assert (inside > 0).all()
    assert (outside == 0).all()


# Host, donor, where it is cut, the host's share by hand, and how many of the three pictures have the area's.
ONES, TWOS = torch.ones(8, 8), 2 * torch.ones(8, 8)
HOST, DONOR = map_of({(0, 0): 6, (7, 7): 2}), map_of({(4, 4): 3, (0, 0): 1})


@pytest.mark.parametrize("label, host, donor, cut, expected, by_area", [
    ("absolute", ONES, TWOS, (0, 0), 60 / (60 + 8), 0),                   # of 64 and 128: all but 4 pixels, 4 pixels
    ("relative", ONES, TWOS, (0, 0), (60 / 64) / (60 / 64 + 8 / 128), 0),
    ("absolute", HOST, DONOR, (4, 4), 2 / (2 + 3), 0),                    # the 6 is hidden, the 3 is seen
    ("relative", HOST, DONOR, (4, 4), (2 / 8) / (2 / 8 + 3 / 4), 0),
    ("absolute", HOST, DONOR, (2, 2), 1.0, 0),                            # nothing of the donor is seen
    ("absolute", map_of({(0, 1): 5}), DONOR, (4, 4), 0.0, 0),             # nothing of the host
    ("relative", map_of({(0, 1): 5}), DONOR, (4, 4), 0.0, 0),
    ("absolute", map_of({(0, 1): 5}), DONOR, (2, 2), 60 / 64, 1),         # nothing of either: the area
    ("relative", map_of({(0, 1): 5}), DONOR, (2, 2), 60 / 64, 1),
    ("absolute", map_of({}), DONOR, (4, 4), 0.0, 0),                      # a host without saliency: as if hidden
    ("relative", map_of({}), DONOR, (4, 4), 60 / 64, 2),                  # a part of nothing is no number
    ("relative", HOST, map_of({}), (4, 4), 60 / 64, 2),
    ("absolute", map_of({}), map_of({}), (4, 4), 60 / 64, 2),
])  # fmt: skip
def test_kept_by_saliency__by_hand(label, host, donor, cut, expected, by_area):
    """A patch of 2 x 2 from ``cut`` of the donor to the first corner of the host; beside it the reverse, from the
    host's first corner to (6, 6) of the donor, and a third picture that is its own partner."""
    maps = torch.stack([host, donor, ONES])
    partners = torch.tensor([1, 0, 2])
    patches = patches_of([cut, (0, 0), (0, 0)], [(0, 0), (6, 6), (0, 0)], 2, 2)
    kept, counted = kept_by_saliency(label, maps, partners, patches)
    assert kept.dtype == torch.float32
    assert kept[0].item() == pytest.approx(expected, abs=1e-7)
    assert counted == by_area


def test_kept_by_saliency__a_shrunk_donor_has_the_mean_of_its_map_in_every_pixel():
    maps, partners = torch.stack([ONES, TWOS]), torch.tensor([1, 0])
    patches = patches_of([(0, 0)] * 2, [(1, 2)] * 2, 4, 4, scale=0.5)
    kept, by_area = kept_by_saliency("absolute", maps, partners, patches)
    # 48 pixels of one and 16 of two; 48 of two and 16 of one
    torch.testing.assert_close(kept, torch.tensor([48 / (48 + 32), 96 / (96 + 16)]))
    assert by_area == 0


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (8, 1), (1, 1)])
@pytest.mark.parametrize("label", ["absolute", "relative"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("patch", ["uniform", *STYLES])
def test_saliencymix__the_label_is_what_the_pixels_show(patch, placement, scope, label, size):
    """Every pixel names its source, so that what is seen of a picture can be added up pixel by pixel."""
    torch.manual_seed(0)
    for count in (5, 2):
        images, labels = labelled_pictures(count, *size)
        maps = noise_maps(count, *size)
        mix = mixer(maps, patch=patch, placement=placement, scope=scope, label=label)
        state = torch.get_rng_state()
        mixed, soft_labels = mix(images, labels)
        torch.set_rng_state(state)
        draws, by_area = mix.draw(count), 0
        for host, donor in enumerate(draws.partners.tolist()):
            seen = {host: 0.0, donor: 0.0}
            for picture, row, col in mixed[host].flatten(1).T.tolist():
                seen[picture] += maps[picture, row, col].item()
            if donor == host:
                expected = {host: 1.0}
            else:
                total = {one: 1.0 if label == "absolute" else maps[one].sum().item() for one in seen}
                if min(total.values()) == 0 or max(seen.values()) == 0:
                    by_area += 1
                    share = (mixed[host, 0] == host).double().mean().item()
                else:
                    shares = {one: value / total[one] for one, value in seen.items()}
                    share = shares[host] / sum(shares.values())
                expected = {host: share, donor: 1 - share}
            weights = [expected.get(one, 0.0) for one in range(count)]
            np.testing.assert_allclose(soft_labels[host].numpy(), weights, atol=1e-6)


@pytest.mark.parametrize("patch, label", [
    (patch, label) for patch in PATCHES for label in LABELS if (patch, label) != ("resized", "relative")
])  # fmt: skip
@pytest.mark.parametrize("scope", SCOPES)
def test_saliencymix__two_pictures_of_one_class_keep_it(patch, label, scope):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8)
    mixed, soft_labels = SaliencyMix(3, patch=patch, label=label, scope=scope)(images, torch.ones(4, dtype=torch.int64))
    assert not torch.equal(mixed, images)
    torch.testing.assert_close(soft_labels, torch.tensor([[0.0, 1.0, 0.0]]).expand(4, -1))


def test_take_area_labels__counts_over_batches_and_then_anew():
    flat = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    mix = SaliencyMix(3, label="absolute")
    assert mix.take_area_labels() == 0
    for _ in range(2):
        mix(flat, torch.arange(3))
    mix(torch.randint(0, 256, flat.shape, dtype=torch.uint8), torch.arange(3))
    assert mix.take_area_labels() == 6
    assert mix.take_area_labels() == 0


@pytest.mark.parametrize("size", [(24, 33), (7, 1), (1, 1)])
def test_uniform__is_cutmix_with_its_draws(size):
    """torchvision's CutMix pairs neighbours and has one box for the batch; a centre in the middle of its pixel."""
    images, labels = labelled_pictures(5, *size)
    mix, cutmix = SaliencyMix(5, patch="uniform", scope="batch"), v2.CutMix(num_classes=5)
    for seed in range(20):
        torch.manual_seed(seed)
        expected, expected_labels = cutmix(images, labels)
        torch.manual_seed(seed)
        lam = cutmix._dist.sample(()).double().view(1)
        col, row = (torch.randint(side, (1,)) for side in reversed(size))
        centre = (torch.cat([row, col]) + 0.5) / torch.tensor(size, dtype=torch.float64)
        draws = Draws(True, torch.arange(5).roll(1), lam, centre[None])
        mixed, soft_labels = mix.mix_as(images, labels, draws)
        assert torch.equal(mixed, expected)
        torch.testing.assert_close(soft_labels, expected_labels, rtol=0, atol=1e-6)


def test_uniform__a_place_of_its_own_for_every_picture_all_over_it():
    mix = SaliencyMix(2, patch="uniform", placement="shift")
    torch.manual_seed(0)
    centres = mix.draw(20000).centres
    assert centres.shape == (20000, 2)
    assert ((centres >= 0) & (centres < 1)).all()
    torch.testing.assert_close(centres.mean(0), torch.full((2,), 0.5).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(centres.T.cov(), torch.eye(2).double() / 12, rtol=0, atol=0.002)
    assert SaliencyMix(2, patch="uniform", scope="batch").draw(9).centres.shape == (1, 2)


def authors_resizemix(images, scale, centres, partners):
    """run_apis/trainer.py and tools/utils.py of JayQine/ResizeMix, retold: one size, a place for each picture."""
    height, width = images.shape[2:]
    rows, cols = (int(side * scale) for side in (height, width))
    result = images.clone()
    if rows * cols == 0:
        return result, 1.0
    small = functional.interpolate(images, scale_factor=scale)
    for number, (row, col) in enumerate(centres):
        bottom = min(max(row - rows // 2, 0) + rows, height)
        right = min(max(col - cols // 2, 0) + cols, width)
        result[number, :, bottom - rows : bottom, right - cols : right] = small[partners[number]]
    return result, 1 - rows * cols / (height * width)


@pytest.mark.parametrize("size", [(24, 33), (32, 32), (224, 224), (7, 1), (1, 1)])
def test_resizemix__is_the_authors_procedure(size):
    images = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8)
    labels = torch.arange(4)
    mix = make_mixing("resizemix", num_classes=4)
    for seed in range(25):
        torch.manual_seed(seed)
        mixed, soft_labels = mix(images, labels)
        torch.manual_seed(seed)
        draws = mix.draw(4)
        centres = [
            [int(one * side) for one, side in zip(centre, size, strict=True)] for centre in draws.centres.tolist()
        ]
        expected, kept = authors_resizemix(images, (1 - draws.lam).sqrt().item(), centres, draws.partners)
        assert torch.equal(mixed, expected)
        by_hand = torch.eye(4) * kept + torch.eye(4)[draws.partners] * (1 - kept)
        torch.testing.assert_close(soft_labels, by_hand, rtol=0, atol=1e-6)


def test_resizemix__draws_one_size_a_batch_and_the_published_area():
    mix = make_mixing("resizemix", num_classes=4)
    torch.manual_seed(0)
    draws = [mix.draw(3) for _ in range(1000)]
    assert all(one.mix and one.lam.shape == (1,) and one.centres.shape == (3, 2) for one in draws)
    scales = torch.cat([(1 - one.lam).sqrt() for one in draws])
    assert 0.1 <= scales.min() < 0.11
    assert 0.79 < scales.max() <= 0.8
    images = torch.zeros(3, 3, 224, 224, dtype=torch.uint8)
    areas = [1 - mix.mix_as(images, torch.zeros(3).long(), one)[1] for one in draws[:1]]
    assert areas[0].shape == (3, 4)
    patches = [mix.locate(images, one) for one in draws]
    pasted = torch.cat([one.height * one.width for one in patches]) / 224**2
    assert abs(pasted.mean() - 0.243) < 0.01  # (.8**3 - .1**3) / (3 * .7) = .2433
    assert len({(one.height[0].item(), one.height[1].item()) for one in patches}) > 100
    assert all(len(set(one.height.tolist())) == 1 for one in patches)


def test_resized__scope_batch_has_one_place():
    images, labels = labelled_pictures(5, 24, 24)
    mix = SaliencyMix(5, patch="resized", scope="batch")
    torch.manual_seed(1)
    mixed, _ = mix(images, labels)
    torch.manual_seed(1)
    draws = mix.draw(5)
    assert draws.centres.shape == (1, 2)
    changed = [
        (mixed[host, 0] != host).nonzero().tolist() for host, donor in enumerate(draws.partners) if donor != host
    ]
    assert changed[0]
    assert all(one == changed[0] for one in changed)
