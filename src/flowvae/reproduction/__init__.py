"""Published tables again: their runs, their figures beside ours, a page.

The command line reads this package to answer ``--help``, so it imports no torch.
"""

from flowvae.reproduction.tables import TABLES, Row, Table

__all__ = ["TABLES", "Row", "Table"]
