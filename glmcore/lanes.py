"""The problems of many fits of one shape, side by side.

What differs between the fits has a leading axis of lanes, what they share has none; features
that they share are multiplied by the coefficients of all lanes in one product.
"""

from typing import Any, NamedTuple, Optional

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glmcore.dense import DenseProblem
from glmcore.lockstep import PerLane, Points
from glmcore.observations import AbstractObservations
from glmcore.params import GLMParams
from glmcore.problem import Problem
from glmcore.programs import starting_params
from glmcore.rows import row_sums
from glmcore.solvers.preconditioner import gram_rows


class Lane(NamedTuple):
    """One fit but for its features: its problem in the coordinates in which it is solved, and
    the coordinates in which its residual is measured (None: the same)."""

    model: Any
    solver: Any
    init_params: Any
    y: Any
    weight: Any
    present: Any
    coordinates: Any
    own: Any

    def problem(self, features: Float[Array, "n p"]) -> Problem:
        rows = (features, self.y, self.weight, self.present)
        return DenseProblem.assembled(self.model, *rows, self.coordinates)


class Design(eqx.Module):
    """Centred features and the intercept's column, row by row and column by column: each
    product has the layout in which it is fastest."""

    rows: Float[Array, "*L n p1"]
    columns: Float[Array, "*L p1 n"]

    @classmethod
    def of(cls, features: Float[Array, "*L n p"], fit_intercept: bool) -> "Design":
        ones = jnp.full_like(features[..., :1], fit_intercept)
        rows = jnp.concatenate([features, ones], axis=-1)
        return cls(rows, jnp.swapaxes(rows, -1, -2))

    @property
    def axis(self) -> Optional[int]:
        """The axis of lanes, if every lane has features of its own."""
        return 0 if self.rows.ndim == 3 else None

    def forward(self, points: Float[Array, "L C p1"]) -> Float[Array, "L C n"]:
        product = "lkp,pn->lkn" if self.axis is None else "lkp,lpn->lkn"
        return jnp.einsum(product, points, self.columns)

    def back(self, residual: Float[Array, "L C n"]) -> Float[Array, "L C p1"]:
        if self.axis is None:
            return jnp.einsum("lkn,np->lkp", residual, self.rows)
        return jax.vmap(row_sums)(residual, self.rows)

    def gram(self, weight: Float[Array, "*L B n"]) -> Float[Array, "*L B p1 p1"]:
        """Gram matrices of rows so weighted, from every so-manieth of many rows."""
        stride = -(-weight.shape[-1] // gram_rows(self.rows.shape[-1]))
        parts = weight[..., ::stride], self.columns[..., ::stride], self.rows[..., ::stride, :]

        def gram(parts: tuple) -> Float[Array, "B p1 p1"]:
            weight, columns, rows = parts
            return jnp.einsum("bpn,nq->bpq", weight[:, None, :] * columns[None], rows)

        # One lane after the other: their weighted copies stay in a cache.
        return gram(parts) if self.axis is None else jax.lax.map(gram, parts)


class Lanes(eqx.Module):
    """Problems side by side; ``axes`` says, as ``in_axes`` of a vmap, what differs."""

    lane: Lane
    axes: Lane = eqx.field(static=True)
    design: Design
    size: int = eqx.field(static=True)

    def each(self, function, *args: Any) -> Any:
        """``function(lane, problem, *args)`` of every lane."""

        def one(lane: Lane, rows, *args):
            return function(lane, lane.problem(rows[:, :-1]), *args)

        in_axes = (self.axes, self.design.axis, *[0] * len(args))
        each = jax.vmap(one, in_axes, axis_size=self.size)
        return each(self.lane, self.design.rows, *args)

    @property
    def alike(self) -> bool:
        """Whether all share the features and the model, and with them that of their Hessians."""
        return self.design.axis is None and not any(jax.tree.leaves(self.axes.model))

    @property
    def observations(self) -> AbstractObservations:
        """What all lanes observe."""
        model = self.lane.model
        return model.observations.contrasted(model.inverse_link)

    @property
    def stretch(self) -> Points:
        """Factor from inner coordinates to columns of the design."""
        return self.each(lambda _, problem: as_point(problem.stretch, 1))

    def predictor(self, points: Points) -> Float[Array, "L C n"]:
        contrasts = self.observations.contrasts
        return self.design.forward(contrasts((points * self.stretch).mT).mT)

    def null_predictor(self) -> Float[Array, "L C n"]:
        """The linear predictor of the null models, without a product."""
        return self.each(lambda _, problem: problem.null_predictor())

    def loss(self, eta: Float[Array, "L C n"]) -> tuple[PerLane, Points]:
        """The loss and its gradient in the points."""
        # The labels wait for it: compared with the classes before a loop, they would be twice as
        # many arrays as classes inside, which XLA's older emitters do not vectorise.
        eta, y = jax.lax.optimization_barrier((eta, self.lane.y))
        here = eqx.tree_at(lambda lanes: lanes.lane.y, self, y)
        loss, residual = here.each(lambda _, problem, eta: problem.loss_and_residual(eta), eta)
        gradient = self.observations.outputs(self.design.back(residual).mT).mT
        return loss, gradient * self.stretch

    def objective(self, points: Points) -> tuple[PerLane, Points]:
        """The objective and its gradient."""
        return self.penalised(points, *self.loss(self.predictor(points)))

    def penalised(self, points: Points, loss: PerLane, gradient: Points) -> tuple[PerLane, Points]:
        """The objective and its gradient where ``loss`` and its ``gradient`` are known."""

        def penalty(_, problem: Problem, point):
            value, slope = jax.value_and_grad(problem.penalty_value)(as_params(point).coef)
            return value, as_point(slope, 0)

        value, slope = self.each(penalty, points)
        return loss + value, gradient + slope

    def residual(self, gradient: Points) -> PerLane:
        """Norm of a gradient in each lane's own coordinates."""

        def one(lane: Lane, problem: Problem, gradient):
            if lane.own is not None:
                here, own = lane.coordinates, lane.own
                shift = (own.centre - here.centre)[None, :] * gradient[:, -1:]
                coef = (gradient[:, :-1] / here.scale.T - shift) * own.scale.T
                gradient = as_point(problem.masked(coef.T), gradient[:, -1])
            return jnp.sqrt(jnp.sum(jnp.square(gradient)))

        return self.each(one, gradient)

    def start(self) -> Points:
        def one(lane: Lane, problem: Problem):
            return as_point(*starting_params(problem, lane.init_params))

        return self.each(one)


def as_point(coef: Float[Array, "p K"], intercept: Any) -> Float[Array, "K p1"]:
    """Class by class, the intercept (or what stands in its place) last."""
    last = jnp.broadcast_to(jnp.asarray(intercept, coef.dtype), coef[0].shape)
    return jnp.concatenate([coef.T, last[:, None]], axis=1)


def as_params(point: Float[Array, "K p1"]) -> GLMParams:
    return GLMParams(point[:, :-1].T, point[:, -1])
