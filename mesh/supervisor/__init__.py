"""The local processes of `mesh up`."""
