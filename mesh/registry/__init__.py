"""Which agents there are, what they accept, and who is alive."""
