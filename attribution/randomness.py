"""Random numbers as a pure function of what they are for, never of a stream.

A draw depends on (seed, object, method, sample, layer, element) alone, so it is the same in every
process, on every device and in every order of execution.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def key(*parts: int | str) -> int:
    """Hash the parts, in order, to 64 bits (BLAKE2b).

    numpy's integers and strings count as the plain ones of the same value.
    """
    # Kind and length of each part: no two lists of parts make the same text.
    plain = [str(part) if isinstance(part, str) else operator.index(part) for part in parts]
    text = "".join(f"{type(part).__name__}{len(str(part))}:{part}" for part in plain)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def random_words(keys: Sequence[int], count: int, device: torch.device) -> Tensor:
    """Draw 32-bit words, ``count`` of them for each key.

    Each word is two rounds of a bijective 32-bit mixer (the "lowbias32" constants of Wellons, 2018)
    over the element's number, keyed with the two halves of the 64-bit key.

    Parameters
    ----------
    keys : one 64-bit key per row
    count : words per row, at most 2**32
    device : where the result lives; the values do not depend on it

    Returns
    -------
    int64 tensor (rows, count) with values in [0, 2**32)
    """
    low = torch.tensor([[k & _WORD] for k in keys], dtype=torch.int64, device=device)
    high = torch.tensor([[k >> 32] for k in keys], dtype=torch.int64, device=device)
    element = torch.arange(count, dtype=torch.int64, device=device)
    return _mix(_mix(element ^ low) ^ high)


def random_normal(keys: Sequence[int], count: int, device: torch.device) -> Tensor:
    """Draw standard normal numbers, ``count`` of them for each key (Box & Muller 1958).

    Returns
    -------
    float64 tensor (rows, count)
    """
    pairs = -(-count // 2)
    uniform = (random_words(keys, 2 * pairs, device).double() + 0.5) / 2**32
    radius = torch.sqrt(-2 * torch.log(uniform[:, :pairs]))
    angle = 2 * torch.pi * uniform[:, pairs:]
    return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1)[:, :count]


def _mix(word: Tensor) -> Tensor:
    # int64 products wrap; their low 32 bits are right, which is all that is kept.
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & _WORD
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & _WORD
    return word ^ (word >> 16)
