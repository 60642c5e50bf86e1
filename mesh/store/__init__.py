"""The persisted history and its projections."""
