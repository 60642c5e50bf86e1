"""Relay Mesh: independent agent services that hand work to one another."""
