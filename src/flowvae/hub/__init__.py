"""Runs on the Hugging Face hub: pushing.py to it, fetching.py from it, card.py what people read.

environment.py is what they are told of how a run was made.
"""
