"""Named starting values."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "original": ("The tutorial's settings: planar flows, K = 3, paper constraint.", {}),
    "gaussian": ("The same with a plain Gaussian posterior.", {"posterior": "gaussian"}),
    "planar": (
        "The same with K = 16, centred constraint and gradients clipped to 50.",
        {"num_flows": 16, "constraint": "centred", "max_grad_norm": 50.0},
    ),
}
