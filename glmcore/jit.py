"""``jax.jit`` for functions of modules that are called every millisecond."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax


class _Static(NamedTuple):
    """The structure of arguments, and their leaves, None in place of arrays."""

    structure: Any
    leaves: tuple


def quick_jit(function: Callable) -> Callable:
    """``function`` compiled once per types, shapes and what is no array in its arguments.

    As ``equinox.filter_jit``, a call of which costs more than a step on a small batch and waits
    for its end.  All leaves of the result must be arrays.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def program(static: _Static, *arrays: Any) -> Any:
        arrays = iter(arrays)
        leaves = [next(arrays) if leaf is None else leaf for leaf in static.leaves]
        return function(*jax.tree.unflatten(static.structure, leaves))

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        arrays = [leaf for leaf in leaves if eqx.is_array(leaf)]
        if len(arrays) == len(leaves):
            static = (None,) * len(leaves)
        else:
            static = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
        return program(_Static(structure, static), *arrays)

    return call
