"""The problem of rows that are in memory: one matrix of centred features."""

from typing import Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glmcore.coordinates import Coordinates
from glmcore.observations import AbstractObservations, InverseLink
from glmcore.params import GLMParams
from glmcore.penalties import AbstractPenalty
from glmcore.problem import Extremes, Problem
from glmcore.rows import BLOCK_ROWS, row_sums, row_triangle
from glmcore.tree import tree_norm

#: Features up to which, however few the classes, a product with X by columns of classes takes less time
#: than one by rows and its transpose; and from which on it does with one column, unless there are more
#: features than rows: then XLA would transpose X.
_FEW_FEATURES, _MANY_FEATURES = 8, 56


class DenseProblem(Problem):
    """Rows in memory: a pass over them is one product with X forward, one back."""

    X: Float[Array, "n p"]
    y: Int[Array, " n"]
    weight: Float[Array, " n"]
    present: Bool[Array, " K"]
    coordinates: Coordinates
    observations: AbstractObservations
    penalty: AbstractPenalty
    mask: Optional[Bool[Array, "p K"]]
    inverse_link: InverseLink = eqx.field(static=True)
    fit_intercept: bool = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        model,
        features: Float[Array, "n p"],
        y: Int[Array, " n"],
        share: Float[Array, " n"],
        coordinates: Coordinates,
        may_lack_classes: bool = False,
    ) -> "DenseProblem":
        """The problem of fitting ``model`` to features centred by ``coordinates``, with weights
        that sum to one.

        A class without weight is left out, unless these are rows of a batch that may lack it.
        """
        present = (model.observations.frequencies(y, share) > 0) | may_lack_classes
        return cls.assembled(model, features, y.astype(jnp.int32), share, present, coordinates)

    @classmethod
    def assembled(
        cls, model, X: Array, y: Array, weight: Array, present: Array, coordinates: Coordinates
    ) -> "DenseProblem":
        """The problem of these parts and those of ``model``."""
        return cls(
            *(X, y, weight, present, coordinates),
            observations=model.observations.contrasted(model.inverse_link),
            penalty=model.penalty,
            mask=model.stacked_mask,
            inverse_link=model.inverse_link,
            fit_intercept=model.fit_intercept,
        )

    def rows(self, index: Int[Array, " m"], weight: Float[Array, " m"]) -> "DenseProblem":
        """The problem of chosen rows, with weights of their own that need not sum to one."""

        def take(x: Array) -> Array:
            return jnp.asarray(x).at[index].get(mode="promise_in_bounds")

        parts = (take(self.X), take(self.y), weight)
        return eqx.tree_at(lambda q: (q.X, q.y, q.weight), self, parts)

    def on_features(self, index: Int[Array, " q"]) -> "DenseProblem":
        """The problem with all coefficients zero but those of chosen features."""
        coordinates = self.coordinates.on_features(index)
        penalty = self.penalty.on_features(self.coordinates.split(self.coordinates.scale), index)
        parts = (self.X[:, index], coordinates, penalty)
        part = eqx.tree_at(lambda q: (q.X, q.coordinates, q.penalty), self, parts)
        return part if self.mask is None else eqx.tree_at(lambda q: q.mask, part, self.mask[index])

    @property
    def n_rows(self) -> int:
        return self.weight.size

    def predictor(self, params: GLMParams) -> Float[Array, "C n"]:
        contrasts = self.observations.contrasts
        return self.predicted(contrasts(self.stretch * params.coef), contrasts(params.intercept))

    def predicted(
        self, coef: Float[Array, "p C"], intercept: Float[Array, " C"]
    ) -> Float[Array, "C n"]:
        """The linear predictor of coefficients of X as it stands."""
        (p, C), n = coef.shape, len(self.X)
        if p <= max(_FEW_FEATURES, 2 * C) or (C == 1 and _MANY_FEATURES <= p <= n):
            return jax.lax.optimization_barrier(coef.T @ self.X.T) + intercept[:, None]
        if 4 < C < 16:  # by columns of zeros a CPU's product takes up to a fifth less time
            coef = jnp.pad(coef, ((0, 0), (0, -C % 8)))
        # The barriers keep XLA from turning the transpose into a product in a slow layout, and
        # from transposing once for each of its readers.
        eta = jax.lax.optimization_barrier(self.X @ coef)[:, :C]
        return jax.lax.optimization_barrier(eta.T) + intercept[:, None]

    def output_predictor(self, params: GLMParams) -> Float[Array, "K n"]:
        """The linear predictor of every output, that of a class that is left out far below."""
        eta = self.predicted(self.stretch * params.coef, params.intercept)
        return eta + self.absence[:, None]

    def loss_and_residual(
        self, eta: Float[Array, "C n"]
    ) -> tuple[Float[Array, ""], Float[Array, "C n"]]:
        nll, residual = self.observations.value_and_residual(
            self.without_absent(eta), self.y, self.inverse_link
        )
        return self._mean(nll), self.weight[None, :] * residual

    def divergence(
        self, change: Float[Array, "C n"], eta: Float[Array, "C n"]
    ) -> Float[Array, ""]:
        excess = self.observations.divergence(
            change, self.without_absent(eta), self.y, self.inverse_link
        )
        return self._mean(excess)

    def gradient(self, residual: Float[Array, "C n"]) -> GLMParams:
        outputs = self.observations.outputs
        coef = outputs(jax.lax.optimization_barrier(row_sums(residual, self.X)).T) * self.stretch
        intercept = outputs(jnp.sum(residual, axis=1))
        return GLMParams(coef, intercept if self.fit_intercept else jnp.zeros_like(intercept))

    def hessian_product(
        self, direction: GLMParams, eta: Float[Array, "C n"]
    ) -> GLMParams:
        """The Hessian of the loss times ``direction``: one pass forward and one back."""
        change = self.predictor(direction)
        _, bend = jax.jvp(lambda eta: self.loss_and_residual(eta)[1], (eta,), (change,))
        return self.gradient(bend)

    def null_predictor(self) -> Float[Array, "C n"]:
        intercept = self.observations.contrasts(self.null_params().intercept)
        return jnp.broadcast_to(intercept[:, None], (intercept.size, self.y.size))

    def null_optimality(self) -> Float[Array, ""]:
        return tree_norm(self.look(self.null_predictor()).gradient)

    def extremes(self, params: GLMParams) -> Extremes:
        eta = self.output_predictor(params)
        used = (self.weight > 0)[None, :]
        classes = jnp.arange(self.present.size, dtype=jnp.int32)
        own = (self.y[None, :] == classes[:, None]) & used
        best_other = jnp.max(jnp.where(own, -jnp.inf, eta), axis=0, keepdims=True)
        lead = jnp.where(own, eta - best_other, jnp.inf)
        centred = eta
        if self.mask is None:  # else the mean may depend on what is masked for a class
            centred = eta - jnp.mean(eta, axis=0, keepdims=True, where=self.present[:, None])
        return Extremes(
            behind=jnp.max(-lead),
            ahead=jnp.max(jnp.where(own, lead, -jnp.inf)),
            inside=jnp.max(jnp.where(own, -centred, -jnp.inf), axis=1),
            outside=jnp.max(jnp.where(own | ~used, -jnp.inf, centred), axis=1),
            top=jnp.max(jnp.where(own, centred, -jnp.inf), axis=1),
            bottom=jnp.max(jnp.where(own | ~used, -jnp.inf, -centred), axis=1),
        )

    def triangle(self) -> tuple[Float[Array, "m p"], Int[Array, ""]]:
        used = self.weight > 0
        scaled = self.X * self.coordinates.unit[None, :]
        scaled = jnp.where(used[:, None], scaled, 0)
        return row_triangle(scaled), jnp.sum(used)

    def sampled(
        self, eta: Float[Array, "C n"], least: int
    ) -> tuple[Float[Array, "m p"], Int[Array, " m"], Float[Array, " m"], Float[Array, "C m"]]:
        if self.n_rows < 2 * least:
            return self.X, self.y, self.weight, eta
        rows, weight = _spread(self.weight, least)
        return self.X[rows], self.y[rows], weight, eta[:, rows]

    def _mean(self, per_sample: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(self.weight == 0, 0, self.weight * per_sample))


def _spread(
    weight: Float[Array, " n"], n_rows: int
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    """Rows spread evenly (they are often sorted by class) over the blocks with weight, each by how
    many of its rows have some, and their weights; where that is little, or that of few of them, at
    equal distances in cumulative weight.

    Padding, which comes at the end of what a device holds, does not change what is found: so many
    devices, the same fit.
    """
    used = jnp.pad(weight > 0, (0, -weight.size % BLOCK_ROWS)).reshape(-1, BLOCK_ROWS)
    counts = jnp.sum(used, axis=1, dtype=jnp.int32)
    before, n_used = jnp.cumsum(counts, dtype=jnp.int32) - counts, jnp.sum(counts, dtype=jnp.int32)
    place = jnp.arange(1, BLOCK_ROWS + 1, dtype=jnp.int32)
    spans = jnp.max(jnp.where(used, place[None, :], 0), axis=1)
    middle = (jnp.arange(n_rows) + 0.5).astype(weight.dtype) / n_rows
    ranks = jnp.minimum((middle * n_used).astype(jnp.int32), n_used - 1)
    # The first rank in each block: if each rank looked for its block, every step of the search
    # would be talk among devices.
    first, index = jnp.searchsorted(ranks, before), jnp.arange(before.size, dtype=jnp.int32)
    block = jax.lax.cummax(jnp.zeros(n_rows, jnp.int32).at[first].max(index, mode="drop"))
    start, count, span = jnp.stack([before, counts, spans])[:, block]
    # Idle rows among the others count as they come, or some others would never be seen.
    rows = BLOCK_ROWS * block + (ranks - start) * span // jnp.maximum(count, 1)
    picked = weight[rows]
    found = jnp.sum(picked)

    def as_they_come():
        return rows, picked / found

    def by_weight():
        cumulative = jnp.cumsum(weight)
        rows = jnp.searchsorted(cumulative, middle * cumulative[-1]).astype(jnp.int32)
        return rows, jnp.full_like(middle, 1 / n_rows)

    # As good as how many rows of equal weight (Kish, Survey Sampling, 1965).
    effective = jnp.square(found / jnp.linalg.norm(picked))
    enough = (effective > 0.1 * n_rows) & (found > 0.1 * n_rows / n_used)
    return jax.lax.cond(enough, as_they_come, by_weight)
