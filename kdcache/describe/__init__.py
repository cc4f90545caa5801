"""Looking into a cache (no torch) or a dataset."""
