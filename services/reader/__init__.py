"""Second agent of the cited brief: extracts the sentences about one aspect."""
