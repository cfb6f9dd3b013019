"""Fits under ``vmap``: what a batch of them becomes, chosen by its shape.

Fits with a smooth penalty go side by side (:mod:`glmcore.lane_fits`), in chunks of lanes that stay
in the cache.  Lanes that have trouble there, and all lanes of other solvers or of features so
large that one fit keeps the machine busy, are fitted one after the other by the program of a
single fit, which has the last word on every trouble.  Inside ``jit`` that program is a part of
every batch that is to ``retry``; outside it is compiled when there is a first lane that needs it,
and the cores of a CPU share the lanes (:mod:`glmcore.cores`).
"""

import math
from functools import partial
from typing import Any, NamedTuple, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType
from jaxtyping import Array, Bool, PyTree

from glmcore.centring import centred_rows
from glmcore.cores import on_cores
from glmcore.jit import full_precision, quick_jit
from glmcore.lane_fits import Common, fit_chunk, prepare, root_of, with_root
from glmcore.lane_hessians import mean_weight
from glmcore.model import fit_size
from glmcore.params import GLMParams
from glmcore.penalties import UnRegularized
from glmcore.programs import fit_once, run_fit
from glmcore.results import FitResult
from glmcore.solvers.row_space import goes_by_rows
from glmcore.status import Status
from glmcore.tree import is_at_hand, is_concrete

#: Bytes of the arrays that a chunk of lanes works on: on a CPU, where those of lanes that have
#: features of their own should stay in a core's cache, and elsewhere.
_CHUNK_BYTES = {"cpu": 8 * 2**20}
_OWN_CHUNK_BYTES = {"cpu": 6 * 2**20}
_LARGE_CHUNK_BYTES = 2**30
#: Numbers in the features of a lane up to which lanes with features of their own go side by side,
#: and one fit does not keep a machine busy.
_LARGE_FEATURES = 2**20
#: Fits one after the other that are worth a thread.
_LEAST_PART = 8
#: Parameters up to which fits that differ in weights only share a factor of the Hessian, and
#: lanes from which it pays.
_DENSE_PARAMS = 1024
_DENSE_LANES = 8
#: Rows of a product that a CPU takes together.
_VECTOR = 16


class FitArgs(NamedTuple):
    """What a fit is given; or, a bool a leaf, which of it has an axis of lanes."""

    model: Any
    X: Any
    y: Any
    weight: Any
    init_params: Any
    solver: Any


def run_many(model, X, y, weight, init_params, solver, side_by_side: bool, retry: bool) -> FitResult:
    """The fit, which a vmap turns into many; ``side_by_side`` says whether L-BFGS on all lanes may
    stand for the solver, ``retry`` whether lanes that have trouble there are fitted again."""
    args = FitArgs(model, X, y, weight, init_params, solver)
    arrays, static = eqx.partition(args, lambda leaf: isinstance(leaf, (jax.Array, np.ndarray, np.generic)))
    _check_mesh(arrays)

    @custom_vmap
    def fit(arrays: FitArgs) -> FitResult:
        return _fit(eqx.combine(arrays, static))

    @fit.def_vmap
    @full_precision
    def of_batch(size, in_batched, arrays):
        (batched,) = in_batched
        result = _Batch(static, batched, size, side_by_side, retry).fit(arrays, may_share=True)
        flags, root = _all_batched(result), root_of(result)
        if root is not None and root.ndim == 3:  # shared: no axis of lanes
            flags = eqx.tree_at(root_of, flags, False)
        return result, flags

    return fit(arrays)


class _Batch(NamedTuple):
    """The fits of a batch but for their arrays; leaves that are ``batched`` have lanes first."""

    static: FitArgs
    batched: FitArgs
    size: int
    side_by_side: bool
    retry: bool

    def fit(self, arrays: FitArgs, may_share: bool = False) -> FitResult:
        """All results with lanes first, but for a root of which they ``may_share`` one."""
        if is_concrete(arrays):
            return self._fit(arrays, may_share)

        @custom_vmap
        def fit(arrays):
            return self._fit(arrays)

        @fit.def_vmap
        @full_precision
        def of_batch(size, in_batched, arrays):
            result = _of_batches(self, size, in_batched[0], arrays)
            return result, _all_batched(result)

        return fit(arrays)

    def of_batches(self, size: int, outer: FitArgs, arrays: FitArgs) -> FitResult:
        """A batch of such batches, whose lanes come second: one batch if no features have to be
        copied for it, else one batch after the other."""
        own, own_outer = (any(jax.tree.leaves(flags.X)) for flags in (self.batched, outer))
        if own == own_outer:
            merged = jax.tree.map(
                lambda leaf, *flags: _merged(leaf, *flags, size, self.size),
                arrays, outer, self.batched,
            )
            either = jax.tree.map(lambda a, b: a or b, outer, self.batched)
            result = self._replace(batched=either, size=size * self.size).fit(merged)
            return jax.tree.map(lambda x: x.reshape(size, self.size, *x.shape[1:]), result)
        if own_outer:
            return _map(self.fit, arrays, outer, size)
        # Over the lanes that have features of their own; those that share them side by side.
        inner = self._replace(batched=outer, size=size)
        arrays = jax.tree.map(
            lambda leaf, *flags: jnp.swapaxes(leaf, 0, 1) if all(flags) else leaf,
            arrays, outer, self.batched,
        )
        result = _map(inner.fit, arrays, self.batched, self.size)
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), result)

    def _fit(self, arrays: FitArgs, may_share: bool = False) -> FitResult:
        if self.size == 0:
            return self._nothing(arrays)
        _check_mesh(arrays)
        lanes = jax.tree.map(lambda has_lanes: 0 if has_lanes else None, self.batched)
        if not self._worth_lanes(arrays):
            most = 1 if self._is_large(arrays) else max(1, self.size // _LEAST_PART)
            return on_cores(_one_by_one, (None, lanes), most=most)(self, arrays)
        padded, common = self._prepared(arrays)
        fits = on_cores(_side_by_side, (None, lanes, None), most=self._n_chunks(arrays))
        result, good = fits(self, padded, common)
        if common is not None and common.root is not None:
            # It may be larger than all else together.
            alike = may_share and is_at_hand(good) and np.all(good)
            result = with_root(result, common.root, None if alike else self.size)
        return self._repaired(arrays, result, good) if self.retry else _unfinished(result, good)

    def _nothing(self, arrays: FitArgs) -> FitResult:
        """The results of no lanes."""

        def of_lane(leaf, batched):
            return jax.ShapeDtypeStruct(leaf.shape[1:] if batched else leaf.shape, leaf.dtype)

        lane = jax.tree.map(of_lane, arrays, self.batched)
        shapes = jax.eval_shape(lambda lane: _fit(self.whole(lane)), lane)
        return jax.tree.map(lambda s: jnp.zeros((0, *s.shape), s.dtype), shapes)

    @property
    def _owns_features(self) -> bool:
        return any(jax.tree.leaves(self.batched.X))

    def _worth_lanes(self, arrays: FitArgs) -> bool:
        if not self.side_by_side:
            return False
        if isinstance(self.static.model.penalty, UnRegularized) and self.batched.weight:
            return False  # the null space of the features is that of each lane's own rows
        if not self._owns_features:
            return True
        if self._is_large(arrays) or not all(jax.tree.leaves(self.batched.X)):
            return False
        # Single fits of few rows go by their space in a third of the time; each lane would need a Gram matrix.
        n, dtype, model = arrays.weight.shape[-1], arrays.weight.dtype, arrays.model
        p = _feature_numbers(arrays, self.batched) // n
        return not goes_by_rows(n, p, dtype, model.penalty, model.mask)

    def _is_large(self, arrays: FitArgs) -> bool:
        return _feature_numbers(arrays, self.batched) > _LARGE_FEATURES

    def _prepared(self, arrays: FitArgs) -> tuple[FitArgs, Optional[Common]]:
        """The lanes, and what they share."""
        if self._owns_features:
            return arrays, None
        return _with_common(self, arrays, self._nearby(arrays))

    def _nearby(self, arrays: FitArgs) -> Optional[GLMParams]:
        """The minimum at the mean of all lanes' weights, if they differ in nothing else that moves
        it: theirs are close by."""
        unlike = any(jax.tree.leaves((self.batched.model, self.batched.X, self.batched.y)))
        if unlike or self.size < _DENSE_LANES or fit_size(self.static.model, arrays.X)[0] > _DENSE_PARAMS:
            return None
        lane = self.whole(_lane(arrays, self.batched, 0))
        lane = lane._replace(weight=_mean_weight(arrays.weight), init_params=None)
        return _single(lane).params

    def with_common(self, arrays: FitArgs, nearby: Optional[GLMParams]) -> tuple[FitArgs, Common]:
        arrays = self._padded(arrays)
        return arrays, prepare(self.whole(arrays), self.batched, nearby)

    def in_chunks(
        self, arrays: FitArgs, common: Optional[Common]
    ) -> tuple[FitResult, Bool[Array, " L"]]:
        """Results of all lanes and whether they are good."""
        n_chunks = self._n_chunks(arrays)
        length = -(-self.size // n_chunks)

        def chunk(start):
            def cut(leaf, batched):
                return jax.lax.dynamic_slice_in_dim(leaf, start, length) if batched else leaf

            lanes = jax.tree.map(cut, arrays, self.batched)
            return fit_chunk(self.whole(lanes), self.batched, length, common)

        if n_chunks == 1:
            return chunk(0)

        def add(i, found):
            start = jnp.minimum(i * length, self.size - length)  # the last ones may overlap
            return jax.tree.map(
                lambda all, part: jax.lax.dynamic_update_slice_in_dim(all, part, start, 0),
                found, chunk(start),
            )

        shapes = jax.eval_shape(chunk, jnp.zeros((), jnp.int32))
        empty = jax.tree.map(lambda s: jnp.zeros((self.size, *s.shape[1:]), s.dtype), shapes)
        return jax.lax.fori_loop(0, n_chunks, add, empty)

    def _n_chunks(self, arrays: FitArgs) -> int:
        return -(-self.size // self._lanes_at_once(arrays))

    def _padded(self, arrays: FitArgs) -> FitArgs:
        """With copies of the last row, of weight 0, up to a whole number of vectors, where a product
        is of all lanes."""

        def pad(leaf: Array, has_lanes: bool, mode: str = "edge") -> Array:
            widths = [(0, 0)] * leaf.ndim
            widths[has_lanes] = (0, -leaf.shape[has_lanes] % _VECTOR)
            return jnp.pad(leaf, widths, mode)

        rows = [(args.X, args.y) for args in (arrays, self.batched)]
        X, y = jax.tree.map(pad, *rows)
        weight = pad(arrays.weight, self.batched.weight, "constant")
        return arrays._replace(X=X, y=y, weight=weight)

    def _lanes_at_once(self, arrays: FitArgs) -> int:
        rows, *_ = jax.tree.leaves(arrays.weight)
        n, itemsize = rows.shape[-1], rows.dtype.itemsize
        n_outputs = self.static.model.observations.n_outputs
        numbers, chunk = 4 * n * n_outputs, _CHUNK_BYTES
        if self._owns_features:
            # By rows, by columns, and weighted for each class.
            numbers, chunk = numbers + (2 + n_outputs) * _feature_numbers(arrays, self.batched), _OWN_CHUNK_BYTES
        budget = chunk.get(jax.default_backend(), _LARGE_CHUNK_BYTES)
        return max(1, min(self.size, budget // (numbers * itemsize)))

    def _repaired(
        self, arrays: FitArgs, result: FitResult, good: Bool[Array, " L"]
    ) -> FitResult:
        """With the lanes that are not good fitted one by one."""

        def single(lane):
            return _single(self.whole(_lane(arrays, self.batched, lane)))

        if is_at_hand(good):
            lanes = np.flatnonzero(~np.asarray(good)).astype(np.int32)
            if not lanes.size:
                return result
            singles = jax.tree.map(lambda *leaves: np.stack(leaves), *map(single, lanes))
            # The last ones again, or each number of lanes were a program.
            size = 1 << (len(lanes) - 1).bit_length()
            again = np.minimum(np.arange(size), len(lanes) - 1)
            return _with_lanes(result, lanes[again], jax.tree.map(lambda leaf: leaf[again], singles))

        def repair(found):
            result, good = found
            lane = jnp.argmin(good)
            return _with_lanes(result, lane, single(lane)), good.at[lane].set(True)

        return jax.lax.while_loop(lambda found: ~jnp.all(found[1]), repair, (result, good))[0]

    def part(self, arrays: FitArgs) -> "_Batch":
        """The batch that has as many lanes as ``arrays`` hold."""
        leaves = zip(jax.tree.leaves(arrays), jax.tree.leaves(self.batched))
        return self._replace(size=next(len(leaf) for leaf, has_lanes in leaves if has_lanes))

    def whole(self, arrays: FitArgs) -> FitArgs:
        return eqx.combine(arrays, self.static)


# Traced once, though the rules of a vmap are asked more than once.


@quick_jit
def _fit(args: FitArgs) -> FitResult:
    return fit_once(args.model, args.X, args.y, args.weight, None, args.init_params, args.solver)


@quick_jit
def _of_batches(batch: _Batch, size: int, outer: FitArgs, arrays: FitArgs) -> FitResult:
    return batch.of_batches(size, outer, arrays)


@quick_jit
def _one_by_one(batch: _Batch, arrays: FitArgs) -> FitResult:
    return _map(lambda lane: _fit(batch.whole(lane)), arrays, batch.batched, batch.part(arrays).size)


@quick_jit
def _with_common(batch: _Batch, arrays: FitArgs, nearby: Optional[GLMParams]):
    return batch.with_common(arrays, nearby)


@quick_jit
def _side_by_side(batch: _Batch, arrays: FitArgs, common: Optional[Common]):
    return batch.part(arrays).in_chunks(arrays, common)


@quick_jit
def _with_lanes(result: FitResult, lanes: Any, singles: FitResult) -> FitResult:
    return jax.tree.map(lambda all, some: all.at[lanes].set(some), result, singles)


@quick_jit
def _unfinished(result: FitResult, good: Bool[Array, " L"]) -> FitResult:
    """With the lanes that are not good told to be so."""
    status = jax.tree.map(partial(jnp.where, good), result.status, Status.running)
    return eqx.tree_at(lambda result: result.status, result, status)


_mean_weight = quick_jit(mean_weight)


def _single(args: FitArgs) -> FitResult:
    """A fit of its own: by the program that ``fit`` has for data at hand, unless it would refuse
    these weights."""
    if not is_at_hand((args.X, args.y, args.weight)):
        return _fit(args)
    weight = np.asarray(args.weight)
    if not (weight.min() >= 0 and 0 < weight.sum() < np.inf):
        return _fit(args)
    rows = centred_rows(args.X, args.y, weight, args.model.fit_intercept)
    return run_fit(args.model, *rows, args.init_params, args.solver)


def _check_mesh(arrays: FitArgs) -> None:
    for leaf in jax.tree.leaves(arrays):
        mesh, spec = jax.typeof(leaf).sharding.mesh, jax.typeof(leaf).sharding.spec
        explicit = [name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Explicit]
        if any(part is not None for part in spec) and explicit:
            raise ValueError(
                f"fits inside jax.jit or jax.vmap need a mesh of automatic axes, found explicit {explicit}; make it with "
                "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))"
            )


def _feature_numbers(arrays: FitArgs, batched: FitArgs) -> int:
    """Numbers in the features of each lane."""
    leaves = zip(jax.tree.leaves(arrays.X), jax.tree.leaves(batched.X))
    return sum(math.prod(leaf.shape[has_lanes:]) for leaf, has_lanes in leaves)


def _lane(arrays: FitArgs, batched: FitArgs, index: Any) -> FitArgs:
    return jax.tree.map(lambda leaf, own: leaf[index] if own else leaf, arrays, batched)


def _map(function, arrays: FitArgs, batched: FitArgs, size: int) -> PyTree:
    """``function`` of one lane after the other."""
    indices = jnp.arange(size, dtype=jnp.int32)
    return jax.lax.map(lambda index: function(_lane(arrays, batched, index)), indices)


def _merged(leaf: Array, outer: bool, inner: bool, n_outer: int, n_inner: int) -> Array:
    """Two axes of lanes as one; a leaf that has but one of them is repeated along the other."""
    if not (outer or inner):
        return leaf
    shape = leaf.shape[outer + inner :]
    if not outer:
        leaf = leaf[None]
    if not inner:
        leaf = leaf[:, None]
    return jnp.broadcast_to(leaf, (n_outer, n_inner, *shape)).reshape(-1, *shape)


def _all_batched(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda _: True, tree)
