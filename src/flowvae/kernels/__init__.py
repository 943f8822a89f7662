"""Compiled code: what is general here, and a folder for each operator made of it."""
