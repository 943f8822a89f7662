"""Splines are an optional extra."""

from __future__ import annotations

import sys

import pytest

import flowvae


def test_spline_without_zuko_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(flowvae.UserError, match=r"spline needs zuko.*flowvae\[spline\]"):
        flowvae.build_vae(flowvae.Config(posterior="spline"), (4,))
