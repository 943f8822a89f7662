"""The variational autoencoder: the one place that knows the order of the parts.

x → encoder → features → posterior → q(z|x) → z, log q → prior → p(z), decoder → likelihood → p(x|z)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from flowvae.config.options import build
from flowvae.distributions import FlowSample, LatentDistribution
from flowvae.likelihoods import ValueDistribution
from flowvae.precision import at_least_float32, network_products
from flowvae.processes import whole_batch
from flowvae.refinement import refine
from flowvae.registry import LIKELIHOODS

if TYPE_CHECKING:
    from flowvae.config import Config
    from flowvae.data.columns import Column

__all__ = [
    "VAE",
    "ElboTerms",
    "Posterior",
    "Prior",
    "PriorOfPosterior",
    "RefinedVAE",
    "build_vae",
]

# Decoded values held at once when many z are decoded. On a CPU they should stay in its cache, 4 MiB
# of float32; elsewhere large kernels are better.
_DECODED_AT_ONCE = {"cpu": 2**20}
_DECODED_AT_ONCE_ELSEWHERE = 2**25


class ElboTerms(NamedTuple):
    """The terms of the ELBO at sampled z, each (S, B), in nats per datum.

    ELBO = log p(x|z_K) + log p(z_K) - log q₀(z₀|x) + Σ_k ladj_k, averaged over S samples.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_base: Tensor
    ladj: Tensor

    @property
    def kl(self) -> Tensor:
        """Log q_K(z_K|x) - log p(z_K): its mean is KL(q ‖ p(z)); a single draw can be negative."""
        return self.log_base - self.ladj - self.log_prior

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z_K) - log q_K(z_K|x): its mean over z is the ELBO."""
        return self.log_likelihood - self.kl

    def means(self) -> dict[str, Tensor]:
        """The terms that are reported, averaged over the S samples, each (B,)."""
        return {
            "elbo": self.log_weight.mean(0),
            "log_likelihood": self.log_likelihood.mean(0),
            "kl": self.kl.mean(0),
            "log_prior": self.log_prior.mean(0),
            "log_base": self.log_base.mean(0),
            "ladj": self.ladj.mean(0),
        }


@runtime_checkable
class Posterior(Protocol):
    """A module that maps features (..., H) to q(z|x), of batch (...) and event (D,)."""

    def __call__(self, features: Tensor, /) -> LatentDistribution: ...


@runtime_checkable
class Prior(Protocol):
    """A module that gives p(z), of event (D,)."""

    def __call__(self) -> LatentDistribution: ...


@runtime_checkable
class PriorOfPosterior(Prior, Protocol):
    """A prior that is made of the posterior, as the VampPrior is."""

    def bind(self, posterior: Callable[[Tensor], LatentDistribution], /) -> None:
        """Take q(z|x), a function of data (B, P)."""
        ...


class VAE(nn.Module):
    """A variational autoencoder put together from its parts.

    Args:
        encoder: (B, P) -> (B, H).
        posterior_head: (B, H) -> q(z|x), see :class:`Posterior`.
        prior: () -> p(z), see :class:`Prior` and :class:`PriorOfPosterior`.
        decoder: (..., D) -> the likelihood's parameters, (..., likelihood.num_outputs(P)).
        likelihood: those -> p(x|z).
        latent_dim: D.
        data_shape: shape of one datum, such as (28, 28); P is its product.
        columns: of a table, what the P values of a row mean.

    All densities are in nats per datum. Data lives in the likelihood's support, as (B, P) or
    (B, *data_shape).

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(28, 28))
        >>> x = torch.rand(8, 784)
        >>> model.elbo(x, samples=4).shape, model.iw_bound(x, samples=16).shape
        (torch.Size([8]), torch.Size([8]))
        >>> model.sample(3).shape
        torch.Size([3, 784])
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior_head: Posterior,
        prior: Prior,
        decoder: nn.Module,
        likelihood: nn.Module,
        *,
        latent_dim: int,
        data_shape: Sequence[int],
        columns: Sequence[Column] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior_head = posterior_head
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.data_shape = tuple(data_shape)
        self.columns = None if columns is None else tuple(columns)
        if isinstance(prior, PriorOfPosterior):
            prior.bind(self.posterior)

    @property
    def data_dim(self) -> int:
        """P, the number of values in one datum."""
        return math.prod(self.data_shape)

    def flatten(self, x: Tensor) -> Float[Tensor, "*batch P"]:
        """X as (..., P), from (..., P) or (..., *data_shape)."""
        P, n = self.data_dim, len(self.data_shape)
        # First, for data of shape (1, W) ends in P both ways.
        if x.dim() > n and tuple(x.shape[-n:]) == self.data_shape:
            return x.flatten(-n)
        # Before the whole shape is compared: an exported program must not depend on what B is.
        if x.dim() >= 1 and x.shape[-1] == P:
            return x
        if x.dim() == n and tuple(x.shape) == self.data_shape:
            return x.flatten(-n)
        raise ValueError(
            f"x: expected shape (..., {P}) or (..., {', '.join(map(str, self.data_shape))}), "
            f"got {tuple(x.shape)}"
        )

    def posterior(self, x: Tensor) -> LatentDistribution:
        """q(z|x) for data x (B, P): a distribution with batch shape (B,) and event shape (D,)."""
        x = self.flatten(x)
        with network_products(x.device):
            features = self.encoder(x)
        return self.posterior_head(at_least_float32(features))

    def decode(self, z: Float[Tensor, "*batch D"]) -> Distribution:
        """p(x|z) for z (..., D)."""
        with network_products(z.device):
            parameters = self.decoder(z)
        return self.likelihood(at_least_float32(parameters))

    def log_joint_pairs(
        self, x: Float[Tensor, "B P"], z: Float[Tensor, "G D"]
    ) -> Float[Tensor, "B G"]:
        """Log p(x, z) for every x at every z, in nats; each z is decoded once."""
        p, log_prior = self.decode(z), self.prior().log_prob(z)
        if isinstance(p, ValueDistribution):
            return p.log_prob_pairs(x) + log_prior
        return torch.stack([p.log_prob(row.expand(len(z), -1)) for row in x]) + log_prior

    def elbo_terms(
        self, x: Tensor, samples: int = 1, generator: torch.Generator | None = None
    ) -> ElboTerms:
        """The four terms of the ELBO for data x (B, P) at S sampled z each: (S, B), in nats."""
        x = self.flatten(x)
        return self._terms(self.posterior(x), x, samples, generator)

    def terms_at(self, x: Float[Tensor, "B P"], sample: FlowSample) -> ElboTerms:
        """The four terms at z that were drawn already, (S, B, D): each (S, B), in nats."""
        z, log_base, ladj = sample
        return ElboTerms(self.decode(z).log_prob(x), self.prior().log_prob(z), log_base, ladj)

    def elbo(
        self, x: Tensor, samples: int = 1, generator: torch.Generator | None = None
    ) -> Float[Tensor, " B"]:
        """E_q[log p(x, z) - log q(z|x)] by S samples of z: (B,), nats per datum.

        A lower bound of log p(x) in expectation. The encoder runs once for all S samples.
        """
        weights = self._over_chunks(x, samples, generator, lambda t: t.log_weight.sum(0))
        return torch.stack(weights).sum(0) / samples

    def iw_bound(
        self, x: Tensor, samples: int = 1, generator: torch.Generator | None = None
    ) -> Float[Tensor, " B"]:
        """The importance-weighted bound on log p(x): (B,), nats per datum.

        log 1/S Σ_s p(x, z_s) / q(z_s|x),  z_s ~ q(z|x): the ELBO at S = 1, log p(x) as S → ∞.

        Source: "Importance Weighted Autoencoders", arXiv 1509.00519, eq. 8.
        """
        sums = self._over_chunks(x, samples, generator, lambda t: t.log_weight.logsumexp(0))
        return torch.stack(sums).logsumexp(0) - math.log(samples)

    log_prob = iw_bound  # its name until version 0.1

    def refine(self, x: Tensor, **options: Any) -> LatentDistribution:
        """q(z|x) after some steps of optimization: see :func:`flowvae.refinement.refine`."""
        return refine(self, x, **options)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n P"]:
        """Generate: the means of p(x|z) at n draws z ~ p(z), (n, P)."""
        return self.decode(self.prior().rsample((n,), generator)).mean

    @torch.no_grad()
    def draw(
        self, z: Float[Tensor, "*batch D"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch P"]:
        """One draw x ~ p(x|z) at each z (..., D).

        ``generator`` may be the one that z came from: x is drawn from what follows in its stream.
        A likelihood that draws from torch's global random state gets a seed from the generator, and
        the state is left as it was.
        """
        p = self.decode(z)
        if isinstance(p, ValueDistribution):
            return p.sample(generator=generator)
        if generator is None:
            return p.sample()
        seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
            torch.manual_seed(int(seed))
            return p.sample()

    def reconstruct(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B P"]:
        """Encode, flow, decode: the mean of p(x|z) at one draw z ~ q(z|x), (B, P)."""
        return self.decode(self.posterior(x).rsample((), generator)).mean

    def forward(self, x: Tensor) -> ElboTerms:
        return self.elbo_terms(x)

    def _terms(
        self,
        q: LatentDistribution,
        x: Tensor,
        samples: int,
        generator: torch.Generator | None,
    ) -> ElboTerms:
        return self.terms_at(x, q.rsample_terms((samples,), generator))

    def term_chunks(
        self, x: Tensor, samples: int, generator: torch.Generator | None = None
    ) -> Iterator[ElboTerms]:
        """The terms at S samples, a bounded number of samples at a time; one encoder pass."""
        if samples < 1:
            raise ValueError(f"samples: expected at least 1, got {samples}")
        x = self.flatten(x)
        q = self.posterior(x)
        chunk = self.draws_at_once(whole_batch(len(x)))
        for start in range(0, samples, chunk):
            yield self._terms(q, x, min(chunk, samples - start), generator)

    def draws_at_once(self, count: int = 1) -> int:
        """How many z to decode at once for each of ``count`` data, so that memory stays bounded."""
        device = next(self.parameters()).device.type
        values = _DECODED_AT_ONCE.get(device, _DECODED_AT_ONCE_ELSEWHERE)
        return max(1, values // max(1, count * self.data_dim))

    def _over_chunks(
        self,
        x: Tensor,
        samples: int,
        generator: torch.Generator | None,
        reduce: Callable[[ElboTerms], Tensor],
    ) -> list[Tensor]:
        return [reduce(terms) for terms in self.term_chunks(x, samples, generator)]


class RefinedVAE(VAE):
    """The same model, its modules shared, whose q(z|x) is refined for each datum.

    Bounds, estimators, reconstructions and pictures are then of the refined posterior.

    Args:
        model: the model.
        **options: of :func:`flowvae.refinement.refine`.

    Examples:
        >>> import torch, flowvae
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5)).eval()
        >>> RefinedVAE(model, steps=4).elbo(torch.rand(3, 30), samples=100).shape
        torch.Size([3])
    """

    def __init__(self, model: VAE, **options: Any) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(model))
        self._refined = partial(refine, model, **options)

    def posterior(self, x: Tensor) -> LatentDistribution:
        return self._refined(x)


def build_vae(
    config: Config,
    data_shape: Sequence[int],
    seed: int | None = None,
    columns: Sequence[Column] | None = None,
) -> VAE:
    """The model a configuration describes, for data of this shape, freshly initialised.

    Args:
        config: its families are looked up in :mod:`flowvae.registry`.
        data_shape: shape of one datum.
        seed: of the initial weights; ``config.seed`` if not given. torch's global random state
            is left as it was.
        columns: of a table, what the values of a row mean; kept with the model.
    """
    P, described = math.prod(data_shape), config.model
    D, network = described.latent_dim, described.network
    support = LIKELIHOODS[described.likelihood.name].support
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed if seed is None else seed)
        encoder = build("network", network, maker="encoder", data_shape=data_shape)
        posterior_head = build(
            "posterior", described.posterior, in_features=encoder.out_features, latent_dim=D
        )
        prior = build(
            "prior",
            described.prior,
            latent_dim=D,
            data_dim=P,
            to_support=support.from_real,
        )
        likelihood = build("likelihood", described.likelihood, columns=columns)
        decoder = build(
            "network",
            network,
            maker="decoder",
            latent_dim=D,
            data_shape=data_shape,
            num_outputs=likelihood.num_outputs(P),
        )
        if likelihood.encoder_input is not None:
            encoder = nn.Sequential(_Elementwise(likelihood.encoder_input), encoder)
    return VAE(
        encoder,
        posterior_head,
        prior,
        decoder,
        likelihood,
        latent_dim=D,
        data_shape=data_shape,
        columns=columns,
    )


class _Elementwise(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
