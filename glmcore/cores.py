"""The cores of a CPU, kept busy by as many programs, each in a thread of its own.

XLA takes the small products of a batch one after the other, and waits between its loops: one
program of many lanes leaves most cores idle most of the time.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from glmcore.jit import inside_program, quick_jit
from glmcore.padding import on_host
from glmcore.tree import as_count, is_at_hand

_MOST_CORES = 8


def n_cores() -> int:
    """Cores that this process may use, at most eight."""
    if hasattr(os, "sched_getaffinity"):  # on Linux only
        return min(_MOST_CORES, len(os.sched_getaffinity(0)))
    return min(_MOST_CORES, os.cpu_count() or 1)


def on_cores(program: Callable, in_axes: PyTree = 0, out_axes: PyTree = 0, most: int = _MOST_CORES) -> Callable:
    """``program``, whose lanes are shared out among the cores of a CPU.

    On another device, with data on several of them and inside of JAX's transformations it is just
    ``program``.

    Parameters
    ----------
    program : callable
        A function by :func:`quick_jit` that works on each lane for itself, whatever their number:
        a ``jax.vmap``, say.
    in_axes, out_axes : int, None or pytree of these, default 0
        Where the lanes are in its arguments and results, as in ``jax.vmap``.
    most : int, default 8
        The parts into which lanes are cut at most, one a core.  A part costs about a millisecond.

    Returns
    -------
    callable

    Raises
    ------
    TypeError
        If ``program`` is not by :func:`quick_jit`.
    ValueError
        When it is called, if arguments differ in their number of lanes or lack an axis of them.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> axes = None, 0
    >>> products = glmcore.quick_jit(jax.vmap(jnp.matmul, axes))
    >>> glmcore.on_cores(products, axes)(jnp.ones((5, 2)), jnp.ones((7, 2, 3))).shape
    (7, 5, 3)
    """
    if not hasattr(program, "prepared"):
        raise TypeError(f"program must be a function by quick_jit, found {program!r}")
    most = as_count(most, "most")
    in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes

    @functools.wraps(program)
    def shared_out(*args: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(args, is_leaf=_is_none)
        axes = _axes("in_axes", in_axes, args)
        sizes = {leaf.shape[axis] for leaf, axis in zip(leaves, axes) if axis is not None}
        if len(sizes) != 1:
            raise ValueError(f"arguments must have as many lanes along in_axes, found {sorted(sizes)}")
        (n_lanes,) = sizes
        length = -(-n_lanes // min(n_cores(), most))
        if length == n_lanes or inside_program() or not _on_one_cpu(args):
            return program(*args)
        n_parts = -(-n_lanes // length)
        leaves = [_put(leaf) if axis is None else leaf for leaf, axis in zip(leaves, axes)]

        def part(start: int) -> PyTree:
            def cut(leaf, axis):
                return leaf if axis is None else _cut(leaf, axis, start, start + length)

            return jax.tree.unflatten(structure, map(cut, leaves, axes))

        parts = [part(min(i * length, n_lanes - length)) for i in range(n_parts)]
        prepared = program.prepared(*parts[0])
        with ThreadPoolExecutor(n_parts) as pool:
            found = tuple(pool.map(_finished, [prepared(*part) for part in parts]))
        return _joined(found, tuple(_axes("out_axes", out_axes, found[0])), n_parts * length - n_lanes)

    return shared_out


def _axes(name: str, axes: PyTree, tree: PyTree) -> list:
    """The axis of each leaf, counted from the first, those that are None among them."""
    axes = jax.tree.leaves(jax.tree.broadcast(axes, tree, is_leaf=_is_none), is_leaf=_is_none)

    def counted(leaf: Any, axis: int | None) -> int | None:
        if leaf is None or axis is None:
            return None
        n_axes = np.ndim(leaf)
        if not -n_axes <= axis < n_axes:
            raise ValueError(f"{name} must be axes of arrays, found {axis} for one of shape {np.shape(leaf)}")
        return axis % n_axes

    return list(map(counted, jax.tree.leaves(tree, is_leaf=_is_none), axes))


def _put(leaf: Any) -> Any:
    """A NumPy array on the device, in place where it can be: once, and not once a part."""
    return jax.device_put(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.isnative else leaf


def _cut(leaf: Any, axis: int, start: int, end: int) -> Any:
    if isinstance(leaf, jax.Array) and (jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or leaf.weak_type):
        return jax.lax.slice_in_dim(leaf, start, end, axis=axis)  # NumPy does not know of these
    # A view, where JAX's own slices are copies and compiled for each start.
    return np.asarray(leaf)[(slice(None),) * axis + (slice(start, end),)]


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _on_one_cpu(args: tuple) -> bool:
    arrays = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, (jax.Array, np.ndarray))]
    one = jax.default_backend() == "cpu" and jax.device_count() == 1
    return one and is_at_hand(arrays) and all(map(on_host, arrays))


def _finished(program: Callable[[], PyTree]) -> PyTree:
    return jax.block_until_ready(program())


@quick_jit
def _joined(parts: tuple, axes: tuple, overlap: int) -> PyTree:
    """All lanes, of which the last part repeats some that the one before it has."""

    def join(axis: int | None, *pieces: Any) -> Any:
        if axis is None:
            return pieces[0]
        new = jax.lax.slice_in_dim(pieces[-1], overlap, None, axis=axis)
        return jnp.concatenate([*pieces[:-1], new], axis)

    leaves, structures = zip(*(jax.tree.flatten(part, is_leaf=_is_none) for part in parts))
    return jax.tree.unflatten(structures[0], map(join, axes, *leaves))
