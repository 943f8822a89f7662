"""Images in a grid."""

from __future__ import annotations

import numpy as np

from flowvae.figures.images import _channels_last, _tile


def test_tiles_lie_in_order():
    images = np.arange(6)[:, None, None] * np.ones((6, 2, 3))
    tiled = _tile(images, 2, 3)
    assert tiled[::2, ::3].tolist() == [[0, 1, 2], [3, 4, 5]]
    colour = np.zeros((2, 3, 7, 9))
    assert _channels_last(colour).shape == (2, 7, 9, 3)
    assert _channels_last(np.zeros((2, 7, 9, 1))).shape == (2, 7, 9)
