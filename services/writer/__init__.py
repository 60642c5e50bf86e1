"""Third agent of the cited brief: composes the Markdown."""
