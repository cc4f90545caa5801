"""A dataset's YAML and its files, or the Hub, to examples. No tokenizer, no torch."""
