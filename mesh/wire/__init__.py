"""Envelopes and states as bytes."""
