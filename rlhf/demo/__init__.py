"""The small world behind configs/tiny.yaml and --rehearse: corpus, models, simulated annotators."""
