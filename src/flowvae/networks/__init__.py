"""Encoders and decoders: data in, features out; z in, the likelihood's parameters out."""

from flowvae.networks.conv import GatedConv
from flowvae.networks.mlp import MLP
from flowvae.networks.resnet import ResNet

__all__ = ["MLP", "GatedConv", "ResNet"]
