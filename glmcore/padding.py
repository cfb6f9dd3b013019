"""Rows padded to a bucket, so that data of nearby lengths share one compiled program.

Padded rows are zeros of weight 0: they add nothing to any sum, and nobody outside sees them.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from glmcore.tree import is_concrete

#: Fewest rows of a program, and bytes up to which lengths are powers of two.
_FEWEST_ROWS = 256
_SMALL_BYTES = 16 * 2**20


def bucket(n_rows: int, row_bytes: int) -> int:
    """Rows that ``n_rows`` are padded to.

    A power of two, at least 256; above 16 MB a step of an eighth of it, so that no more than
    12.5 % are added.

    Examples
    --------
    >>> from glmcore.padding import bucket
    >>> [bucket(n, row_bytes=16) for n in (90, 300, 4096)]
    [256, 512, 4096]
    >>> bucket(1_000_000, row_bytes=80)
    1048576
    """
    power = max(_FEWEST_ROWS, 1 << (n_rows - 1).bit_length())
    if power * row_bytes <= _SMALL_BYTES:
        return power
    step = max(1, power // 16)
    return -(-n_rows // step) * step


def pad_rows(X: PyTree, *columns: Any) -> tuple[Any, ...]:
    """``X`` and per-row arrays, padded with zeros to the bucket of their rows.

    Arrays that are traced, or live elsewhere than on one CPU, stay as they are.

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> X, weight = glmcore.pad_rows(np.ones((90, 4)), np.ones(90))
    >>> X.shape, int(weight.sum())
    ((256, 4), 90)
    """
    leaves = jax.tree.leaves((X, columns))
    if not is_concrete(leaves) or not all(map(_on_host, leaves)):
        return (X, *columns)
    rows = jax.tree.leaves(X)
    n_rows = rows[0].shape[0]
    target = bucket(n_rows, sum(leaf.shape[1] * leaf.dtype.itemsize for leaf in rows))
    if target == n_rows:
        return (X, *columns)

    def pad(leaf):
        padded = np.zeros((target, *leaf.shape[1:]), leaf.dtype)
        padded[:n_rows] = leaf
        return padded

    return jax.tree.map(pad, (X, *columns))


def _on_host(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return True
    devices = leaf.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"
