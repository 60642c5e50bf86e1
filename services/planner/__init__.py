"""First agent of the cited brief: splits the question and ranks passages."""
