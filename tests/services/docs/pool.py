"""A pool keeps several workers and restarts those that crash."""


def drain(pool: object) -> None:
    """Drain the pool.

    Every worker of the pool finishes its job before the pool stops.
    """
    # A crashed worker is never drained because it holds no job any more.
    raise ValueError("A failed job is retried in a string that is no docstring.", pool)
