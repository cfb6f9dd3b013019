"""The problem of rows that are read anew for every pass."""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.dense import DenseProblem
from glmcore.observations import AbstractObservations, InverseLink
from glmcore.params import GLMParams, stacked, unstacked
from glmcore.penalties import AbstractPenalty
from glmcore.problem import Extremes, Problem
from glmcore.reading import Reader
from glmcore.staging import sweep
from glmcore.survey import Survey
from glmcore.sweeps import over_blocks

#: Rows of which there may as well be any number: a program is the same for more.
_MANY_ROWS = 2**20


class StreamedProblem(Problem):
    """Rows that only the host can pass over.

    The linear predictor of n rows is linear in the parameters, which are fewer: where
    :class:`DenseProblem` has a predictor (C, n) this has the parameters (K, p + 1), and where that
    has the derivative of the loss in the predictor this has the derivative in the parameters.
    Inner products of the two are the same, so solvers cannot tell.  A pass is made by ``loss``,
    ``loss_and_residual``, ``divergence`` and ``extremes`` (and, without a penalty, perhaps by
    ``triangle``); Hessians are those of ``sample``.

    ``y`` are the classes, ``weight`` their shares and ``class_means`` their centred features:
    enough for the model without features.
    """

    class_means: Float[Array, "K p"]
    y: Int[Array, " K"]
    weight: Float[Array, " K"]
    present: Bool[Array, " K"]
    sample: DenseProblem
    n_used: Int[Array, ""]
    coordinates: Coordinates
    observations: AbstractObservations
    penalty: AbstractPenalty
    mask: Optional[Bool[Array, "p K"]]
    inverse_link: InverseLink = eqx.field(static=True)
    fit_intercept: bool = eqx.field(static=True)
    n_rows: int = eqx.field(static=True)
    predicts_exactly = True

    @classmethod
    def of(cls, model, survey: Survey, sample: DenseProblem) -> "StreamedProblem":
        """The problem of fitting ``model`` to the data of a survey."""
        dtype = sample.weight.dtype
        return cls(
            class_means=jnp.asarray(survey.class_means, dtype),
            y=jnp.arange(len(survey.class_weights), dtype=jnp.int32),
            weight=jnp.asarray(survey.class_weights / survey.class_weights.sum(), dtype),
            present=sample.present,
            sample=sample,
            n_used=jnp.asarray(survey.n_used),
            coordinates=sample.coordinates,
            observations=sample.observations,
            penalty=model.penalty,
            mask=sample.mask,
            inverse_link=model.inverse_link,
            fit_intercept=model.fit_intercept,
            # Nearby numbers share a program, and so do all that are large.
            n_rows=min(1 << survey.n_used.bit_length(), _MANY_ROWS),
        )

    def predictor(self, params: GLMParams) -> Float[Array, "K p1"]:
        return stacked(params).T

    def loss_and_residual(
        self, eta: Float[Array, "K p1"]
    ) -> tuple[Float[Array, ""], Float[Array, "K p1"]]:
        return sweep("slope", (eta[0, 0], eta), eta)

    def divergence(
        self, change: Float[Array, "K p1"], eta: Float[Array, "K p1"]
    ) -> Float[Array, ""]:
        return sweep("divergence", eta[0, 0], change, eta)

    def gradient(self, residual: Float[Array, "K p1"]) -> GLMParams:
        return unstacked(residual.T)

    def hessian_product(
        self, direction: GLMParams, eta: Float[Array, "K p1"]
    ) -> GLMParams:
        return self.sample.hessian_product(direction, self.sample.predictor(unstacked(eta.T)))

    def sampled(
        self, eta: Float[Array, "K p1"], least: int
    ) -> tuple[Float[Array, "m p"], Int[Array, " m"], Float[Array, " m"], Float[Array, "C m"]]:
        # All of it, for a pass costs more than what a better Hessian does.
        sample = self.sample
        return sample.X, sample.y, sample.weight, sample.predictor(unstacked(eta.T))

    def null_predictor(self) -> Float[Array, "K p1"]:
        return stacked(self.null_params()).T

    def null_optimality(self) -> Float[Array, ""]:
        # All rows of a class have the same derivative: their mean stands for them.
        rows = (self.class_means, self.y, self.weight)
        return eqx.tree_at(lambda q: (q.X, q.y, q.weight), self.sample, rows).null_optimality()

    def triangle(self) -> tuple[Float[Array, "m p"], Int[Array, ""]]:
        triangle, _ = self.sample.triangle()
        values = jnp.linalg.svd(triangle, compute_uv=False)
        size, eps = self.sample.n_rows, jnp.finfo(values.dtype).eps
        full = (values[-1] > values[0] * size * eps) & (values.size == self.class_means.shape[1])
        square = jnp.zeros((triangle.shape[1],) * 2, triangle.dtype)
        found = jax.lax.cond(
            full,  # then so is the rank of all rows, which is what is asked for
            lambda: square.at[: triangle.shape[0]].set(triangle),
            lambda: sweep("triangle", square),
        )
        return found, self.n_used

    def extremes(self, params: GLMParams) -> Extremes:
        eta = stacked(params).T
        classes, none = eta[:, 0], eta[0, 0]
        like = Extremes(none, none, classes, classes, classes, classes)
        return sweep("extremes", like, eta)


# What a sweep computes of a block of rows


def _slope(rows: DenseProblem, eta: Array) -> tuple[Array, Array]:
    loss, residual = rows.loss_and_residual(rows.predictor(unstacked(eta.T)))
    return loss, stacked(rows.gradient(residual)).T


def _divergence(rows: DenseProblem, change: Array, eta: Array) -> Array:
    change, eta = (rows.predictor(unstacked(leaf.T)) for leaf in (change, eta))
    return rows.divergence(change, eta)


def _extremes(rows: DenseProblem, eta: Array) -> Extremes:
    return rows.extremes(unstacked(eta.T))


def _triangle(rows: DenseProblem) -> Array:
    triangle, _ = rows.triangle()
    p = triangle.shape[1]
    return jnp.zeros((p, p), triangle.dtype).at[: triangle.shape[0]].set(triangle)


def _joined(top: Array, bottom: Array) -> Array:
    return jnp.linalg.qr(jnp.concatenate([top, bottom]), mode="r")


#: What is computed of a block, how two of them are combined, and what is combined with the first.
_KINDS = {
    "slope": (_slope, jnp.add, 0.0),
    "divergence": (_divergence, jnp.add, 0.0),
    "extremes": (_extremes, jnp.maximum, -np.inf),
    "triangle": (_triangle, _joined, 0.0),
}


def _of_chunk(kind: str, rows: DenseProblem, operands: Sequence, *chunk: Array) -> Any:
    function, combine, first = _KINDS[kind]

    def of_block(X, y, weight):
        columns = (X - rows.coordinates.centre[None, :], y, weight)
        block = eqx.tree_at(lambda q: (q.X, q.y, q.weight), rows, columns)
        return function(block, *operands)

    return over_blocks(of_block, combine, first, *chunk)


class Sweeper:
    """Passes over the batches of a reader for :func:`~glmcore.staging.staged` programs.

    ``tell(n_passes, batch)`` is called after every chunk.
    """

    def __init__(self, reader: Reader, problem: StreamedProblem, total: float, tell: Callable):
        none = jnp.zeros(0, jnp.int32)
        self._rows = problem.sample.rows(none, jnp.zeros(0, problem.weight.dtype))
        self._reader, self._total, self._tell = reader, total, tell

    def __call__(self, kind: str, *operands: Any) -> Sequence:
        found = []
        for chunk, part in self._reader.sweep(_of_chunk, kind, self._rows, operands):
            found.append(jax.tree.leaves(part))
            self._tell(self._reader.n_passes, chunk.sources[-1][0])
        parts = [np.stack(part) for part in zip(*found)]
        _, combine, _ = _KINDS[kind]
        if combine is jnp.add:  # the rows have their raw weights
            sums = (part.sum(axis=0, dtype=np.float64) / self._total for part in parts)
            return [total.astype(part.dtype) for total, part in zip(sums, parts)]
        if combine is jnp.maximum:
            return [part.max(axis=0) for part in parts]
        return [np.linalg.qr(part.reshape(-1, part.shape[-1]), mode="r") for part in parts]
