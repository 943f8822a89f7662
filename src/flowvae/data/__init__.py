"""Arrays in: bundled MNIST, files, folders, tables; splits; binarization; batches."""

from flowvae.data.batches import Batches
from flowvae.data.binarization import binarize
from flowvae.data.columns import Column
from flowvae.data.dataset import Dataset, Origin, Split, Statistics
from flowvae.data.load import load_dataset
from flowvae.data.options import Options
from flowvae.data.rows import FileRows
from flowvae.data.tables import decode_table

__all__ = [
    "Batches",
    "Column",
    "Dataset",
    "FileRows",
    "Options",
    "Origin",
    "Split",
    "Statistics",
    "binarize",
    "decode_table",
    "load_dataset",
]
