"""Measurements for who works on glinthawk; those for its users are ``glinthawk bench``."""
