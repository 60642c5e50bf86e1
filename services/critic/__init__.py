"""Last agent of the cited brief: checks every quote against its source."""
