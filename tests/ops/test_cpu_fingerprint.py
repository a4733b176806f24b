"""The digest that decides whether packed weights are still the model's: XXH3, on every instruction set.

Expected values are the official test vectors of xxHash and what its library, 0.8.4, computed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

# By numbers of four bytes, of the generator of the official sanity checks.
OFFICIAL = {
    0: 0x2D06800538D394C2, 1: 0xE5DC74BC51848A51, 2: 0x24CCC9ACAA9F65E4, 3: 0xA713DAF0DFBB77E7,
    6: 0xA3FE70BF9D3510EB, 12: 0x397DA259ECBA1F11, 20: 0xBCDEFBBB2C47C90A, 128: 0x617E49599013CB6B,
    512: 0xDD59E2C3A5F038E0, 560: 0x6E73A90539CF2948,
}  # fmt: skip
LIBRARY = {
    5: 0x4BC18275FB46F223, 16: 0x9CB48487720EC49D, 17: 0x21730DB71A517AA6, 31: 0x6E64960D24933378,
    32: 0xFCFF24126754D861, 33: 0x3A38439A30B3C4CC, 59: 0xD551D984066EA00A, 60: 0x81C3C2B67F568CCF,
    61: 0x207BF1DB073E4932, 64: 0x55DE574AD89D0AC5, 255: 0x0FBE1CF65215FDE2, 256: 0xDD85C9B5C1109C5C,
    257: 0x9C9AD07A2A115FA7, 272: 0xCC1450EA6B52A8F4, 273: 0xCE09B91AD5477E4F, 511: 0x430EDA1712B71273,
    513: 0x77E97B48DFD9C3A4, 16383: 0xB31BEB4687438419, 16384: 0x918F7F0F912CA480, 16385: 0xBC27CF361265B04E,
    65536: 0x70BCE4D830270554,
}  # fmt: skip
# SHA-256 of the digests (8 bytes each, low first) of the first 0, 1, ..., 1100 numbers.
EVERY_LENGTH = "54337488d9437fdf70b5d0fdc4eb7cbf8a34f0a62ef4514d160b563148a1790a"
# The same generator's bytes as bfloat16, by numbers of two bytes. Of six bytes the value is official.
OF_PAIRS = {
    1: 0x7A9978044CB8A8BB, 3: 0x27B56A84CD2D7325, 5: 0x1C117F233FBC3C14, 7: 0x1AC0BBDA2B9FCF03,
    9: 0x6CFEAA845E6EBCD1, 63: 0xA1F71F67AE173EB7, 65: 0x7F6C531CF53EEB30, 119: 0x267B67B37098FF8E,
    121: 0x967344E78CB4B723, 511: 0x2086CA2AFA9691C3, 513: 0x98CE9E9675649F1B, 1025: 0x0532360C2902A5BD,
    32767: 0xCB227CD35BDAC2E1, 32769: 0x3A110A7362793B35,
}  # fmt: skip
EVERY_LENGTH_OF_PAIRS = "cf5c888b45d84a2d4914ad887f8193ef85f6c373299bae3b732748af13cccc8f"


@pytest.fixture(autouse=True)
def _built(need_impl):
    need_impl("conv_stem", "cpu")


def digest(x: Tensor) -> int:
    return torch.ops.xmae_fast.cpu_fingerprint(x) % 2**64


def official_numbers(count: int) -> Tensor:
    """The bytes of the official sanity checks, as float32."""
    state, out = 2654435761, bytearray()
    for _ in range(4 * count):
        out.append(state >> 56)
        state = state * 11400714785074694797 % 2**64
    return torch.from_numpy(np.frombuffer(bytes(out), np.float32).copy())


def test_official_vectors(kernels):
    numbers = official_numbers(max(LIBRARY))
    for count, want in (OFFICIAL | LIBRARY).items():
        assert digest(numbers[:count]) == want, count


def test_vectors_of_bfloat16(kernels):
    numbers = official_numbers(max(OF_PAIRS) // 2 + 1).view(torch.bfloat16)
    for count, want in OF_PAIRS.items():
        assert digest(numbers[:count]) == want, count
    digests = b"".join(digest(numbers[:count]).to_bytes(8, "little") for count in range(1101))
    assert hashlib.sha256(digests).hexdigest() == EVERY_LENGTH_OF_PAIRS
    for first in (1, 3, 7):
        for count in (1, 2, 3, 8, 60, 121, 1100):
            there = numbers[first : first + count]
            assert digest(there) == digest(there.clone()), (first, count)


def test_every_length_wherever_it_lies(kernels):
    numbers = official_numbers(1100)
    digests = b"".join(digest(numbers[:count]).to_bytes(8, "little") for count in range(1101))
    assert hashlib.sha256(digests).hexdigest() == EVERY_LENGTH
    for offset in range(1, 16):  # floats: seven of eight are at no address that a vector load would like
        room = torch.full((offset + 1100 + 16,), float("nan"))
        for count in (1, 4, 30, 60, 61, 256, 273, 1100):
            room[offset : offset + count] = numbers[:count]
            assert digest(room[offset : offset + count]) == digest(numbers[:count])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(RuntimeError, match="expected weights in float32 or bfloat16, got another dtype"):
        torch.ops.xmae_fast.cpu_fingerprint(torch.zeros(3, dtype=dtype))


SIGN = np.uint32(1 << 31)
BASES = {
    "weights": lambda n: (np.random.default_rng(0).standard_normal(n) * 0.05).astype(np.float32),
    "small whole numbers": lambda n: np.random.default_rng(1).integers(-3, 4, n).astype(np.float32),
    "ones": lambda n: np.ones(n, np.float32),
    "zeros": lambda n: np.zeros(n, np.float32),
    "equal rows": lambda n: np.resize((np.random.default_rng(2).standard_normal(16) * 0.05).astype(np.float32), n),
}


def signs(bits: np.ndarray) -> Iterator[np.ndarray]:
    """Signs flipped: of all numbers, every second one, one row, one column, every pair at every distance."""
    n = bits.size
    yield bits ^ SIGN
    for step in (2, 4, 8, 16, 32, 64):
        for first in range(step):
            changed = bits.copy()
            changed[first::step] ^= SIGN
            yield changed
    for width in (4, 8, 16, 32, 64, 128):
        for row in range(0, n - width + 1, width):
            changed = bits.copy()
            changed[row : row + width] ^= SIGN
            yield changed
    for i in range(n):
        changed = bits.copy()
        changed[i] ^= SIGN
        yield changed
    for distance in range(1, min(n, 257)):
        for first in range(0, n - distance, max(1, n // 24)):
            changed = bits.copy()
            changed[[first, first + distance]] ^= SIGN
            yield changed


def every_bit(bits: np.ndarray) -> Iterator[np.ndarray]:
    for i in range(min(bits.size, 320)):
        for bit in range(32):
            changed = bits.copy()
            changed[i] ^= np.uint32(1 << bit)
            yield changed


def same_bit_twice(bits: np.ndarray) -> Iterator[np.ndarray]:
    for distance in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        for bit in range(32):
            for first in range(0, bits.size - distance, max(1, bits.size // 12)):
                changed = bits.copy()
                changed[[first, first + distance]] ^= np.uint32(1 << bit)
                yield changed


def moved(bits: np.ndarray) -> Iterator[np.ndarray]:
    """Swaps of values and of rows, rotations, rows in another order, a transposed matrix."""
    n = bits.size
    for width in (1, 2, 16, 64):
        rows = bits[: n // width * width].reshape(-1, width)
        for distance in range(1, min(len(rows), 257)):
            for first in range(0, len(rows) - distance, max(1, len(rows) // 8)):
                changed = bits.copy()
                into = changed[: rows.size].reshape(-1, width)
                into[[first, first + distance]] = rows[[first + distance, first]]
                yield changed
        for order in (np.arange(len(rows))[::-1], np.random.default_rng(3).permutation(len(rows))):
            yield np.concatenate([rows[order].ravel(), bits[rows.size :]])
        if width > 1:
            yield np.concatenate([rows.T.ravel(), bits[rows.size :]])
    for shift in range(1, min(n, 300)):
        yield np.roll(bits, shift)


def cancelling(bits: np.ndarray) -> Iterator[np.ndarray]:
    """Something is added to one number and taken from another: to the value, to its bits, to 64-bit words."""
    n = bits.size
    for distance in (1, 2, 3, 4, 8, 15, 16, 17, 32, 64, 128, 256):
        for first in range(0, n - distance, max(1, n // 16)):
            for d in (np.float32(0.5), np.float32(1.0), np.float32(2.0**-20)):
                changed = bits.copy()
                values = changed.view(np.float32)
                values[first] += d
                values[first + distance] -= d
                yield changed
            for d in (1, 1 << 8, 1 << 23, (1 << 31) - 1):
                changed = bits.copy()
                changed[first] += np.uint32(d)
                changed[first + distance] -= np.uint32(d)
                yield changed
            if first % 2 == 0 and distance % 2 == 0 and first + distance + 1 < n:
                changed = bits.copy()
                changed[[first, first + 1]] += np.uint32(1)
                changed[[first + distance, first + distance + 1]] -= np.uint32(1)
                yield changed


def not_a_number(bits: np.ndarray) -> Iterator[np.ndarray]:
    for payload in (0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001, 0x7F800000, 0xFF800000):
        for i in range(0, bits.size, max(1, bits.size // 50)):
            changed = bits.copy()
            changed[i] = np.uint32(payload)
            yield changed


FAMILIES = (signs, every_bit, same_bit_twice, moved, cancelling, not_a_number)


def test_every_value_of_one_or_two_bfloat16(kernels):
    """The digests of few bytes mix them without loss, so that no two values of them have one digest."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    one = {digest(x) for x in every.view(torch.bfloat16).view(-1, 1)}
    two = {digest(x) for x in torch.stack([every, every.roll(1)], dim=1)[::3].contiguous().view(torch.bfloat16)}
    assert len(one) == 2**16
    assert len(one | two) == 2**16 + len(every[::3])


@functools.cache
def contents(base: str, count: int) -> np.ndarray:
    """uint32 [contents, count]: the numbers, and everything that the families make of them, each once."""
    bits = BASES[base](count).view(np.uint32)
    with np.errstate(invalid="ignore", over="ignore"):
        found = {bits.tobytes()} | {changed.tobytes() for family in FAMILIES for changed in family(bits)}
    return np.frombuffer(b"".join(found), np.uint32).reshape(-1, count)


@pytest.mark.parametrize("count", [4, 32, 60, 704], ids=["tiny", "small", "medium", "large"])
@pytest.mark.parametrize("base", BASES)
def test_whatever_differs_has_another_digest(base, count):
    """All families together: as many digests as there are different contents, not just others than the first one."""
    different = contents(base, count)
    digests = {digest(row) for row in torch.from_numpy(different.copy()).view(torch.float32)}
    assert len(digests) == len(different) > 20 * count


@pytest.mark.parametrize("base", ["weights", "ones"])
@pytest.mark.parametrize("name", ["multiplied", "added", "xored"])
def test_weaker_digests_are_told(name, base):
    """Lanes of (state ^ word) * odd, which the kernels once had: a flipped top bit stays one, and two cancel."""
    words = contents(base, 704).reshape(-1, 11, 64)
    if name == "multiplied":
        state = np.zeros((len(words), 64), np.uint32)
        for i in range(words.shape[1]):
            state = (state ^ words[:, i]) * np.uint32(0x85EBCA6B)
    else:
        state = {"added": np.add, "xored": np.bitwise_xor}[name].reduce(words, axis=1)
    assert len(np.unique(state, axis=0)) < len(words)


def test_no_word_hides_behind_a_product_of_zero():
    """Half a word equal to the secret makes its product zero; the other half is seen through its neighbour's sum."""
    secret = bytes.fromhex("b8fe6c3923a44bbe")  # of the first word of the first stripe
    digests = set()
    for half in (0, 1):
        for value in range(2000):
            bits = np.zeros(128, np.uint32)
            bits[:2] = np.frombuffer(secret, np.uint32)
            bits[half] = value * 2654435761 % 2**32
            digests.add(digest(torch.from_numpy(bits.view(np.float32))))
    assert len(digests) == 4000
