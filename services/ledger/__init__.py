"""The ledger: records the log in the store, and answers questions about it."""
