"""The variational autoencoder: the one place that knows the order of the parts.

x → encoder → features → posterior → q(z|x) → z, log q → prior → p(z), decoder → likelihood → p(x|z)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from flowvae.data.conditions import encode_condition
from flowvae.distributions import FlowSample, LatentDistribution
from flowvae.likelihoods import ValueDistribution, observed_log_prob
from flowvae.missingness import SelfMasking
from flowvae.networks.inputs import RowEncoder, pairs
from flowvae.parts import Posterior, Prior, PriorOfPosterior
from flowvae.precision import at_least_float32, network_products
from flowvae.processes import whole_batch
from flowvae.refinement import refine
from flowvae.row_shapes import RowShapes
from flowvae.terms import ElboTerms

if TYPE_CHECKING:
    from flowvae.data.columns import Column

__all__ = ["VAE"]

# Decoded values held at once when many z are decoded. On a CPU they should stay in its cache, 4 MiB
# of float32; elsewhere large kernels are better.
_DECODED_AT_ONCE = {"cpu": 2**20}
_DECODED_AT_ONCE_ELSEWHERE = 2**25


class VAE(RowShapes, nn.Module):
    """A variational autoencoder put together from its parts.

    Args:
        encoder: (B, P) -> (B, H); of a conditional model (B, P + C) -> (B, H).
        posterior_head: (B, H) -> q(z|x), see :class:`Posterior`.
        prior: () -> p(z), see :class:`Prior` and :class:`PriorOfPosterior`.
        decoder: (..., D), or (..., D + C), -> the likelihood's parameters,
            (..., likelihood.num_outputs(P)).
        likelihood: those -> p(x|z).
        latent_dim: D.
        data_shape: shape of one datum, such as (28, 28); P is its product.
        columns: of a table, what the P values of a row mean.
        condition: what the C numbers mean that the model is conditioned on; none if it is not.
        missing: whether values may be missing, NaN: log p(x|z) is then of the others alone.
        classifier: (B, P) -> (B, K) logits of q(y|x), where the condition is one of K classes.
        missingness: why values are missing, where they are not so at random: log p(x|z) is then
            log p(x_obs, s|z), s which values are there.

    All densities are in nats per datum. Data lives in the likelihood's support, as (B, P) or
    (B, *data_shape). A conditional model is q(z|x, y), p(z|y) and p(x|z, y), and takes the
    condition y as a further argument, or beside the values in rows (B, P + C): see :meth:`rows`.

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
        condition: Sequence[Column] | None = None,
        missing: bool = False,
        classifier: nn.Module | None = None,
        missingness: SelfMasking | None = None,
    ) -> None:
        super().__init__()
        if missingness is not None and not missing:
            raise ValueError("missingness: expected missing=True beside it, got missing=False")
        self.encoder = encoder
        self.posterior_head = posterior_head
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.data_shape = tuple(data_shape)
        self.columns = None if columns is None else tuple(columns)
        self.condition = None if condition is None else tuple(condition)
        self.missing = missing
        self.classifier = classifier
        self.missingness = missingness
        if isinstance(prior, PriorOfPosterior):
            prior.bind(self.posterior)

    def posterior(self, x: Tensor, condition: Any = None) -> LatentDistribution:
        """q(z|x) for data x (B, P): a distribution with batch shape (B,) and event shape (D,)."""
        x = self.rows(x, condition)
        with network_products(x.device):
            features = self.encoder(x)
        return self.posterior_head(at_least_float32(features))

    def posteriors(
        self, values: Float[Tensor, "B P"], conditions: Float[Tensor, "K C"]
    ) -> LatentDistribution:
        """q(z|x, y) of every datum under every condition, of batch (B · K,), y the faster."""
        if not isinstance(self.encoder, RowEncoder):
            return self.posterior(pairs(values, conditions))
        with network_products(values.device):
            features = self.encoder.of_pairs(values, conditions)
        return self.posterior_head(at_least_float32(features.flatten(0, 1)))

    def prior_at(self, x: Tensor) -> LatentDistribution:
        """p(z), or for rows x (B, P + C) p(z|y), of batch (B,) if it depends on y."""
        return self.prior_given(self.parts(x)[1])

    def prior_given(self, condition: Tensor | None) -> LatentDistribution:
        """p(z|y) for y (..., C), encoded; p(z) where the prior does not depend on it."""
        if condition is None or not getattr(self.prior, "conditional", False):
            return self.prior()
        return self.prior(condition)  # pyright: ignore[reportCallIssue]

    def decode(
        self, z: Float[Tensor, "*batch D"], condition: Float[Tensor, "*#batch C"] | None = None
    ) -> Distribution:
        """p(x|z) for z (..., D), or p(x|z, y) for y (..., C), encoded."""
        if self.condition is not None:
            if condition is None:
                encode_condition(self.condition, None)  # says what is expected
            else:
                z = torch.cat([z, condition.to(z).expand(*z.shape[:-1], -1)], -1)
        with network_products(z.device):
            parameters = self.decoder(z)
        return self.likelihood(at_least_float32(parameters))

    def log_likelihood(self, x: Tensor, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """Log p(x|z) for rows x (B, R) at z (..., B, D), over the values that are there."""
        values, condition = self.parts(x)
        return self.log_prob_there(self.decode(z, condition), values)

    def log_prob_there(self, p: Distribution, values: Tensor) -> Tensor:
        """Log p(x|z) by p = p(x|z), of the values that are there; or log p(x_obs, s|z)."""
        return self.observed(p, values)[0] if self.missing else p.log_prob(values)

    def observed(self, p: Distribution, values: Tensor) -> tuple[Tensor, Distribution]:
        """Log p(x_obs|z), or log p(x_obs, s|z), by p = p(x|z); and p(x_j|z) of what is missing."""
        found = observed_log_prob(p, values)
        if self.missingness is None:
            return found, p
        log_mask, given_missing = self.missingness.at(p, values)
        return found + log_mask, given_missing

    def given_missing(self, p: Distribution) -> Distribution:
        """p(x_j|z) of values that are missing, from p = p(x|z): p itself if missing at random."""
        return p if self.missingness is None else self.missingness.given_missing(p)

    def log_joint(self, x: Tensor, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """Log p(x, z) for rows x (B, R) at z (..., B, D), in nats; given y, if there is one."""
        return self.log_likelihood(x, z) + self.prior_at(x).log_prob(z)

    def log_joint_pairs(
        self, x: Float[Tensor, "B R"], z: Float[Tensor, "G D"]
    ) -> Float[Tensor, "B G"]:
        """Log p(x, z) for every x at every z, in nats; each z is decoded once for a condition."""
        values, condition = self.parts(x)
        if condition is None:
            return self._pairs(values, z, None)
        found = x.new_empty(len(x), len(z))
        different, of = condition.unique(dim=0, return_inverse=True)
        for k, each in enumerate(different):
            own = (of == k).nonzero().flatten()
            found[own] = self._pairs(values[own], z, each)
        return found

    def _pairs(self, values: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        p, log_prior = self.decode(z, condition), self.prior_given(condition).log_prob(z)
        if isinstance(p, ValueDistribution):
            of_all = p.log_prob_pairs_observed if self.missing else p.log_prob_pairs
            found = of_all(values) + log_prior
            return found if self.missingness is None else found + self.missingness.pairs(p, values)
        return torch.stack([p.log_prob(row.expand(len(z), -1)) for row in values]) + log_prior

    def elbo_terms(
        self, x: Tensor, samples: int = 1, generator: torch.Generator | None = None
    ) -> ElboTerms:
        """The four terms of the ELBO for data x (B, P) at S sampled z each: (S, B), in nats."""
        x = self.flatten(x)
        return self._terms(self.posterior(x), x, samples, generator)

    def terms_at(self, x: Float[Tensor, "B R"], sample: FlowSample) -> ElboTerms:
        """The four terms at z that were drawn already, (S, B, D): each (S, B), in nats."""
        z, log_base, ladj = sample
        fit, log_prior = self.log_likelihood(x, z), self.prior_at(x).log_prob(z)
        return ElboTerms(fit, log_prior, log_base, ladj)

    def elbo(
        self,
        x: Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        *,
        condition: Any = None,
    ) -> Float[Tensor, " B"]:
        """E_q[log p(x, z) - log q(z|x)] by S samples of z: (B,), nats per datum.

        A lower bound of log p(x) in expectation. The encoder runs once for all S samples.
        """
        x = self.rows(x, condition)
        weights = self._over_chunks(x, samples, generator, lambda t: t.log_weight.sum(0))
        return torch.stack(weights).sum(0) / samples

    def iw_bound(
        self,
        x: Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        *,
        condition: Any = None,
    ) -> Float[Tensor, " B"]:
        """The importance-weighted bound on log p(x): (B,), nats per datum.

        log 1/S Σ_s p(x, z_s) / q(z_s|x),  z_s ~ q(z|x): the ELBO at S = 1, log p(x) as S → ∞.

        Source: "Importance Weighted Autoencoders", arXiv 1509.00519, eq. 8.
        """
        x = self.rows(x, condition)
        sums = self._over_chunks(x, samples, generator, lambda t: t.log_weight.logsumexp(0))
        return torch.stack(sums).logsumexp(0) - math.log(samples)

    log_prob = iw_bound  # its name until version 0.1

    def refine(self, x: Tensor, *, condition: Any = None, **options: Any) -> LatentDistribution:
        """q(z|x) after some steps of optimization: see :func:`flowvae.refinement.refine`."""
        return refine(self, self.rows(x, condition), **options)

    def sample(
        self, n: int, generator: torch.Generator | None = None, *, condition: Any = None
    ) -> Float[Tensor, "n P"]:
        """Generate: the means of p(x|z) at n draws z ~ p(z), (n, P), all under the condition."""
        z, given = self.draw_prior(n, generator, condition)
        return self.decode(z, given).mean

    def prior_draws(
        self, x: Tensor, n: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n D"]:
        """n draws z ~ p(z); of a conditional model under the conditions of rows x in turn."""
        p = self.prior_at(x)
        if not p.batch_shape:
            return p.rsample((n,), generator)
        return self.prior_at(x[torch.arange(n, device=x.device) % len(x)]).rsample((), generator)

    def draw_prior(
        self, n: int, generator: torch.Generator | None = None, condition: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """n draws z ~ p(z|y), (n, D), and y for each of them, (n, C)."""
        if self.condition is None and condition is None:
            return self.prior().rsample((n,), generator), None
        given = encode_condition(self.condition, condition, n).to(next(self.parameters()))
        p = self.prior_given(given)
        return p.rsample(() if p.batch_shape else (n,), generator), given

    @torch.no_grad()
    def draw(
        self,
        z: Float[Tensor, "*batch D"],
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "*batch P"]:
        """One draw x ~ p(x|z) at each z (..., D), or p(x|z, y) for y (..., C), encoded.

        ``generator`` may be the one that z came from: x is drawn from what follows in its stream.
        A likelihood that draws from torch's global random state gets a seed from the generator, and
        the state is left as it was.
        """
        p = self.decode(z, condition)
        if isinstance(p, ValueDistribution):
            return p.sample(generator=generator)
        if generator is None:
            return p.sample()
        seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        with torch.random.fork_rng(devices=[z.device] if z.device.type == "cuda" else []):
            torch.manual_seed(int(seed))
            return p.sample()

    def reconstruct(
        self, x: Tensor, generator: torch.Generator | None = None, *, condition: Any = None
    ) -> Float[Tensor, "B P"]:
        """Encode, flow, decode: the mean of p(x|z) at one draw z ~ q(z|x), (B, P).

        Under another ``condition`` than that of rows x (B, P + C), the datum is rewritten: z, and
        with it what the condition does not say, such as the style of a digit, stays.
        """
        rows = self.flatten(x) if condition is None or self.is_rows(x) else self.rows(x, condition)
        z = self.posterior(rows).rsample((), generator)
        given = self.parts(rows)[1]
        if condition is not None:
            given = encode_condition(self.condition, condition, len(rows)).to(z)
        return self.decode(z, given).mean

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
        each = 1 if self.missingness is None else self.missingness.numbers_per_value
        return max(1, values // max(1, count * max(self.data_dim * each, self._widest)))

    @cached_property
    def _widest(self) -> int:
        """Outputs of the decoder's widest linear layer: of few values the layers take more room."""
        layers = (module for module in self.decoder.modules() if isinstance(module, nn.Linear))
        return max((layer.out_features for layer in layers), default=1)

    def _over_chunks(
        self,
        x: Tensor,
        samples: int,
        generator: torch.Generator | None,
        reduce: Callable[[ElboTerms], Tensor],
    ) -> list[Tensor]:
        return [reduce(terms) for terms in self.term_chunks(x, samples, generator)]
