"""A page in which a person explores a run: one HTML file, for any browser, without a server."""

from flowvae.explorer.explore import Explorer, explore

__all__ = ["Explorer", "explore"]
