"""Values that nobody has typed: numbers and flags from XML, JSON and columns of text, taken strictly or not at all.

The functions return the value or raise a ValueError that says what it is instead; the caller adds file and place.
Python's own conversions are too kind: ``float`` takes ``1_0`` and digits of every script, ``bool("0")`` is true, and
integers of 400 digits raise an OverflowError.
"""

from __future__ import annotations

import math
from typing import Any

MAX_NUMBER = 1e100  # what is computed from numbers up to here (areas, sums) stays finite


def number_of_text(text: str) -> float:
    """Return the decimal number that ``text`` is, blanks around it aside: ``-1.5``, ``.5``, ``2e3``.

    Raises:
        ValueError: "... is not a number": other text, nan, inf, or a number beyond MAX_NUMBER.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -MAX_NUMBER <= value <= MAX_NUMBER or "_" in text or not text.isascii():
        raise ValueError(f"is not a number: {_shown(text.strip())}")
    return value


def number_of_json(value: Any) -> float:
    """Return ``value``, an int or a float of JSON, as a float; text and true are no numbers.

    Raises:
        ValueError: "... is not a finite number": anything else, nan, inf, or a number beyond MAX_NUMBER.
    """
    if type(value) not in (int, float) or not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise ValueError(f"is not a finite number: {_shown(value)}")
    return float(value)


def whole_number(value: Any) -> int:
    """Return ``value``, a number from JSON or from one of the parsers above, as an int: 64 and 64.0 alike.

    Raises:
        ValueError: "... is not a whole number": anything else.
    """
    if type(value) not in (int, float) or not -MAX_NUMBER <= value <= MAX_NUMBER or value != int(value):
        raise ValueError(f"is not a whole number: {_shown(value)}")
    return int(value)


def flag(value: Any) -> bool:
    """Return a flag as JSON and XML have it: true, false, 1 or 0, each also as text.

    Raises:
        ValueError: "... is neither 0 nor 1": anything else.
    """
    if value in ("0", "1"):  # as nearly all files have it
        return value == "1"
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("true", "false"):
            return word == "true"
        try:
            number: Any = number_of_text(word)
        except ValueError:
            number = None
    else:
        number = value
    if type(number) not in (bool, int, float) or number not in (0, 1):
        raise ValueError(f"is neither 0 nor 1: {_shown(value)}")
    return number == 1


def _shown(value: Any) -> str:
    if type(value) is int and abs(value) > MAX_NUMBER:  # Python refuses to print the longest
        return "an integer of more than 100 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
