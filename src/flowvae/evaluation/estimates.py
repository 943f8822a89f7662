"""The ELBO, its terms and the importance-weighted bound, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.data import Split
from flowvae.errors import shown
from flowvae.likelihoods import measure_of
from flowvae.processes import part_of_batch, summed
from flowvae.refined import RefinedVAE
from flowvae.terms import ElboTerms
from flowvae.vae import VAE


def ignore(count: int | float) -> None:
    """Show no progress."""
    del count


_TERMS = ("elbo", "log_likelihood", "kl", "log_prior", "log_base", "ladj", "iw_bound")

__all__ = ["Estimate", "Evaluation", "encode_split", "evaluate_model", "per_datum"]


@dataclass(frozen=True)
class Estimate:
    """A mean over data and its standard error, in nats per datum; one datum has no error."""

    mean: float
    standard_error: float | None

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Mean and standard error (sample deviation / √N) of one value per datum."""
        values = values.double()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(values.mean().item(), error)

    def __str__(self) -> str:
        return self.shown(2)

    def shown(self, digits: int) -> str:
        """As text; says where there is no error to state."""
        error = self.standard_error
        error = "no standard error: one datum" if error is None else f"± {error:.{digits}f}"
        return f"{self.mean:.{digits}f} {error}"


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_model` found, with what is needed to read it rightly.

    Args:
        terms: ``elbo``, ``log_likelihood`` (E log p(x|z)), ``kl`` (KL(q ‖ p(z)) by Monte Carlo),
            ``log_prior``, ``log_base`` (E log q₀), ``ladj`` (E Σ ladj_k) and ``iw_bound`` (the
            S-sample importance-weighted bound on log p(x)); nats per datum over the data.
        samples: S, draws of z per datum.
        count: N, the number of data.
        seed: of the draws.
        data: name of what was evaluated on.
        binarization: its policy.
        pseudo_likelihood: grey pixels under a Bernoulli likelihood: not to be compared with
            results on binary pixels.
        refine: steps by which q(z|x) was refined for each datum; none if 0.
        refined: the same terms of the refined posterior.
        conditional: all of it is of log p(x|y), under each datum's own condition.
        missing_not_at_random: it is of log p(x_obs, s), s which values are there.
    """

    terms: dict[str, Estimate]
    samples: int
    count: int
    seed: int
    data: str
    binarization: str
    pseudo_likelihood: bool
    refine: int = 0
    refined: dict[str, Estimate] | None = None
    conditional: bool = False
    missing_not_at_random: bool = False
    split: str = "test"
    unit: str = "nats per datum, mean and standard error over the data"

    def __getitem__(self, name: str) -> Estimate:
        return self.terms[name]

    @property
    def of(self) -> str:
        """What the bound is a bound on."""
        x = "x_obs, s" if self.missing_not_at_random else "x"
        return f"log p({x}|y)" if self.conditional else f"log p({x})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Evaluation:
        read = dict(fields)
        for key in ("terms", "refined"):
            if read.get(key) is not None:
                read[key] = {name: Estimate(**value) for name, value in read[key].items()}
                for name in _TERMS:
                    mean = getattr(read[key].get(name), "mean", None)
                    if not isinstance(mean, int | float):
                        raise ValueError(f"{key}: {name}: expected a number, got {shown(mean)}")
        return cls(**read)


@torch.no_grad()
def encode_split(
    model: VAE, split: Split, generator: torch.Generator, batch_size: int = 1000
) -> tuple[Tensor, Tensor]:
    """One draw z ~ q(z|x) for every datum, (N, D), and log q(z|x), (N,), in nats; on the CPU."""
    device = next(model.parameters()).device
    z, log_q = torch.empty(len(split), model.latent_dim), torch.empty(len(split))
    batch_size = min(batch_size, model.draws_at_once())
    for start in range(0, len(split), batch_size):
        place = slice(start, start + batch_size)
        q = model.posterior(split.rows(place).to(device))
        z[place], log_q[place] = q.rsample_and_log_prob((), generator)
    return z, log_q


@torch.no_grad()
def per_datum(
    model: VAE,
    split: Split,
    samples: int,
    generator: torch.Generator,
    batch_size: int = 500,
    advance: Callable[[int], None] = ignore,
) -> dict[str, Tensor]:
    """Every term of :class:`Evaluation` for every datum: name -> (N,), float64 on the CPU.

    ELBO and bound share their S draws; the encoder runs once per datum. ``advance`` is called
    with the number of data done since the last call. Of several processes each evaluates its slice
    of every batch, and all get all values.
    """
    device = next(model.parameters()).device
    # Written in place: small results kept between the large tensors of the batches broke up the
    # heap, and a process on a million data grew to 10 GiB.
    names = [*ElboTerms(*[torch.empty(1, 0)] * 4).means(), "iw_bound"]
    found = torch.zeros(len(names), len(split), dtype=torch.float64)
    batch_size = min(batch_size, model.draws_at_once())
    for start in range(0, len(split), batch_size):
        count = min(batch_size, len(split) - start)
        with part_of_batch(count) as mine:
            place = slice(start + mine.start, start + mine.stop)
            if place.start == place.stop:  # fewer data than processes
                continue
            x = split.rows(place).to(device)
            values = _terms_and_bound(model, x, samples, generator)
            found[:, place] = torch.stack([values[name] for name in names]).cpu().double()
        advance(count)
    return dict(zip(names, summed(found), strict=True))  # zeros are what other processes found


def _terms_and_bound(
    model: VAE, x: Tensor, samples: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """For a batch (B, P): name -> (B,)."""
    sums: dict[str, Tensor] = {}
    log_sum = torch.full((len(x),), -math.inf, device=x.device)
    for terms in model.term_chunks(x, samples, generator):
        for name, mean in terms.means().items():
            sums[name] = sums.get(name, 0) + mean * len(terms.log_weight)
        log_sum = torch.logaddexp(log_sum, terms.log_weight.logsumexp(0))
    values = {name: total / samples for name, total in sums.items()}
    return values | {"iw_bound": log_sum - math.log(samples)}


def evaluate_model(
    model: VAE,
    split: Split,
    samples: int = 200,
    *,
    seed: int = 0,
    data: str = "arrays",
    binarization: str = "none",
    pseudo_likelihood: bool | None = None,
    refine: int = 0,
    advance: Callable[[int], None] = ignore,
) -> Evaluation:
    """Estimate the ELBO, its terms and the importance-weighted bound on a data split.

    z is always sampled from q(z|x): with z = μ the result would be no bound at all.

    Args:
        model: the model; it is evaluated where its parameters are.
        split: the data.
        samples: S ≥ 1 draws of z per datum.
        seed: of those draws.
        data: its name, recorded in the result.
        binarization: its policy, likewise.
        pseudo_likelihood: whether it has grey pixels; found from the data if not given.
        refine: also evaluate the posterior after so many steps of :meth:`VAE.refine`.
        advance: called with the number of data done since the last call; each counts twice where
            the posterior is refined, too.

    Examples:
        >>> import torch
        >>> from flowvae import build_vae, preset
        >>> from flowvae.data import Split
        >>> model = build_vae(preset("original"), data_shape=(6, 5))
        >>> result = evaluate_model(model, Split(torch.rand(20, 30)), samples=8)
        >>> result["iw_bound"].mean >= result["elbo"].mean, result.pseudo_likelihood
        (True, True)
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    models = [model, RefinedVAE(model, steps=refine)] if refine else [model]
    try:
        found = [
            per_datum(each, split, samples, generator.manual_seed(seed), advance=advance)
            for each in models
        ]
    finally:
        model.train(training)
    terms, *refined = (
        {name: Estimate.of(value) for name, value in values.items()} for values in found
    )
    if pseudo_likelihood is None:
        measure = measure_of(model.likelihood, split.is_binary())
        pseudo_likelihood = measure == "pseudo-likelihood"
    return Evaluation(
        terms=terms,
        samples=samples,
        count=len(split),
        seed=seed,
        data=data,
        binarization=binarization,
        pseudo_likelihood=pseudo_likelihood,
        refine=refine,
        refined=refined[0] if refined else None,
        conditional=model.condition is not None,
        missing_not_at_random=model.missingness is not None,
    )
