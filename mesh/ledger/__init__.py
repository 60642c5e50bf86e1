"""The recorder from log to store, and the queries over it."""
