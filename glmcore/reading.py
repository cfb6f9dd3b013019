"""Batches of any size, read ahead of the computation and cut into chunks of one shape."""

import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from glmcore.checks import check_data
from glmcore.cores import n_cores
from glmcore.jit import quick_jit
from glmcore.padding import aligned

#: Bytes of the features of a chunk, and chunks that are read ahead.
_CHUNK_BYTES = 2**25
_AHEAD = 2
#: Rows of the first batch that are kept.
_FIRST_ROWS = 8192


class Chunk(NamedTuple):
    """Rows of one or several batches: the first ``n_rows`` of arrays that are always as long.

    ``sources`` tells the batch of each stretch of rows, where in the batch it begins and its
    length.
    """

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    n_rows: int
    sources: list[tuple[int, int, int]]


class Shape(NamedTuple):
    """What all batches have in common, and the rows of a chunk."""

    structure: Any
    widths: tuple[int, ...]
    dtype: np.dtype
    rows: int


class Reader:
    """The batches of ``fit_batches``, read anew for every pass.

    Parameters
    ----------
    model : GLM
    batches : iterable or callable
        What gives ``(X, y)`` or ``(X, y, weight)`` each time that it is iterated over, or a
        function that makes such an iterator.
    """

    def __init__(self, model: Any, batches: Iterable | Callable[[], Iterator]):
        if not callable(batches) and (not hasattr(batches, "__iter__") or iter(batches) is batches):
            raise TypeError(
                "batches must be iterable again for every pass, such as a list, or a function that "
                f"makes an iterator; found {type(batches).__name__}"
            )
        self.model = model
        self._batches = batches
        self.shape, self.first_rows = self._look()
        self._totals: tuple[int, np.ndarray] | None = None
        self.n_passes = 0

    def sweep(self, function: Callable, *before: PyTree) -> Iterator[tuple[Chunk, PyTree]]:
        """One pass: the chunks in order, each with ``function(*before, X, y, weight, n_rows)``."""
        under_way, n_rows, program = deque(), 0, None
        class_weights = np.zeros(self.model.observations.n_outputs)
        with ThreadPoolExecutor(n_cores()) as pool:
            for chunk in self._chunks_ahead():
                n_rows += chunk.n_rows
                class_weights += _class_weights(chunk, len(class_weights))
                columns = (*chunk[:3], np.asarray(chunk.n_rows, np.int32))
                program = program or _quick_jit(function).prepared(*before, *columns)
                under_way.append((chunk, pool.submit(_computed, program(*before, *columns))))
                if len(under_way) > n_cores():
                    chunk, found = under_way.popleft()
                    yield chunk, found.result()
            for chunk, found in under_way:
                yield chunk, found.result()
        self._check_totals(n_rows, class_weights)
        self.n_passes += 1

    def _check_totals(self, n_rows: int, class_weights: np.ndarray) -> None:
        if self._totals is None:
            self._totals = n_rows, class_weights
        first_rows, first_weights = self._totals
        same = "batches must give the same rows in every pass"
        if n_rows != first_rows:
            raise ValueError(
                f"{same}: found {n_rows} rows in pass {self.n_passes + 1}, expected {first_rows}"
            )
        # Up to rounding, for another order of the rows is none of our business.
        if not np.allclose(class_weights, first_weights, rtol=0, atol=1e-9 * first_weights.sum()):
            raise ValueError(
                f"{same}: found classes of the weights {class_weights} in pass "
                f"{self.n_passes + 1}, expected {first_weights}"
            )

    def _iterator(self) -> Iterator:
        batches = self._batches() if callable(self._batches) else self._batches
        try:
            return iter(batches)
        except TypeError as error:
            wanted = "batches must be an iterable, or a function that returns one"
            raise TypeError(f"{wanted}; found {batches!r}") from error

    def _look(self) -> tuple[Shape, np.ndarray]:
        """The shape of the batches, and some rows of the first one that has any."""
        for index, batch in enumerate(self._iterator()):
            parts = _parts(index, batch)
            if not _is_empty(parts):
                X, _, _ = _checked(index, parts, self.model, None)
                leaves, structure = jax.tree.flatten(X)
                first = np.concatenate([np.asarray(x[:_FIRST_ROWS]) for x in leaves], axis=1)
                widths = tuple(leaf.shape[1] for leaf in leaves)
                dtype = np.dtype(leaves[0].dtype)
                rows = _CHUNK_BYTES // (sum(widths) * dtype.itemsize)
                rows = max(256, 1 << max(rows.bit_length() - 1, 0))
                return Shape(structure, widths, dtype, rows), first
        raise ValueError("batches must hold rows, found none")

    def _chunks_ahead(self) -> Iterator[Chunk]:
        """The chunks, made by a thread of its own while the caller is busy."""
        ready: queue.Queue = queue.Queue(_AHEAD)
        stopped = threading.Event()

        def put(item):
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    pass

        def read():
            try:
                for chunk in self._chunks():
                    put(chunk)
                    if stopped.is_set():
                        return
                put(None)
            except BaseException as error:  # raised where the pass is made
                put(error)

        thread = threading.Thread(target=read, name="glmcore-reader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()

    def _chunks(self) -> Iterator[Chunk]:
        rows = self.shape.rows
        gathered = None
        for index, batch in enumerate(self._iterator()):
            parts = _parts(index, batch)
            if _is_empty(parts):
                continue
            X, y, weight = _checked(index, parts, self.model, self.shape)
            start, n = 0, len(y)
            while start < n:
                whole = gathered is None and n - start >= rows
                if whole and _as_it_is(X[start : start + rows]):
                    part = slice(start, start + rows)
                    yield Chunk(X[part], y[part], weight[part], rows, [(index, start, rows)])
                    start += rows
                    continue
                gathered = _empty(self.shape) if gathered is None else gathered
                taken = min(n - start, rows - gathered.n_rows)
                gathered = _filled(gathered, (X, y, weight), index, start, taken)
                start += taken
                if gathered.n_rows == rows:
                    yield gathered
                    gathered = None
        if gathered is not None:
            for column in gathered[:3]:
                column[gathered.n_rows :] = 0
            yield gathered


#: One program a function, for all passes.
_quick_jit = functools.lru_cache(maxsize=64)(quick_jit)


def _class_weights(chunk: Chunk, n_classes: int) -> np.ndarray:
    rows = slice(chunk.n_rows)
    # Left to convert the weights, bincount takes several times as long.
    return np.bincount(chunk.y[rows], chunk.weight[rows].astype(np.float64), n_classes)


def _computed(program: Callable[[], PyTree]) -> PyTree:
    return jax.tree.map(np.asarray, program())


def _parts(index: int, batch: Any) -> tuple:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        size = f" of length {len(batch)}" if hasattr(batch, "__len__") else ""
        raise TypeError(
            f"batch {index} must be (X, y) or (X, y, weight), found {type(batch).__name__}{size}"
        )
    X, y, weight = batch if len(batch) == 3 else (*batch, None)
    return X, np.asarray(y), weight


def _is_empty(batch: tuple) -> bool:
    X, y, _ = batch
    return y.shape == (0,) and all(np.shape(leaf)[:1] == (0,) for leaf in jax.tree.leaves(X))


def _checked(index: int, batch: tuple, model: Any, shape: Shape | None) -> tuple:
    """Features in one matrix, labels and weights of a batch, or an error that names it."""
    X, y, weight = batch
    dtype = None if shape is None else shape.dtype
    try:
        X, y, weight = check_data(model, X, y, weight, dtype, is_batch=True)
        if shape is None:
            return X, y, weight
        leaves, structure = jax.tree.flatten(X)
        widths = tuple(leaf.shape[1] for leaf in leaves)
        if (structure, widths) != (shape.structure, shape.widths):
            expected = jax.tree.unflatten(shape.structure, shape.widths)
            found = jax.tree.unflatten(structure, widths)
            raise ValueError(f"X must have {expected} features as the first batch, found {found}")
    except (TypeError, ValueError) as error:
        raise type(error)(f"batch {index}: {error}") from error
    leaves = [np.asarray(leaf) for leaf in leaves]
    X = leaves[0] if len(leaves) == 1 else np.concatenate(leaves, axis=1)
    return X, np.asarray(y, np.int32), np.asarray(weight)


def _as_it_is(X: np.ndarray) -> bool:
    """Whether a compiled program reads the rows where they lie."""
    return X.flags.c_contiguous and X.ctypes.data % 64 == 0


def _empty(shape: Shape) -> Chunk:
    X = aligned((shape.rows, sum(shape.widths)), shape.dtype)
    y, weight = np.empty(shape.rows, np.int32), np.empty(shape.rows, shape.dtype)
    return Chunk(X, y, weight, 0, [])


def _filled(chunk: Chunk, columns: tuple, index: int, start: int, taken: int) -> Chunk:
    into, out_of = slice(chunk.n_rows, chunk.n_rows + taken), slice(start, start + taken)
    for target, column in zip(chunk[:3], columns):
        target[into] = column[out_of]
    sources = [*chunk.sources, (index, start, taken)]
    return chunk._replace(n_rows=chunk.n_rows + taken, sources=sources)
