"""The teacher's stages: fine-tuning, and the one run that fills the cache."""
