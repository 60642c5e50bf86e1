"""Spans and metrics: names in one place, shapes from the messaging conventions."""
