"""The pure heart: values in, values out. No IO, no clock, no randomness."""
