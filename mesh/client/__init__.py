"""Submit, watch and cancel tasks from Python."""
