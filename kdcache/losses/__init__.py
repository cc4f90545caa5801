"""Teacher logits to sparse targets, and sparse targets to losses. Pure torch: no files, no tasks."""
