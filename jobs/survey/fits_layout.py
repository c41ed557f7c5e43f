"""Where the parts of a FITS file begin and end, read from its headers without decoding anything.

astropy trusts a header's sizes: a negative one makes it read the same part for ever, and it looks
for as many table columns as are declared. So sizes are checked here first (FITS standard 4.0,
sections 3.3 and 4.4.1).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .reader import UnreadableError

BLOCK = 2880
_CARD = 80
_END = b"END".ljust(_CARD)
_SIZES = re.compile(rb"(?:BITPIX|NAXIS\d{0,3}|PCOUNT|GCOUNT|TFIELDS) *")
_BITS = {8, 16, 32, 64, -32, -64}
_MOST = 999
"""The standard's limit for the number of axes and of table columns."""


@dataclass(frozen=True, slots=True)
class Part:
    """One header and its data."""

    data_start: int
    """Offset of the data in the file, in bytes."""
    data_size: int
    """Bytes of data that the header declares, without padding."""


def fits_parts(content: bytes) -> list[Part]:
    """Return the parts of a FITS file, the last of them perhaps cut.

    Raises
    ------
    UnreadableError
        If the first header has no end, or any header declares a size that can't be.
    """
    parts: list[Part] = []
    start = 0
    while content.startswith(b"XTENSION" if parts else b"SIMPLE  ", start):
        cards = _size_cards(content, start)
        if cards is None:
            break
        data_start, sizes = cards
        parts.append(Part(data_start, _data_size(sizes)))
        start = data_start + -(-parts[-1].data_size // BLOCK) * BLOCK
    if not parts:
        raise UnreadableError("truncated_file", "ends within its header: fetch it again")
    return parts


def _size_cards(content: bytes, start: int) -> tuple[int, dict[str, int]] | None:
    """Return where the data begin and the cards about their size; None for a header without end."""
    sizes: dict[str, int] = {}
    for offset in range(start, len(content), _CARD):
        card = content[offset : offset + _CARD]
        if card == _END:
            return offset + _CARD + -(offset + _CARD) % BLOCK, sizes
        if _SIZES.fullmatch(card, 0, 8):
            name = card[:8].decode().rstrip()
            sizes[name] = _integer(name, card[10:])
    return None


def _integer(name: str, value: bytes) -> int:
    try:
        return int(value.split(b"/")[0])
    except ValueError:
        fact = f"its header's {name} is no whole number: fetch the file again"
        raise UnreadableError("corrupt_file", fact) from None


def _data_size(sizes: dict[str, int]) -> int:
    for name, value in sizes.items():
        counts = name in ("NAXIS", "TFIELDS")
        possible = (
            value in _BITS if name == "BITPIX" else 0 <= value <= (_MOST if counts else value)
        )
        if not possible:
            fact = f"its header's {name} is {value}, which can't be: fetch the file again"
            raise UnreadableError("corrupt_file", fact)
    axes = [sizes.get(f"NAXIS{axis}") for axis in range(1, sizes.get("NAXIS", 0) + 1)]
    if "NAXIS" not in sizes or "BITPIX" not in sizes or None in axes:
        fact = "its header lacks BITPIX or an axis: fetch the file again"
        raise UnreadableError("corrupt_file", fact)
    if not axes:
        return 0
    # Random groups, the one use of a first axis of length 0, hold no image for us.
    values = sizes.get("PCOUNT", 0) + math.prod(axis for axis in axes if axis is not None)
    return abs(sizes["BITPIX"]) // 8 * sizes.get("GCOUNT", 1) * values
