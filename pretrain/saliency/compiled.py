"""Functions that are compiled where that can be done."""

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


class Compiled:
    """``function`` as ``torch.compile`` makes it, at the first call; where that fails, ``function`` as it is.

    Each shape of the arguments is compiled by itself: code for any shape was half as fast. The failure is said once.
    Any error counts as one: what the compiler did not cause, ``function`` raises again.
    """

    def __init__(self, function: Callable[..., Any]):
        self.plain = function
        self.function: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self.function is self.plain:
            return self.plain(*arguments)
        try:
            if self.function is None:
                self.function = torch.compile(self.plain, fullgraph=True, dynamic=False)
            return self.function(*arguments)
        except Exception as error:
            result = self.plain(*arguments)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("%s goes on uncompiled, which is slower: %s", self.plain.__name__.strip("_"), reason)
            self.function = self.plain
            return result
