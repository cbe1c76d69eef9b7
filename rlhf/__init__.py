"""Three-stage RLHF for the Baichuan family. Importing this loads nothing heavy."""
