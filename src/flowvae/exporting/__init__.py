"""A trained model for other runtimes: ONNX, or programs of ``torch.export``."""

from flowvae.exporting.export import FORMATS, export

__all__ = ["FORMATS", "export"]
