"""Checkpoint -> detector -> number: conversion, two engines, VOC evaluation and report."""

from typing import Any

__all__ = ["load_detector"]


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import; `--help` of a tool must not wait for it.
    if name in __all__:
        from detection.detector import load_detector

        return load_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
