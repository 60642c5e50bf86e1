"""Rebuild and trace: what a history shows."""
