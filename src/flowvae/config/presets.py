"""Named starting values."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

# What the measured presets share, whatever the posterior; docs/training.md says what each is for.
_TRAINED_WELL: dict[str, Any] = {
    "learning_rate": 0.002,
    "schedule": "cosine",
    "averaging": 0.999,
    "decoder_gain": 3.0,
    "max_grad_ratio": 3.0,
}

_PLANAR: dict[str, Any] = {
    "posterior": "planar",
    "num_flows": 16,
    "constraint": "centred",
    "standardized": True,
    "bound": 1.0,
    **_TRAINED_WELL,
}

_DEEP: dict[str, Any] = {
    **_PLANAR,
    "hidden_dims": (500, 500),
    "learning_rate": 0.003,
    "averaging": 0.998,
}

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "original": ("The tutorial's settings: planar flows, K = 3, paper constraint.", {}),
    "gaussian": (
        "The tutorial's networks, trained well: averaged weights, a rate that falls to zero.",
        {"posterior": "gaussian", **_TRAINED_WELL},
    ),
    "planar": (
        "The same with K = 16 planar flows on the noise, none expanding space without bound.",
        _PLANAR,
    ),
    "best": (
        "The flows of 'planar' with deeper networks: the best known here with D = 2.",
        {**_DEEP, "epochs": 80},
    ),
    "quick": (
        "The same networks and flows in 12 short epochs: larger batches, a rate that rises first.",
        {
            **_DEEP,
            "epochs": 12,
            "batch_size": 200,
            "schedule": "one_cycle",
            "averaging": 0.99,
        },
    ),
}
