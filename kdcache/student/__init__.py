"""The student's stages: initialisation by skipped layers, and distillation from a cache."""
