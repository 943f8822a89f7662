"""Published tables again: their runs, their figures beside ours, a page.

The command line reads this package to answer ``--help``, so it imports no torch.
"""

from flowvae.reproduction.description import Row, Table
from flowvae.reproduction.tables import TABLES

__all__ = ["TABLES", "Row", "Table"]
