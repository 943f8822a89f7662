"""The parts of a model that are exported, each a module of tensors to tensors.

Noise is always an input: what draws inside a graph differs from one runtime to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowvae.distributions import LatentDistribution, MixtureDistribution
from flowvae.errors import UserError
from flowvae.likelihoods import ValueDistribution
from flowvae.parts import PriorOfPosterior
from flowvae.vae import VAE

__all__ = ["Graph", "Port", "graphs_of", "own_copy"]

_BATCH = 2  # of the tensors that a graph is recorded with: at 1 PyTorch takes B for a constant

# What a tensor is. Those of a family of one's own have no line here.
_MEANINGS = {
    "x": "data as the model sees them; see `values` in export.json",
    "condition": "what the model is conditioned on, encoded; see `condition` in export.json",
    "log_q_y": "log q(y|x) of the classes, in the order of `classes` in export.json",
    "mu": "μ of the Gaussian q₀(z|x)",
    "log_var": "log σ² of the Gaussian q₀(z|x)",
    "lower": "N of L = diag(σ) (I + N), strictly lower triangular",
    "w": "directions of the planar flows",
    "u": "shifts of the planar flows: bounded where the run says so, not yet constrained to û",
    "b": "offsets of the flows",
    "centre": "centres of the radial flows",
    "alpha": "widths of the radial flows before softplus",
    "beta": "strengths of the radial flows before softplus",
    "v": "normals of the Householder reflections, of any length",
    "off_diagonal": "R above its diagonal, R̃ transposed below it",
    "diag_1": "the diagonal of R before tanh",
    "diag_2": "the diagonal of R̃ before tanh",
    "vectors": "what the orthogonal matrices Q are made of",
    "context": "the encoder's features, which the networks of the flows see",
    "eps": "noise, to be drawn from N(0, I)",
    "uniform": "noise, to be drawn from U[0, 1): chooses a component of the mixture",
    "z": "a point of the latent space",
    "log_q": "log q(z|x) at this z, in nats",
    "log_p": "log p(z), in nats",
    "mean": "E[x|z]",
    "logits": "log-odds of the values",
    "log_sigma": "log σ of the Gaussian values",
    "log_rate": "log λ of the Poisson values",
    "log_mean": "log μ of the negative binomial values",
    "log_r": "log r of the negative binomial values",
    "log_probabilities": "log-probabilities of the categories, (B, C, P)",
    "log_weights": "log-weights of the logistic components, (B, n, P)",
    "loc": "means of the logistic components, (B, n, P)",
    "scale": "scales of the logistic components, (B, n, P)",
    "outputs": "m of numeric columns, logits of the others",
}


@dataclass(frozen=True)
class Port:
    """An input or an output: a name, its shape with None for the batch, and what it is."""

    name: str
    shape: tuple[int | None, ...]

    @property
    def meaning(self) -> str:
        return _MEANINGS.get(self.name, "")


@dataclass(frozen=True)
class Graph:
    """One thing to export.

    Args:
        name: of its file.
        module: positional tensors, batch first, to a tuple of tensors.
        example: the inputs by name, in order, at a small batch.
        outputs: names in order.
    """

    name: str
    module: nn.Module
    example: Mapping[str, Tensor]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> list[Port]:
        return [Port(name, (None, *value.shape[1:])) for name, value in self.example.items()]

    @torch.no_grad()
    def output_ports(self) -> list[Port]:
        found = self.module(*self.example.values())
        pairs = zip(self.outputs, found, strict=True)
        return [Port(name, (None, *value.shape[1:])) for name, value in pairs]


# A condition comes last, and of an unconditional model it is not there: hence the stars.


class _Encode(nn.Module):
    """x, and a condition -> the tensors that q(z|x) is made of."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = _keeping(model, "encoder", "posterior_head")

    def forward(self, x: Tensor, *condition: Tensor) -> tuple[Tensor, ...]:
        rows = torch.cat([x, *condition], -1) if condition else x
        return tuple(self.model.posterior(rows).tensors().values())


class _Classify(nn.Module):
    """x -> log q(y|x)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.classifier(x).log_softmax(-1),)


class _Flow(nn.Module):
    """ε and those tensors -> z and log q(z|x)."""

    def __init__(self, model: VAE, q: LatentDistribution) -> None:
        super().__init__()
        self.head = model.posterior_head  # whose weights are part of some flows
        self.q, self.names = q, tuple(q.tensors())

    def forward(self, eps: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        q = self.q.with_tensors(dict(zip(self.names, tensors, strict=True)))
        z, log_base, ladj = q.at_noise(eps)
        return z, log_base - ladj


class _Decode(nn.Module):
    """z, and a condition -> the parameters of p(x|z), and its mean."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = _keeping(model, "decoder", "likelihood")

    def named(self, z: Tensor, *condition: Tensor) -> dict[str, Tensor]:
        p = self.model.decode(z, *condition)
        found = p.tensors() if isinstance(p, ValueDistribution) else {}
        return {**found, "mean": p.mean}

    def forward(self, z: Tensor, *condition: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(z, *condition).values())


class _Prior(nn.Module):
    """ε, and a condition that p(z) depends on -> z ~ p(z)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.prior = model.prior

    def forward(self, eps: Tensor, *condition: Tensor) -> tuple[Tensor]:
        return (self.prior(*condition).at_noise(eps).z,)


class _MixturePrior(nn.Module):
    """ε and u -> z ~ p(z): u chooses the component. Those of a VampPrior are kept, not x."""

    edges: Tensor

    def __init__(self, model: VAE, p: MixtureDistribution) -> None:
        super().__init__()
        self.head = model.posterior_head
        self.components, tensors = p.components, p.components.tensors()
        for name, value in tensors.items():
            self.register_buffer(f"component_{name}", value)
        self.names = tuple(tensors)
        self.register_buffer("edges", p.log_weights.double().exp().cumsum(0)[:-1].float())

    def forward(self, eps: Tensor, uniform: Tensor) -> tuple[Tensor]:
        index = (uniform.unsqueeze(-1) >= self.edges).long().sum(-1)
        chosen = {name: getattr(self, f"component_{name}")[index] for name in self.names}
        return (self.components.with_tensors(chosen).at_noise(eps).z,)


class _ConditionalMixturePrior(nn.Module):
    """ε, u and a condition, on which the weights depend -> z ~ p(z)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.prior = model.prior

    def forward(self, eps: Tensor, uniform: Tensor, condition: Tensor) -> tuple[Tensor]:
        p = self.prior(condition)  # pyright: ignore[reportCallIssue]
        edges = p.log_weights.exp().cumsum(-1)[..., :-1]
        index = (uniform.unsqueeze(-1) >= edges).long().sum(-1)
        chosen = {name: value[index] for name, value in p.components.tensors().items()}
        return (p.components.with_tensors(chosen).at_noise(eps).z,)


class _LogPrior(nn.Module):
    """z, and a condition that p(z) depends on -> log p(z)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        posteriors = isinstance(model.prior, PriorOfPosterior)
        needed = ("encoder", "posterior_head") if posteriors else ()
        self.model = _keeping(model, "prior", *needed)

    def forward(self, z: Tensor, *condition: Tensor) -> tuple[Tensor]:
        return (self.model.prior(*condition).log_prob(z),)


def _keeping(model: VAE, *names: str) -> VAE:
    """The same model with these modules alone: a file has no weights that it does not use."""
    part = copy.copy(model)
    part._modules = {name: model._modules[name] for name in names}
    return part


def own_copy(model: VAE) -> VAE:
    """A copy on the CPU in float32, for use alone; each tensor has its memory to itself."""
    found = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    for value in (*found.parameters(), *found.buffers()):
        value.data = value.data.clone()
    return found


@torch.no_grad()
def graphs_of(model: VAE, posterior: str) -> tuple[list[Graph], list[Graph]]:
    """What is exported of a model, and what is left out where it cannot be.

    Args:
        model: on the CPU, in float32.
        posterior: the family's name, for messages.

    Raises:
        UserError: the posterior does not say what it is made of.
    """
    D, C = model.latent_dim, model.condition_dim
    x, eps, z = torch.zeros(_BATCH, model.data_dim), torch.zeros(_BATCH, D), torch.zeros(_BATCH, D)
    given = {"condition": torch.zeros(_BATCH, C)} if C else {}
    encode = _Encode(model)
    q = model.posterior(torch.cat([x, *given.values()], -1))
    try:
        tensors = q.tensors()
    except (NotImplementedError, AttributeError):
        raise UserError(
            f"export: posterior {posterior} gives a {type(q).__name__}, which does not say what it "
            "is made of; it needs the methods tensors and with_tensors, and at_noise"
        ) from None
    decode = _Decode(model)
    needed = [
        Graph("encode", encode, {"x": x, **given}, tuple(tensors)),
        Graph("flow", _Flow(model, q), {"eps": eps, **tensors}, ("z", "log_q")),
        Graph("decode", decode, {"z": z, **given}, tuple(decode.named(z, *given.values()))),
    ]
    if model.classifier is not None:
        needed.append(Graph("classify", _Classify(model.classifier), {"x": x}, ("log_q_y",)))
    if not getattr(model.prior, "conditional", False):
        given = {}
    p, prior_example = model.prior(*given.values()), {"eps": eps}
    prior: nn.Module = _Prior(model)
    if isinstance(p, MixtureDistribution):
        prior = _ConditionalMixturePrior(model) if given else _MixturePrior(model, p)
        prior_example["uniform"] = torch.zeros(_BATCH)
    useful = [
        Graph("prior", prior, {**prior_example, **given}, ("z",)),
        Graph("log_prior", _LogPrior(model), {"z": z, **given}, ("log_p",)),
    ]
    return needed, useful
