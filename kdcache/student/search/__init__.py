"""`kdcache search`: the study's search over a cache, one run folder a training."""
