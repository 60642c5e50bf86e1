"""Payloads too large for an event: claim-checked by content."""
