"""Rows spread over the devices of one process or of many.

A program that ``jax.jit`` compiles for arrays whose rows are sharded over a mesh works where the rows
lie: each device reads its own, and what the devices tell each other are sums of the size of the
parameters and the few thousand rows from which a Hessian is estimated.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from glmcore.padding import bucket, on_host
from glmcore.rows import BLOCK_ROWS

#: Bytes that are fetched from a device sooner than a program is compiled for their shape.
_FEW_BYTES = 4 * 2**20


def shard_rows(
    X: PyTree, y: Any, mesh: Optional[Mesh] = None, *, sample_weight: Any = None
) -> tuple[PyTree, Int[Array, " m"], Float[Array, " m"]]:
    """Spread rows over the devices of ``mesh``, for :func:`fit`, :func:`update` and all methods.

    Every device gets equally many rows, a multiple of 512: the last ones are padded with rows of
    zeros, label 0 and weight 0, so any number of rows is welcome.  :func:`local_rows` takes the
    padding away again.  Where there are several processes each passes its own rows, as many as it
    has, and calls this at the same time as the others.

    Parameters
    ----------
    X : array of shape (n, p), or a pytree of these
        Features of this process.
    y : int array of shape (n,)
        Class indices.
    mesh : jax.sharding.Mesh, optional
        Rows are spread over all of its axes.  Default: all devices of all processes.
    sample_weight : array of shape (n,), optional
        Weights of the rows; default 1.

    Returns
    -------
    X, y, sample_weight
        The same, each with m rows, sharded over ``mesh``.

    Raises
    ------
    ValueError
        If numbers of rows differ, or an array is spread over several processes already.

    Examples
    --------
    >>> import jax
    >>> import numpy as np
    >>> import glmcore
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), np.array([0, 1, 0, 1])
    >>> Xs, ys, weight = glmcore.shard_rows(X, y)
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> result = glmcore.fit(model, Xs, ys, sample_weight=weight)
    >>> glmcore.local_rows(model.log_proba(result.params, Xs), len(y)).shape
    (4, 2)
    """
    mesh = Mesh(np.asarray(jax.devices()), ("rows",)) if mesh is None else mesh
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, found {type(mesh).__name__}")
    leaves, structure = jax.tree.flatten(X)
    leaves = [_local(leaf, "X") for leaf in leaves]
    if not leaves or any(leaf.ndim != 2 for leaf in leaves):
        raise ValueError(f"X must be 2-D, (n, p), or a pytree of these; found {[x.shape for x in leaves]}")
    n_rows = len(leaves[0])
    dtype = np.result_type(np.float32, *(leaf.dtype for leaf in leaves if leaf.dtype.kind == "f"))
    weight = np.ones(n_rows, dtype) if sample_weight is None else _local(sample_weight, "sample_weight")
    columns = [*leaves, _local(y, "y"), weight]
    for name, column in (("X", leaves[-1]), ("y", columns[-2]), ("sample_weight", weight)):
        if column.shape[:1] != (n_rows,) or (name != "X" and column.ndim != 1):
            raise ValueError(f"{name} must have {n_rows} rows as X has, found shape {column.shape}")
    per_device = _rows_per_device(n_rows, sum(leaf[:1].nbytes for leaf in leaves), mesh)
    sharding = NamedSharding(_automatic(mesh), PartitionSpec(mesh.axis_names))
    *leaves, y, weight = [_spread(column, per_device, sharding) for column in columns]
    return jax.tree.unflatten(structure, leaves), y, weight


def local_rows(values: Array, n_rows: int) -> np.ndarray:
    """This process's rows of a result on sharded rows.

    Parameters
    ----------
    values : array whose first axis are the rows
        Predictions or labels, say.
    n_rows : int
        Rows that this process gave to :func:`shard_rows`.

    Returns
    -------
    ndarray of n_rows rows

    Raises
    ------
    ValueError
        If this process has fewer rows.

    Examples
    --------
    >>> import numpy as np
    >>> import glmcore
    >>> X, y, _ = glmcore.shard_rows(np.ones((3, 2), np.float32), np.array([0, 1, 1]))
    >>> y.shape, glmcore.local_rows(y, 3)
    ((512,), array([0, 1, 1]...))
    """
    shards = {_start(shard.index): shard.data for shard in jnp.asarray(values).addressable_shards}
    rows = np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
    if len(rows) < n_rows:
        raise ValueError(f"n_rows must be at most {len(rows)}, the rows of this process; found {n_rows}")
    return rows[:n_rows]


def is_spread(x: Any) -> bool:
    """Whether ``x`` is an array on several devices, which stays where it is."""
    return isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and len(x.devices()) > 1


def reduced(reduce: Callable, x: Any) -> Any:
    """``reduce(x)``, a few numbers, in NumPy: computed where the rows are, unless they are few."""
    if is_spread(x) or not (on_host(x) or x.nbytes < _FEW_BYTES):
        with jax.ensure_compile_time_eval():  # also of what a program closes over
            return jax.tree.map(np.asarray, jax.jit(reduce)(x))
    return reduce(np.asarray(x))  # inside a jit even constants would be traced


def settled_rows(X: PyTree, *columns: Any) -> tuple[Any, ...]:
    """``X`` and per-row arrays as the compiled programs want them, if ``X`` is spread by rows:
    all on the same devices, in whole blocks on each.

    Where the blocks of :mod:`glmcore.rows` straddle devices, the compiler gathers X.
    """
    first = jax.tree.leaves(X)[0]
    if not (is_spread(first) and isinstance(first.sharding, NamedSharding)):
        return (X, *columns)
    by_row = NamedSharding(first.sharding.mesh, PartitionSpec(*first.sharding.spec[:1]))
    columns = [c if isinstance(c, jax.core.Tracer) else jax.device_put(c, by_row) for c in columns]
    here = by_row.shard_shape(first.shape)[0]
    missing = -here % BLOCK_ROWS
    if missing:
        return jax.tree.map(lambda x: _pad_each(x, len(first) // here, missing), (X, *columns))
    return (X, *columns)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _pad_each(rows: Array, n_shards: int, missing: int) -> Array:
    """``missing`` zeros after the rows of every shard."""
    shards = rows.reshape(n_shards, -1, *rows.shape[1:])
    shards = jnp.pad(shards, [(0, missing) if axis == 1 else (0, 0) for axis in range(shards.ndim)])
    return shards.reshape(-1, *rows.shape[1:])


def on_automatic_mesh(verb: Callable) -> Callable:
    """``verb``, for arrays on a mesh with explicit axes and inside ``jax.set_mesh`` of one too.

    The meshes of ``jax.make_mesh`` make shardings part of types, and then each gather has to name
    its own: programs are compiled for automatic axes, and results brought back.  A mesh inside
    another program is left as it is.
    """

    @functools.wraps(verb)
    def called(*args: Any, **named: Any) -> Any:
        # Modules take long to look through, and hold no rows.
        data = [given for given in (*args, *named.values()) if not isinstance(given, eqx.Module)]
        mesh = next(filter(None, map(_explicit_mesh, jax.tree.leaves(data))), None)
        around = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
        if mesh is None and not around:
            return verb(*args, **named)
        context = contextlib.nullcontext()
        if around:
            try:
                context = jax.set_mesh(_automatic(jax.sharding.get_mesh()))
            except ValueError:  # inside a program
                return verb(*args, **named)
        args, named = jax.tree.map(_with_automatic_axes, (args, named))
        with context:
            result = verb(*args, **named)
        return result if mesh is None else jax.tree.map(lambda x: _on_mesh(x, mesh), result)

    return called


def _explicit_mesh(x: Any) -> Optional[Mesh]:
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
        return None
    mesh = getattr(x.sharding, "mesh", None)
    return mesh if mesh is not None and AxisType.Explicit in mesh.axis_types else None


def _with_automatic_axes(x: Any) -> Any:
    """The same array, its sharding left to the compiler."""
    sharding = getattr(x, "sharding", None)
    return x if not isinstance(sharding, NamedSharding) else _on_mesh(x, _automatic(sharding.mesh))


def _on_mesh(x: Any, mesh: Mesh) -> Any:
    """The same array on another mesh of the same devices; nothing is copied."""
    sharding = getattr(x, "sharding", None)
    if isinstance(x, jax.core.Tracer) or not isinstance(sharding, NamedSharding) or sharding.mesh == mesh:
        return x
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, NamedSharding(mesh, sharding.spec), shards)


def _automatic(mesh: Mesh) -> Mesh:
    if all(kind == AxisType.Auto for kind in mesh.axis_types):
        return mesh
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _local(column: Any, name: str) -> Any:
    if isinstance(column, jax.Array) and not column.is_fully_addressable:
        raise ValueError(f"{name} is spread over several processes already; pass the rows of this one")
    return column if isinstance(column, jax.Array) else np.asarray(column)


def _rows_per_device(n_rows: int, row_bytes: int, mesh: Mesh) -> int:
    """Rows of each device: the bucket of the largest number that one has to hold."""
    most = -(-n_rows // len(mesh.local_devices))
    if jax.process_count() > 1:
        most = int(np.max(multihost_utils.process_allgather(np.asarray(most))))
    return -(-bucket(most, row_bytes) // BLOCK_ROWS) * BLOCK_ROWS


def _spread(column: Any, per_device: int, sharding: NamedSharding) -> Array:
    """A global array of which this process holds ``column``, padded, on its devices in order."""
    shape = (per_device * sharding.mesh.size, *column.shape[1:])
    owned = sharding.addressable_devices_indices_map(shape)
    begins = sorted(_start(index) for index in owned.values())
    local = {begin: place * per_device for place, begin in enumerate(begins)}

    def shard(index: tuple) -> Any:
        rows = column[local[_start(index)] :][:per_device]
        padding = [(0, per_device - len(rows))] + [(0, 0)] * (column.ndim - 1)
        return rows if len(rows) == per_device else np.pad(np.asarray(rows), padding)

    return jax.make_array_from_callback(shape, sharding, shard)


def _start(index: tuple) -> int:
    return index[0].start or 0
