"""`rlhf doctor`: whether this machine, a checkpoint and a config's files are fit for a run."""
