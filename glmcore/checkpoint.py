"""A callback that keeps on disk what a fit needs to go on where it was interrupted."""

import numbers
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from glmcore import npz
from glmcore.identity import Identity
from glmcore.results import FitProgress
from glmcore.sharding import is_spread
from glmcore.warn import warn_user

_FORMAT = "glmcore checkpoint"


class Checkpoint:
    """Write the state of a fit to a file now and then, and resume from it.

    A fit that is started again with the same data, model, solver and path goes on from the last
    checkpoint and ends with the answer of a fit that was not interrupted, to the last bit on the
    same machine.  A fit that has ended returns at once, or goes on if ``tol`` or ``maxiter`` asks
    for more; to start anew delete the file.

    Parameters
    ----------
    path : str or path
        The file; ``.npz`` is appended where it is missing.  One file a fit.
    every : int, default 10
        Steps between two checkpoints; another one is written at the end.

    Raises
    ------
    TypeError, ValueError
        If an argument is bad.  In a fit: if the file is damaged or foreign or holds a fit of other
        data, another model or another solver; the message says which.  ``init_params``, ``tol`` and
        ``maxiter`` may differ.
    FileNotFoundError
        In a fit: if the folder of ``path`` does not exist.

    Warns
    -----
    RuntimeWarning
        If a checkpoint cannot be written, when the disk is full, say.  The fit goes on, and the
        file still holds the checkpoint before.

    Notes
    -----
    A checkpoint replaces the one before in a single step, so that whatever kills the process, and
    whenever, no more than ``every`` steps are lost.  It holds arrays and no code; a function in a
    model (a link, an optax transformation) is known by its name and what it closes over.  The size
    is that of the solver's state: for ``fit`` some numbers a row and class, for ``fit_batches``,
    and :func:`pad_rows` aside, nothing that grows with the rows.

    Where there are several processes, all of them pass the same path, in a folder that they share:
    the first one writes, and all read.

    Examples
    --------
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> import glmcore
    >>> model = glmcore.GLM(glmcore.Categorical(2), glmcore.Ridge(0.1))
    >>> X, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 1, 0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = glmcore.Checkpoint(f"{folder}/run", every=5)
    ...     first = glmcore.fit(model, X, y, callback=checkpoint)
    ...     again = glmcore.fit(model, X, y, callback=[checkpoint, glmcore.Progress()])
    >>> bool(jnp.all(again.params.coef == first.params.coef))
    True
    """

    def __init__(self, path: Any, every: Any = 10):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path must be a string or a path, found {type(path).__name__}")
        if not isinstance(every, numbers.Integral) or isinstance(every, bool):
            raise TypeError(f"every must be a whole number of steps, found {every!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, found {every}")
        self.path = path
        self.every = int(every)

    def __repr__(self) -> str:
        return f"Checkpoint({os.fspath(self.path)!r}, every={self.every})"

    def due_after(self, n_iter: int) -> int:
        """The number of steps at which a fit that has made ``n_iter`` of them is to be kept."""
        return n_iter + self.every - n_iter % self.every

    def __call__(self, progress: FitProgress, identity: Identity, run: Any) -> None:
        """Keep ``run`` if it is time to: a fit calls this with more than it tells other callbacks."""
        if not progress.done and progress.n_iter % self.every:
            return
        leaves = [_on_host(leaf) for leaf in jax.tree.leaves(eqx.filter(run, _is_array))]
        if jax.process_index() > 0:
            return
        document = {**identity._asdict(), "layout": _layout(leaves)}
        documents = {"header": npz.new_header(_FORMAT), "fit": document}
        members = {name: npz.to_document(node) for name, node in documents.items()}
        members |= {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
        try:
            npz.write_atomically(npz.with_suffix(self.path), members)
        except OSError as error:
            warn_user(f"no checkpoint at step {progress.n_iter}: {error}", RuntimeWarning)

    def resumed(self, identity: Identity, run: Any) -> Any:
        """The run in the file, or ``run``, with which a fit begins, where there is no file."""
        file = npz.with_suffix(self.path)
        if not file.exists():
            npz.check_folder(file)
            return run
        arrays, rest = eqx.partition(run, _is_array)
        leaves, structure = jax.tree.flatten(arrays)
        with npz.opened(file) as archive:
            header = archive.header(_FORMAT)
            document = npz.typed(archive.document("fit"), dict)
            saved = Identity(*(npz.typed(document[name], str) for name in Identity._fields))
            difference = identity.difference(saved)
            if difference is not None:
                raise npz.Refused(f"it holds a fit of {difference}. Delete it or give another path")
            if document["layout"] != _layout(map(_on_host, leaves)):
                writer = header["libraries"].get("glmcore", "another version")
                raise npz.Refused(f"glmcore {writer} wrote it, whose solver keeps other numbers. Delete it")
            found = [_like(leaf, archive.read(f"leaf_{i}")) for i, leaf in enumerate(leaves)]
            archive.check_all_read()
            run = eqx.combine(jax.tree.unflatten(structure, found), rest)
            if run.n_iter < 0:
                raise npz.Refused("its content is damaged: a negative number of steps")
        return run


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _layout(leaves: Any) -> list[str]:
    return [f"{leaf.dtype.str}{list(leaf.shape)}" for leaf in leaves]


def _on_host(leaf: Any) -> np.ndarray:
    """An array in a dtype of NumPy's own; where it is spread over processes, all must call this."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    leaf = np.asarray(leaf)
    return leaf if leaf.dtype.kind in "biuf" else np.frombuffer(leaf.tobytes(), np.uint8)


def _like(leaf: Any, found: np.ndarray) -> Any:
    """What :func:`_on_host` made of an array that is like ``leaf``, where that one is."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(found, impl=jax.random.key_impl(leaf))
    if _layout([found]) != _layout([_on_host(leaf)]):
        raise npz.Refused("its content is damaged: an array of another shape or dtype")
    value = found.view(leaf.dtype).reshape(leaf.shape)
    if not is_spread(leaf):
        return jnp.asarray(value)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])
