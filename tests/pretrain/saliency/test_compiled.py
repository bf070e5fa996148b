"""The compiled form of fine-grained saliency, and what happens where nothing can be compiled."""

import logging
import shutil

import pytest
import torch

from pretrain.saliency import centre_surround, fine_grained
from pretrain.saliency.compiled import Compiled

CPU = torch.device("cpu")
SIZES = [(48, 64), (1, 9), (2, 2), (130, 60), (260, 270)]  # the last above the sums that single precision holds


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Noise, a flat picture, bright noise, and a rectangle on black."""
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    images[1::4] = 200
    images[2::4] = 224 + images[2::4] // 8
    images[3::4] = 0
    images[3::4, :, height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = 90
    return images


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("length_scale", [1.0, 0.5])
def test_functional_form__same_bits_as_the_form_in_place(size, length_scale):
    images = pictures(8, *size)
    half_widths = tuple(round(width * length_scale) for width in centre_surround.HALF_WIDTHS)
    windows = centre_surround.windows_of(*size, half_widths, CPU)
    found = centre_surround._fine_grained_functional(images, windows)
    assert torch.equal(found, fine_grained(images, length_scale=length_scale))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler for inductor")
@pytest.mark.parametrize("batches", [
    [(4, (48, 64))],
    pytest.param([(5, (48, 64)), (4, (48, 64)), (4, (260, 270))], marks=pytest.mark.slow),  # any count, then any size
])  # fmt: skip
def test_compiled_form__few_kernels_and_the_same_bits(batches):
    import torch._inductor.metrics as metrics

    torch._dynamo.reset()  # what was compiled before, for the same function, would be taken again
    form = Compiled(centre_surround._fine_grained_functional)
    for count, size in batches:
        before = metrics.generated_kernel_count
        images = pictures(count, *size)
        found = form(images, centre_surround.windows_of(*size, centre_surround.HALF_WIDTHS, CPU))
        assert form.function is not form.plain, "it was not compiled"  # without a break of the graph: fullgraph
        assert 0 < metrics.generated_kernel_count - before <= 30
        assert torch.equal(found, fine_grained(images)), size


def test_compiled__goes_on_uncompiled_and_says_so_once(monkeypatch, caplog):
    compilations = []

    def compile_nothing(function, **_options):
        compilations.append(function)
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", compile_nothing)

    def doubled(value):
        return 2 * value

    form = Compiled(doubled)
    with caplog.at_level(logging.WARNING):
        assert [form(3), form(4)] == [6, 8]
    assert compilations == [doubled]
    assert [record.getMessage() for record in caplog.records] == [
        "doubled goes on uncompiled, which is slower: no compiler"
    ]


def test_compiled__an_error_of_the_function_is_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    form = Compiled(lambda value: 1 / value)
    with pytest.raises(ZeroDivisionError):
        form(0)
    assert form(2) == 0.5
    assert form.function is not None
