"""The numbers of what SpQR stores of a matrix. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

BITS = 3  # of a weight, and of a group's scale and zero
GROUP = 16  # weights of a row that share scale and zero; rows whose scales share statistics

PER_MILLE: Mapping[float, int] = {
    3.945: 10,
    3.913: 9,
    3.881: 8,
    3.849: 7,
    3.817: 6,
    3.785: 5,
    3.753: 4,
    3.721: 3,
    3.689: 2,
    3.657: 1,
}
"""Level -> outliers in a thousand weights. The level is the average bits as SpQR counts them:
3 + (3 + 3) / 16 + 64 / (16 * 16) + 32 * share, an outlier being a value and a column of 16 bits."""


def share(level: float) -> str:
    """Returns the share of outliers in words: '0.5 %'."""
    return f"{PER_MILLE[level] / 10:g} %"


def outlier_count(numel: int, level: float) -> int:
    """Returns how many outliers a matrix of so many weights has, rounded to the nearest."""
    return (numel * PER_MILLE[level] + 500) // 1000


def three_bit_bytes(values: int) -> int:
    """Returns the bytes of values of 3 bits. Eight take three bytes, and the last eight are filled
    up."""
    return -(-values // 8) * 3


def column_bytes(columns: int) -> int:
    """Returns the bytes of an outlier's column, in a matrix of so many columns."""
    return 2 if columns <= 2**16 else 4
