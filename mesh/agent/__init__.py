"""What agent authors write, and what runs it."""
