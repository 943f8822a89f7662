"""Arrays in: bundled MNIST, IDX files and NumPy files; binarization; batches."""

from flowvae.data.batches import Batches
from flowvae.data.dataset import Dataset, Split, binarize
from flowvae.data.load import load_dataset

__all__ = ["Batches", "Dataset", "Split", "binarize", "load_dataset"]
