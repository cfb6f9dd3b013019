"""``jax.jit`` for functions of modules that are called every millisecond."""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import jax
import numpy as np

#: Options by backend, of which the first that the compiler knows are taken.  What nearly halves the
#: time to compile on a CPU, at no measurable loss of speed: another way to write loops, and fewer
#: passes over them.  Since jaxlib 0.11 there is one way to write them, and a fifth is saved.  On a
#: GPU products by the vendor's library are a tenth slower than by the fastest of the kernels that
#: are else tried for each, and that takes two thirds of the time.
_HASTY = {
    "cpu": (
        {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1},
        {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 1},
    ),
    "gpu": ({"xla_gpu_enable_triton_gemm": False},),
}


class _Static(NamedTuple):
    """The structure of arguments, and their leaves, None in place of arrays; and what tells apart
    leaves that are equal: 1, 1.0 and True, 0.0 and -0.0."""

    structure: Any
    leaves: tuple
    kinds: tuple


def full_precision(function: Callable) -> Callable:
    """``function``, traced with products of float32 numbers as exact as these are, and in JAX's
    standard promotion of dtypes, for only one's own code is to be as strict as one likes.

    Unless told otherwise JAX rounds their factors to ten bits on a GPU and to eight on a TPU,
    and no fit gets far with such gradients.  A user's ``jax_default_matmul_precision`` counts
    more.
    """

    @functools.wraps(function)
    def traced(*args: Any, **named: Any) -> Any:
        precision = jax.config.jax_default_matmul_precision
        if precision is None and jax.default_backend() != "cpu":
            precision = "highest"
        with jax.default_matmul_precision(precision), jax.numpy_dtype_promotion("standard"):
            return function(*args, **named)

    return traced


def quick_jit(function: Callable) -> Callable:
    """``function`` compiled once per types, shapes and what is no array in its arguments.

    As ``equinox.filter_jit``, a call of which costs more than a step on a small batch and waits
    for its end.  Programs are compiled in about half the time, on a GPU in a third of it, unless
    they are part of another program; products of float32 numbers are nowhere rounded further,
    unless ``jax_default_matmul_precision`` is set.

    Parameters
    ----------
    function : callable
        A function of pytrees, modules among them; all leaves of its result must be arrays.

    Returns
    -------
    callable
        With a function ``prepared`` beside it: given arguments, it compiles for such ones, and what it
        returns makes of them what a thread may carry out.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> log_proba = glmcore.quick_jit(lambda model, params, X: model.log_proba(params, X))
    >>> params = glmcore.GLMParams(jnp.zeros((1, 2)), jnp.zeros(2))
    >>> log_proba(glmcore.GLM(glmcore.Categorical(2)), params, jnp.ones((1, 1))).round(4)
    Array([[-0.6931, -0.6931]], dtype=float32)
    """

    @full_precision
    def flat(static: _Static, *arrays: Any) -> Any:
        arrays = iter(arrays)
        leaves = [next(arrays) if leaf is None else leaf for leaf in static.leaves]
        return function(*jax.tree.unflatten(static.structure, leaves))

    functools.update_wrapper(flat, function)
    program = jax.jit(flat, static_argnums=0)

    @functools.lru_cache(maxsize=1)
    def hasty() -> Callable:
        return jax.jit(flat, static_argnums=0, compiler_options=hasty_options())

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if named:
            args = inspect.signature(function).bind(*args, **named).args
        static, arrays, is_traced = _flattened(args)
        if is_traced and inside_program():
            return program(static, *arrays)
        try:
            return hasty()(static, *arrays)
        except ValueError as error:  # options are refused under a gradient
            if "compiler_options" not in str(error):
                raise
            return program(static, *arrays)

    def prepared(*like: Any) -> Callable[..., Callable[[], Any]]:
        """Compiled for arguments like these: called with such arguments it gives what a thread may
        carry out.

        A thread has settings of JAX of its own, such as whether there is float64: what is traced
        and put on the device here follows those of the caller.
        """
        static, arrays, _ = _flattened(like)
        compiled = hasty().lower(static, *arrays).compile()

        def of(*args: Any) -> Callable[[], Any]:
            # In place where it can be, unlike jnp.asarray.
            arrays = jax.device_put(_flattened(args)[1])
            return lambda: compiled(*arrays)

        return of

    call.prepared = prepared
    return call


def _flattened(args: tuple) -> tuple[_Static, list, bool]:
    """What is no array, the arrays, and whether some of them are traced."""
    leaves, structure = jax.tree.flatten(args)
    arrays, static, kinds, is_traced = [], [], [], False
    for leaf in leaves:
        if isinstance(leaf, (np.ndarray, np.generic)):
            # JAX takes every array to be in the byte order of this machine.
            arrays.append(leaf if leaf.dtype.isnative else leaf.astype(leaf.dtype.newbyteorder("=")))
        elif isinstance(leaf, jax.Array):
            arrays.append(leaf)
            is_traced = is_traced or isinstance(leaf, jax.core.Tracer)
        else:
            static.append(leaf)
            kinds.append(str(leaf) if type(leaf) is float else type(leaf))
            continue
        static.append(None)
    return _Static(structure, tuple(static), tuple(kinds)), arrays, is_traced


def inside_program() -> bool:
    """Whether what is called is a part of a program; under ``jax.vmap`` alone it is one."""
    try:
        return isinstance(_nothing()(), jax.core.Tracer)
    except ValueError:  # options are refused there
        return True


@functools.lru_cache(maxsize=1)
def _nothing() -> Callable:
    return jax.jit(lambda: 0, compiler_options=hasty_options())


@functools.lru_cache(maxsize=1)
def hasty_options() -> Optional[dict]:
    """:func:`known_options`, unless the user has set one that might be among them."""
    candidates, chosen = _HASTY.get(jax.default_backend(), ()), os.environ.get("XLA_FLAGS", "")
    if any(name in chosen for options in candidates for name in options):
        return None
    return known_options()


def known_options() -> Optional[dict]:
    """The first options that the compiler knows."""
    for options in _HASTY.get(jax.default_backend(), ()):
        try:
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
        except jax.errors.JaxRuntimeError:
            continue
        return options
    return None
