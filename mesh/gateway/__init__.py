"""The front door's logic, without a transport: submit, watch, cancel, redrive, read."""
