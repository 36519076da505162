"""Anything that generates text, behind one protocol."""
