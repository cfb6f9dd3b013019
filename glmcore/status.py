"""How a fit ended."""

import equinox as eqx


class Status(eqx.Enumeration):
    """How a fit ended; ``Status[status]`` is the message of a member.

    A member is data: a fit returns one from inside ``jit``, and one a lane from ``vmap``.

    Examples
    --------
    >>> from glmcore import Status
    >>> Status[Status.converged]
    'converged'
    """

    converged = "converged"
    running = "not finished"
    out_of_steps = "stopped at the iteration limit before the optimality residual reached tol"
    stalled = (
        "stopped where the rounding error of the dtype hides any further progress, before the "
        "optimality residual reached tol; float64 would go further"
    )
    far_from_zero = (
        "the features lie so far from zero that the dtype cannot hold the intercept; subtract "
        "their mean or use float64"
    )
    separable = (
        "the classes are perfectly separable and nothing penalises the coefficients: the "
        "likelihood has no maximum and the coefficients grow without bound"
    )
    nonfinite = "the objective or its gradient is not finite"
    missing_class = "converged; classes without weight were left out"
