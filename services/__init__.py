"""Independent agent services, one folder each."""
