"""Find the ResNet in what a weights file holds.

A file may hold several networks (MoCo's query and key encoder, a network and its moving average), each under a prefix.
Prefixes are found by matching whole sets of keys, never by stripping strings. Where several match, the rules of
`layouts` decide and say so; without a rule it is the user's choice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pretrain.weights.layouts import (
    LIGHTLYS_ANCHOR,
    NUMBERED_ANCHOR,
    Program,
    by_name,
    dropping_rule,
    left_for,
    program_of,
)
from pretrain.weights.namings import CIFAR_STEM, convert_state_dict, count_dropped, revert_state_dict

if TYPE_CHECKING:
    from torch import Tensor

# A dict of this name holds the moving average of the weights: ours, torchvision's reference script, timm.
EMA_NAMES = ("ema", "model_ema", "state_dict_ema")

MAX_METADATA = 16  # numbers in a tensor that stands for a plain value
MAX_DEPTH, MAX_DICTS = 32, 10_000  # of the dicts in a file; real ones have some hundreds, five deep

# What a card is made of, at the top of a file: ours; the authors' releases (best_err*); PyTorch's ImageNet example.
METADATA = (
    "arch",
    "method",
    "config",
    "top1",
    "top5",
    "pixel_mean",
    "pixel_std",
    "card",
    "best_err1",
    "best_err5",
    "best_acc1",
)


class Naming(NamedTuple):
    """One of the two namings of a ResNet's tensors."""

    title: str
    convert: Callable[[Mapping[str, Any]], dict[str, Any]]  # into the other naming; an error for all but a whole ResNet
    anchor: str  # a key that every network has; what stands before it is its prefix
    inner: re.Pattern[str]  # what may follow the prefix


TORCHVISION = Naming("torchvision", convert_state_dict, "layer1.0.conv1.weight", re.compile(r".+"))
DETECTRON2 = Naming("Detectron2", revert_state_dict, "res2.0.conv1.weight", re.compile(r"(stem|res[2-5])\..+"))
# In a C4 detector the last stage is part of the heads.
C4_BACKBONE, C4_RES5 = "backbone.", "roi_heads."


@dataclass(frozen=True)
class Network:
    """A ResNet found in a file.

    Attributes:
        state: key without prefix -> the file's own tensor, classifier and counters included.
        prefix: where it lay: names of nested dicts and the prefix of its keys, such as ``state_dict.module.``.
        ema: whether these are averaged weights.
        beside: rule -> number of keys beside the network that the rule drops.
        notes: sentences for the user, one for each rule that decided something.
        program: whose file it is, where its keys show a program that normalises pictures in its own way.
        metadata: those of `METADATA` that stand at the top of the file, 0-d tensors as numbers.
    """

    state: dict[str, Any]
    prefix: str
    ema: bool
    beside: dict[str, int]
    notes: tuple[str, ...]
    program: Program | None
    metadata: dict[str, Any]


def find_network(
    content: Any, naming: Naming = TORCHVISION, *, prefix: str | None = None, ema: bool = False
) -> Network:
    """Return the one ResNet that ``content``, a file's content as `read_weights` gives it, holds.

    Args:
        naming: whose names its keys have.
        prefix: take the network under this prefix, given with or without the names of the nested dicts, and drop what
            lies beside it. Without it the rules of `layouts` decide.
        ema: take averaged weights instead of the trained ones.

    Raises:
        ValueError: no whole ResNet (the nearest one's fault is named), several without a rule, or a key beside the
            network that no rule drops.
    """
    holders = list(_tensor_dicts(content))
    candidates = [match for place, holder in holders for match in _matches(place, holder, naming)]
    eligible = candidates
    if prefix is not None:
        eligible = [match for match in candidates if prefix in (match.full_prefix, match.prefix)]
        if not eligible:
            raise ValueError(f"no {naming.title} ResNet under the prefix {prefix!r}; {_offer(candidates)}")
    whole = [match for match in eligible if match.fault is None]
    if not whole:
        raise ValueError(_nearest_fault(eligible, holders, naming))
    if prefix is not None and len(exact := [match for match in whole if match.full_prefix == prefix]) == 1:
        match, notes = exact[0], [f"took {exact[0].title}, as --prefix says"]
    else:
        match, notes = _choose(whole, ema=ema)
    others = [other for other in candidates if other.fault is None and other is not match]
    beside = _count_beside(match, others, explicit=prefix is not None)
    if match.numbered:
        notes.append("its children have numbers for names, as nn.Sequential(*resnet.children()) gives them")
    program = program_of(count_dropped(match.keys))
    if program is not None:
        notes.append(f"its heads are those of {program.title}")
    return Network(match.state(), match.full_prefix, match.ema, beside, tuple(notes), program, _metadata(content))


def as_float32(state: Mapping[str, Any], notes: list[str]) -> dict[str, Tensor]:
    """Return copies of tensors or NumPy arrays as float32, each with memory of its own and strides as newly allocated.

    So the layout in which a network was trained does not decide how it computes afterwards: a 1x1 weight from training
    with channels last passes for contiguous, so that ``Tensor.contiguous`` keeps it, yet its strides send ``conv2d`` to
    the kernels for channels last, which round in another way on some processors.

    ``notes`` gets a sentence where they were of another type.

    Raises:
        ValueError: a value is no dense floating-point tensor, or has no values.
    """
    import numpy as np
    import torch

    tensors, types = {}, set()
    for key, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.layout != torch.strided:
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"{key!r} holds {kind} values; expected a dense floating-point tensor")
        if value.is_meta:
            raise ValueError(f"{key!r} has no values (it lies on the meta device)")
        types.add(value.dtype)
        tensors[key] = value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if types - {torch.float32}:
        notes.append(f"{', '.join(sorted(map(str, types - {torch.float32})))} converted to torch.float32")
    return tensors


@dataclass
class _Match:
    """Keys of one dict that share a prefix, and what keeps them from being a whole ResNet, if anything."""

    place: str  # names of the nested dicts around it, each followed by a dot
    prefix: str
    keys: dict[str, str]  # key without prefix -> key in the holder
    holder: Mapping[str, Any]
    numbered: bool = False  # whether the children of the network have numbers for names
    fault: str | None = None

    @property
    def full_prefix(self) -> str:
        return self.place + self.prefix

    @property
    def title(self) -> str:
        return repr(self.full_prefix) if self.full_prefix else "the keys without prefix"

    @property
    def ema(self) -> bool:
        return any(name in EMA_NAMES for name in self.place.split("."))

    def state(self) -> dict[str, Any]:
        return {name: self.holder[key] for name, key in self.keys.items()}


def _tensor_dicts(content: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (names of the nested dicts, dict) for each dict that has text keys and tensors, the outer one first."""
    waiting = [("", content, 1)]
    num_seen = 0
    while waiting:
        place, holder, depth = waiting.pop()
        if not isinstance(holder, dict) or not all(isinstance(key, str) for key in holder):
            continue
        num_seen += 1
        if depth > MAX_DEPTH or num_seen > MAX_DICTS:  # dicts may hold each other in a circle, or many times over
            limit = f"dicts more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else f"more than {MAX_DICTS} dicts"
            raise ValueError(f"no file of weights: it holds {limit}")
        if any(hasattr(value, "shape") for value in holder.values()):
            yield place, holder
        waiting += [(f"{place}{name}.", value, depth + 1) for name, value in reversed(holder.items())]


def _prefixes(holder: Mapping[str, Any], anchor: str) -> list[str]:
    """Return what stands before ``anchor`` in the keys that end in it, whole names with their dots."""
    ends = f".{anchor}"
    return [key.removesuffix(anchor) for key in holder if key == anchor or key.endswith(ends)]


def _matches(place: str, holder: Mapping[str, Any], naming: Naming) -> Iterator[_Match]:
    for match in _named(place, holder, naming):
        match.fault = _fault(match, naming)
        yield match


def _named(place: str, holder: Mapping[str, Any], naming: Naming) -> Iterator[_Match]:
    for prefix in _prefixes(holder, naming.anchor):
        keys = {
            key[len(prefix) :]: key
            for key in holder
            if key.startswith(prefix) and naming.inner.fullmatch(key, len(prefix))
        }
        if naming is DETECTRON2 and prefix.endswith(C4_BACKBONE) and not any(key.startswith("res5.") for key in keys):
            heads = prefix[: -len(C4_BACKBONE)] + C4_RES5
            keys |= {key[len(heads) :]: key for key in holder if re.match(re.escape(heads) + r"res5\.[0-9]", key)}
        yield _Match(place, prefix, keys, holder)
    for prefix in _prefixes(holder, NUMBERED_ANCHOR) if naming is TORCHVISION else ():
        yield _Match(place, prefix, by_name(holder.keys(), prefix), holder, numbered=True)


def _fault(match: _Match, naming: Naming) -> str | None:
    for key in match.keys.values():
        if not hasattr(match.holder[key], "shape"):
            return f"{key!r} holds a {type(match.holder[key]).__name__}, not a tensor"
    try:
        naming.convert(match.state())
    except ValueError as error:
        return str(error)
    return None


def _nearest_fault(candidates: list[_Match], holders: list[tuple[str, Mapping[str, Any]]], naming: Naming) -> str:
    for place, holder in holders:
        for key, value in holder.items():
            if _is_stem(key, holder) and tuple(getattr(value, "shape", ()))[1:] == (3, 3, 3):
                return f"{place}{key} has shape {tuple(value.shape)}: {CIFAR_STEM}"
    if candidates:
        nearest = max(candidates, key=lambda match: len(match.keys))
        return f"{nearest.title}: {nearest.fault}"
    other = DETECTRON2 if naming is TORCHVISION else TORCHVISION
    if any(match.fault is None for place, holder in holders for match in _matches(place, holder, other)):
        return f"the network has {other.title}'s names already" + (
            "; --reverse turns it back" if other is DETECTRON2 else "; convert it without --reverse"
        )
    num_keys = sum(len(holder) for _, holder in holders)
    some = ", ".join(list(holders[0][1])[:3]) if holders else ""
    return (
        f"no ResNet in {naming.title}'s names: none of {num_keys} keys{f' ({some}, ...)' if some else ''} "
        f"ends in {naming.anchor}"
    )


def _is_stem(key: str, holder: Mapping[str, Any]) -> bool:
    """Return whether ``key`` is the first convolution of a network, and not of several that a stem consists of."""
    if key.endswith("conv1.weight"):
        return key.replace("conv1", "conv2") not in holder
    return key.endswith("0.weight") and f"{key.removesuffix('0.weight')}{LIGHTLYS_ANCHOR}" in holder


def _choose(whole: list[_Match], *, ema: bool) -> tuple[_Match, list[str]]:
    notes = []
    pool = [match for match in whole if match.ema == ema]
    if not pool:
        raise ValueError(
            f"--ema asks for averaged weights (a dict named {', '.join(EMA_NAMES)}); {_offer(whole)}"
            if ema
            else f"only averaged weights found ({_offer(whole)}); take them with --ema"
        )
    if len(pool) < len(whole):
        notes.append(
            "averaged weights taken, as --ema says"
            if ema
            else "trained weights taken; the file also holds averaged ones, which --ema takes"
        )
    left = {place: why for match in pool for place, why in left_for(match.full_prefix).items()}
    notes += dict.fromkeys(left[match.full_prefix] for match in pool if match.full_prefix in left)
    pool = [match for match in pool if match.full_prefix not in left]
    if len(pool) > 1 and all(_same_tensors(pool[0], other) for other in pool[1:]):
        notes.append(f"{_offer(pool)}, which hold the same tensors")
        pool = pool[:1]
    if len(pool) > 1:
        raise ValueError(f"several whole networks and no rule to choose by; {_offer(pool)}; name one with --prefix")
    if pool[0].full_prefix:
        notes.append(f"the network lies under {pool[0].full_prefix!r}")
    return pool[0], notes


def _offer(matches: list[_Match]) -> str:
    return "found " + (", ".join(match.title for match in matches) if matches else "no network at all")


def _same_tensors(match: _Match, other: _Match) -> bool:
    mine, theirs = match.state(), other.state()
    return mine.keys() == theirs.keys() and all(_is_equal(mine[key], theirs[key]) for key in mine)


def _is_equal(value: Any, other: Any) -> bool:
    import numpy as np
    import torch

    if all(isinstance(one, torch.Tensor) and one.layout == torch.strided and not one.is_meta for one in (value, other)):
        return value.dtype == other.dtype and torch.equal(value, other)
    return all(isinstance(one, np.ndarray) for one in (value, other)) and np.array_equal(value, other)


def _count_beside(match: _Match, others: list[_Match], *, explicit: bool) -> dict[str, int]:
    """Count the keys of the holder that are not the network's, by the rule that drops each; an error without a rule."""
    owner = {key: f"{other.prefix}*" for other in others if other.holder is match.holder for key in other.keys.values()}
    counts: Counter[str] = Counter()
    for key in match.holder.keys() - set(match.keys.values()):
        rule = "outside --prefix" if explicit else owner.get(key) or dropping_rule(key)
        if rule is None:
            raise ValueError(
                f"no rule for the key {key!r} beside the network under {match.full_prefix!r}; "
                f"to drop all keys beside it say --prefix {match.full_prefix or repr('')}"
            )
        counts[rule] += 1
    return dict(sorted(counts.items()))


def _metadata(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    return {key: _plain(key, content[key]) for key in METADATA if key in content}


def _plain(key: str, value: Any) -> Any:
    """Return a tensor or array of one number as this number, of some as their list; other values as they are."""
    if not hasattr(value, "shape"):
        return value
    try:
        values = value.reshape(-1)[: MAX_METADATA + 1].tolist()
    except (RuntimeError, TypeError, ValueError):  # a tensor without values, say
        values = []
    if not 0 < len(values) <= MAX_METADATA:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise ValueError(f"{key} in the file is a {kind} of shape {tuple(value.shape)}; expected a plain value")
    return values[0] if len(values) == 1 else values
