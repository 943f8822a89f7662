"""Every family as a file of ONNX or torch.export, beside the model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowvae
from flowvae.exporting.graphs import Graph, graphs_of, own_copy
from flowvae.exporting.programs import onnx_bytes, recorded, runner_of, torch_bytes
from flowvae.flows.portable import NotPortableError
from flowvae.registry import LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS
from tests.helpers.families import data, model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

KINDS = {"onnx": onnx_bytes, "torch": torch_bytes}


def made(**settings) -> flowvae.VAE:
    """Of images of 5 x 4 pixels, its weights large enough that every part matters."""
    torch.manual_seed(0)
    found = model(shape=(5, 4), dtype=torch.float32, **settings).eval().requires_grad_(False)
    for parameter in found.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return found


def graphs(vae: flowvae.VAE) -> dict[str, Graph]:
    needed, useful = graphs_of(own_copy(vae), "of a test")
    return {graph.name: graph for graph in (*needed, *useful)}


def run(graph: Graph, kind: str, **inputs: torch.Tensor) -> list[list[np.ndarray]]:
    """What the file gives for batches of 1 and 64."""
    runner = runner_of(kind, KINDS[kind](graph, recorded(graph)))
    given = [inputs[name] for name in graph.example]
    return [runner(*(value[:count].numpy() for value in given)) for count in (1, 64)]


def assert_alike(found: list[list[np.ndarray]], expected: tuple[torch.Tensor, ...]) -> None:
    for count, arrays in zip((1, 64), found, strict=True):
        for a, b in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(a, b[:count].numpy(), rtol=1e-5, atol=1e-5)


def check_posterior(vae: flowvae.VAE, kind: str) -> None:
    x, eps = data(vae, 64), torch.randn(64, vae.latent_dim)
    parts, q = graphs(vae), vae.posterior(x)
    tensors = q.tensors()
    assert all(len(value) == 64 for value in tensors.values())
    assert_alike(run(parts["encode"], kind, x=x), tuple(tensors.values()))
    z, log_base, ladj = q.at_noise(eps)
    found = run(parts["flow"], kind, eps=eps, **tensors)
    assert_alike(found, (z, log_base - ladj))
    # A batch of one has no neighbours: the first datum alone.
    assert found[0][0].shape == (1, vae.latent_dim)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_encoder_and_flow_of_every_posterior(posterior, kind):
    check_posterior(made(posterior=posterior), kind)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_parameters_that_all_data_share(posterior):
    check_posterior(made(posterior=posterior, amortized=False), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"num_flows": 0},
        {"posterior": "iaf", "num_flows": 0},
        {"standardized": True, "bound": 1.0, "latent_dim": 1},
        {"posterior": "full_gaussian", "latent_dim": 1},
    ],
)
def test_what_is_at_the_edge(settings):
    check_posterior(made(**settings), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_encoder_and_decoder_of_every_likelihood_and_network(likelihood, network):
    if likelihood == "mixed" and network != "mlp":
        pytest.skip("a table is no image")
    vae = made(likelihood=likelihood, network=network)
    x, z = data(vae, 64), torch.randn(64, vae.latent_dim)
    parts, p = graphs(vae), vae.decode(z)
    assert_alike(run(parts["encode"], "onnx", x=x), tuple(vae.posterior(x).tensors().values()))
    found = run(parts["decode"], "onnx", z=z)
    assert_alike(found, tuple({**p.tensors(), "mean": p.mean}.values()))
    mean = dict(zip(parts["decode"].outputs, found[1], strict=True))["mean"]
    np.testing.assert_allclose(mean, p.mean.numpy(), rtol=1e-5, atol=1e-5)


def test_what_the_decoder_says_is_enough_for_log_p_of_x():
    """By the formulas of the documents, in numpy."""
    vae = made()
    x, z = data(vae, 5), torch.randn(5, vae.latent_dim)
    logits = vae.decode(z).tensors()["logits"].double().numpy()
    log_p = (x.numpy() * logits - np.logaddexp(0, logits)).sum(-1)
    np.testing.assert_allclose(log_p, vae.decode(z).log_prob(x).numpy(), rtol=1e-5)
    vae = made(likelihood="gaussian", sigma="per_pixel")
    found = {k: v.double().numpy() for k, v in vae.decode(z).tensors().items()}
    each = ((x.numpy() - found["mean"]) / np.exp(found["log_sigma"])) ** 2 + np.log(2 * np.pi)
    log_p = (-0.5 * each - found["log_sigma"]).sum(-1)
    np.testing.assert_allclose(log_p, vae.decode(z).log_prob(x).numpy(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior(prior):
    vae = made(prior=prior, posterior="iaf" if prior == "vampprior" else "planar")
    z = torch.randn(64, vae.latent_dim)
    parts = graphs(vae)
    assert_alike(run(parts["log_prior"], "onnx", z=z), (vae.prior().log_prob(z),))
    uniform = torch.linspace(0, 1, 65)[:64]
    found = run(parts["prior"], "onnx", eps=z, uniform=uniform)
    p = vae.prior()
    if "uniform" not in parts["prior"].example:
        assert_alike(found, (p.at_noise(z).z,))
        return
    # Component m is chosen where u lies between the sums of the weights before it and with it.
    sums = np.cumsum(p.log_weights.exp().double().numpy())
    index = torch.from_numpy(np.searchsorted(sums, uniform.numpy(), side="right"))
    tensors = {name: value[index] for name, value in p.components.tensors().items()}
    assert len(set(index.tolist())) == len(sums)
    assert_alike(found, (p.components.with_tensors(tensors).at_noise(z).z,))


@pytest.mark.parametrize("posterior", ["planar", "full_gaussian"])
def test_a_density_that_has_no_such_form_says_why(posterior):
    parts = graphs(made(prior="vampprior", posterior=posterior))
    with pytest.raises(NotPortableError, match=r"no fixed length|triangular solution"):
        recorded(parts["log_prior"])
    recorded(parts["prior"])


def test_reflections_one_by_one_are_the_product():
    from flowvae.flows import HouseholderTransform
    from flowvae.flows.portable import only_portable

    v, z = torch.randn(7, 4, 3).double(), torch.randn(2, 7, 3).double()
    v[2, 1] = 0  # the identity
    transform = HouseholderTransform(v)
    expected = transform.forward_and_ladj(z)[0], transform.inverse_and_ladj(z)[0]
    with only_portable():
        torch.testing.assert_close(transform.forward_and_ladj(z)[0], expected[0])
        torch.testing.assert_close(transform.inverse_and_ladj(z)[0], expected[1])
