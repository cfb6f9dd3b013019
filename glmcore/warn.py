"""Warnings that point to the line of the user."""

import sys
import warnings

#: Packages that may stand between the user's line and one of the library.
_BETWEEN = ("glmcore", "jax", "equinox", "jaxtyping")


def warn_user(
    message: str, category: type[Warning] = UserWarning, also_between: tuple[str, ...] = ()
) -> None:
    """Warn on behalf of the nearest line that is neither the library's nor that of a package it
    uses: Python shows a warning once a line.

    Parameters
    ----------
    message : str
    category : type of Warning, default UserWarning
    also_between : tuple of str
        Further packages that may stand between the user's line and this one.

    Examples
    --------
    >>> import warnings
    >>> import glmcore
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     glmcore.warn_user("mind the gap")
    >>> print(told[0].message)
    mind the gap
    """
    between, level, frame = {*_BETWEEN, *also_between}, 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in between:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
