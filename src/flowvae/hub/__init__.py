"""Runs on the Hugging Face hub: pushing.py to it, fetching.py from it, card.py what people read."""
