"""What a run needs around the maths: its directory, checkpoints, metrics, devices and processes."""
