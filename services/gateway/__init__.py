"""The front door: `python -m services.gateway`."""
