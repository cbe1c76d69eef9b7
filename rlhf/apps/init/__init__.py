"""`rlhf init`: from five answers to a config."""
