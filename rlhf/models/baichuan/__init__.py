"""The Baichuan family, natively: no remote code."""
