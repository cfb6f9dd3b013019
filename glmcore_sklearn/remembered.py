"""Functions that remember what they made: a step on a small batch takes less time than to make a model."""

import functools


def remembered(function):
    """``function``, which gives an immutable object, called once for each tuple of hashable arguments.

    Arguments that cannot be hashed, such as arrays, are passed on each time.

    Examples
    --------
    >>> @remembered
    ... def double(x):
    ...     print("doubling")
    ...     return 2 * x
    >>> double(1), double(1), double([1])
    doubling
    doubling
    (2, 2, [1, 1])
    """
    cached = functools.lru_cache(maxsize=64, typed=True)(function)

    @functools.wraps(function)
    def call(*args):
        try:
            return cached(*args)
        except TypeError:  # not hashable, or refused by the function, which then says so again
            return function(*args)

    return call
