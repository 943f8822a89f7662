"""Families that are not in the repository: one class, and the commands take it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flowvae
from flowvae.cli import main
from flowvae.distributions import DiagonalGaussian, LatentDistribution
from flowvae.flows import Bijection
from flowvae.posteriors import FlowPosterior
from flowvae.registry import POSTERIORS, PRIORS


class Shift(Bijection):
    layered: ClassVar = {"shift": 1}

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.shift = shift

    def forward_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z + self.shift.sum(-2), z.new_zeros(z.shape[:-1])

    def inverse_and_ladj(self, z_K: Tensor) -> tuple[Tensor, Tensor]:
        return z_K - self.shift.sum(-2), z_K.new_zeros(z_K.shape[:-1])


class ShiftPosterior(FlowPosterior):
    """K translations: a family outside the repository."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"shift": (self.num_flows, self.latent_dim)}

    def bijection(self, *parameters: Tensor) -> Shift:
        return Shift(*parameters)


class WidePrior(nn.Module):
    """N(0, 4 I)."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> LatentDistribution:
        return DiagonalGaussian(self.loc, self.loc + math.log(4))


def test_a_family_registered_on_the_fly_trains_from_the_command_line(
    data_file: Path, tmp_path: Path, monkeypatch, capsys
):
    """One class and one line: the flag, the training, the evaluation and the pictures follow."""
    for registry, name, family in (
        (POSTERIORS, "shift", ShiftPosterior),
        (PRIORS, "wide", WidePrior),
    ):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        registry.register(name, family)
    run = tmp_path / "run"
    arguments = ["train", "--posterior", "shift", "--prior", "wide", "--data", data_file]
    arguments += ["--epochs", 1, "--hidden-dims", 16, "--evaluation-samples", 4, "--out", run]
    main([*map(str, arguments), "--quiet"])
    assert json.loads((run / "environment.json").read_text())["status"] == "finished"
    assert (run / "figures" / "posterior.png").exists()
    assert isinstance(flowvae.load(run).posterior_head, ShiftPosterior)
    main(["evaluate", str(run), "--samples", "8"])
    assert "8-sample bound" in capsys.readouterr().out
    main(["sample", str(run), "--num", "3", "--out", str(tmp_path / "x.npz")])
    array = np.load(tmp_path / "x.npz")["x"]
    assert array.shape == (3, 6, 5)
    monkeypatch.undo()
    with pytest.raises(SystemExit):
        main(["evaluate", str(run)])
    assert "posterior: expected one of" in capsys.readouterr().err


FAMILY_OF_ONES_OWN = """
from flowvae.networks import MLP

class Mine(MLP):
    @classmethod
    def encoder(cls, data_shape, width: int = 3):
        return cls(30, [width], "tanh")
"""


def test_a_class_of_ones_own_needs_no_registration(data_file, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_networks.py").write_text(FAMILY_OF_ONES_OWN)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    arguments = ["train", "--network", "my_networks:Mine", "--data", data_file, "--epochs", 1]
    arguments += ["--width", 7, "--evaluation-samples", 2, "--out", run, "--quiet"]
    main([*map(str, arguments)])
    with pytest.raises(flowvae.UserError, match="the module my_networks would be imported"):
        flowvae.load(run)
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(run)])
    assert stop.value.code == 2
    assert "--trust" in capsys.readouterr().err
    main(["sample", str(run), "--trust"])
    assert flowvae.load(run, trust=True).encoder.out_features == 7
    for name, message in (("my_networks:Other", "no attribute"), ("absent_module:A", "No module")):
        with pytest.raises(SystemExit) as stop:
            main(["train", "--network", name, "--out", str(tmp_path / "no"), "--quiet"])
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert f"network: cannot import {name}: " in shown
        assert message in shown
        assert not (tmp_path / "no").exists()
