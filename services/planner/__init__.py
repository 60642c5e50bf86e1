"""First agent of the cited brief: splits the question, has each aspect read, joins the notes."""
