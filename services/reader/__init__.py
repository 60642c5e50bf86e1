"""Second agent of the cited brief: extracts the best sentences."""
