"""What a family can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

import flowvae
from flowvae import Config, UserError
from flowvae.config import resolve_config
from flowvae.config.options import options_of
from flowvae.posteriors import PlanarPosterior
from flowvae.registry import FAMILIES, POSTERIORS


def test_sigma_is_a_name_or_a_number():
    for said, expected in (("0.25", 0.25), (0.25, 0.25), ("per_pixel", "per_pixel")):
        config = resolve_config(likelihood="gaussian", sigma=said)
        assert config.model.likelihood.sigma == expected


def test_registry_names_what_it_has():
    assert POSTERIORS["planar"].__name__ == "PlanarPosterior"
    with pytest.raises(ValueError, match="posterior: expected one of .*planar.*, got 'x'"):
        POSTERIORS["x"]
    assert "x" not in POSTERIORS


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_option_has_a_description_and_its_default_is_in_range(kind):
    for name in FAMILIES[kind]:
        options = options_of(kind, name)
        options()
        for option, field in options.model_fields.items():
            assert field.description, f"{kind} {name}: {option}"
            assert not option.startswith("_")


class Tilted(PlanarPosterior):
    """A posterior with an option of its own.

    Args:
        tilt: how much the draws are
            turned.
    """

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        tilt: Annotated[float, Field(gt=0)] = 0.5,
        **others,
    ) -> None:
        super().__init__(in_features, latent_dim, **others)
        self.tilt = tilt


def test_a_class_of_ones_own_brings_options():
    """Those of its base class, too, where it takes ``**others``."""
    config = Config(posterior=Tilted, tilt="0.25", num_flows=1)
    assert config.model.posterior.options() == {
        "tilt": 0.25, "num_flows": 1, "constraint": "paper", "amortized": True,
        "standardized": False, "bound": None,
    }  # fmt: skip
    assert flowvae.build_vae(config, (5,)).posterior_head.tilt == 0.25
    assert resolve_config(**config.model_dump()) == config
    field = options_of("posterior", config.model.posterior.name).model_fields["tilt"]
    assert field.description == "How much the draws are turned."
    with pytest.raises(UserError, match=r"posterior.tilt: .*greater than 0, got -1"):
        config.replace(tilt=-1)
    with pytest.raises(UserError, match="posterior: expected a torch.nn.Module .*, got Path"):
        resolve_config(posterior=Path)
