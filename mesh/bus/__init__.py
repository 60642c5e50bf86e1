"""The log and the bus, which are one thing."""
