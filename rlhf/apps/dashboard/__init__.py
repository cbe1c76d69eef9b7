"""A page to watch runs with, and to talk to what they made."""
