"""Objectives: the ELBO's terms -> a scalar to minimise, and the estimator of its gradient.

With S draws z_s ~ q(z|x) per datum, ℓ_s = log p(x|z_s) + log p(z_s) - log q(z_s|x), and w̃_s the
weights exp ℓ_s, normalised to sum to one:

    elbo   L = 1/S Σ_s ℓ_s                       ∇L as it stands
    stl    the same L                            log q's parameters held fixed: path gradient alone
    iwae   L_S = log 1/S Σ_s exp ℓ_s             ∇L_S as it stands, Σ_s w̃_s ∇ℓ_s
    dreg   the same L_S                          through z: Σ_s w̃_s² (∂ℓ_s/∂z_s) ∇z_s

All four are unbiased for the gradient of their own bound. stl drops a term whose mean is zero; at
q = p(z|x) what is left has no variance at all. dreg does to iwae what stl does to elbo, and its
signal does not drown in noise as S grows.

Sources: "Importance Weighted Autoencoders", arXiv 1509.00519; "Sticking the Landing: Simple,
Lower-Variance Gradient Estimators for Variational Inference", arXiv 1703.09194; "Doubly
Reparameterized Gradient Estimators for Monte Carlo Objectives", arXiv 1810.04152.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from flowvae.config.options import Part, PositiveInt, build
from flowvae.distributions import LatentDistribution
from flowvae.errors import UserError
from flowvae.processes import batch_mean, noise_of_batch, summed
from flowvae.registry import OBJECTIVES
from flowvae.terms import ElboTerms
from flowvae.vae import VAE

__all__ = ["Dreg", "Elbo", "Iwae", "Objective", "Stl", "Warmup", "build_objective"]

Weight = float | Tensor
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Warmup:
    """A weight that goes to 1 linearly over the first steps:  β_t = β_0 + (1 - β_0) min(1, t / N).

    ``kind`` says what it multiplies: ``"kl"`` the KL (Bowman et al. 2016, arXiv 1511.06349;
    Sønderby et al. 2016, arXiv 1602.02282), or, in Rezende & Mohamed's ``"tempering"``
    (arXiv 1505.05770, eq. 20), log p(x, z_K). Theirs, β_t = min(1, 0.01 + t / 10,000), is
    β_0 = 0.01 and N = 9,900.

    Examples:
        >>> ramp = Warmup("kl", steps=100, start=0.5)
        >>> ramp.weight(0), ramp.weight(50), ramp.weight(1000)
        (0.5, 0.75, 1.0)
        >>> Warmup("kl", steps=100, start=4.0).weight(50)
        2.5
        >>> import torch
        >>> ramp.weight(torch.tensor(50))
        tensor(0.7500)
    """

    kind: Literal["kl", "tempering"]
    steps: int
    start: float = 0.01

    def weight(self, step: int | Tensor) -> Weight:
        """β_t after ``step`` optimizer steps.

        A 0-d tensor gives a tensor, without reading it: a captured CUDA graph replays the ramp.
        """
        slope = (1 - self.start) / self.steps
        if isinstance(step, Tensor):
            weight = self.start + slope * step
            return weight.clamp(max=1.0) if self.start <= 1 else weight.clamp(min=1.0)
        nearest = min if self.start <= 1 else max
        return nearest(1.0, self.start + slope * step)


class Objective:
    """What is minimised in training, for one batch: built from a configuration, then called.

    Args:
        samples: S ≥ 1 draws of z per datum.
        beta: weight of the KL, as of a β-VAE; the bound holds at 1 only.
        free_bits: nats of KL per datum, mean over the batch, below which the KL is not reduced:
            max(λ, mean KL) in place of the KL. The KL of a flow posterior has no parts by
            dimension, so all of z is one group of "Improved Variational Inference with Inverse
            Autoregressive Flow", arXiv 1606.04934, appendix C.8. Under tempering by β_t it is
            the KL itself that is compared with λ, and (1 - β_t) E log p(z) is added to the larger.
        warmup: a schedule, or none.
        encoder_dropout: share of the values of x that the encoder does not see in training, drawn
            anew each time; the others are divided by 1 - p, or, in a model of missing values, these
            are among the missing ones. The likelihood sees all of x, so what
            is maximised is still a bound. An encoder that has learned single data by heart makes
            most of the gap on new ones: "Generalization Gap in Amortized Inference", arXiv
            2205.11640; "Denoising Criterion for Variational Auto-Encoding Framework", arXiv
            1511.06406.

    Raises:
        ValueError: a value out of range, or free bits with an importance-weighted bound, which
            has no KL.

    Examples:
        >>> import torch, flowvae
        >>> from flowvae.objectives import Stl
        >>> model = flowvae.build_vae(flowvae.preset("original"), data_shape=(6, 5))
        >>> loss, terms = Stl(samples=4)(model, torch.rand(8, 30))
        >>> loss.shape, terms.log_weight.shape
        (torch.Size([]), torch.Size([4, 8]))
    """

    path_gradient: ClassVar[bool]
    importance_weighted: ClassVar[bool]
    # Whether it learns from data without a label, too; then the model has a classifier q(y|x).
    semi_supervised: ClassVar[bool] = False
    # Further figures of an epoch: their names, and sums over data and the number of data of each.
    reported: ClassVar[tuple[str, ...]] = ()
    sums: Tensor | None = None
    labelled_batch = 0  # data with a label that each batch has beside its own

    def __init__(
        self,
        samples: int = 1,
        beta: float = 1.0,
        free_bits: float = 0.0,
        warmup: Warmup | None = None,
        encoder_dropout: float = 0.0,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples: expected at least 1, got {samples}")
        for name, value in (("beta", beta), ("free_bits", free_bits)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        if free_bits > 0 and self.importance_weighted:
            raise ValueError(
                f"free_bits: expected 0 with objective {type(self).__name__}, whose bound has no "
                f"KL, got {free_bits}"
            )
        if not 0 <= encoder_dropout < 1:
            raise ValueError(f"encoder_dropout: expected a number in [0, 1), got {encoder_dropout}")
        self.samples, self.beta, self.free_bits, self.warmup = samples, beta, free_bits, warmup
        self.encoder_dropout = encoder_dropout

    @classmethod
    def build(
        cls,
        steps_per_epoch: int,
        samples: PositiveInt = 1,
        beta: NotNegative = 1.0,
        free_bits: NotNegative = 0.0,
        warmup: Literal["none", "kl", "tempering"] = "none",
        warmup_start: Annotated[float, Field(ge=0, le=1)] = 0.01,
        warmup_epochs: Annotated[float, Field(gt=0)] = 100.0,
        warmup_steps: PositiveInt | None = None,
        encoder_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> Objective:
        """From the options of a configuration.

        Args:
            steps_per_epoch: updates in an epoch.
            samples: S, draws of z per datum in training.
            beta: weight of the KL; 1 is the ELBO.
            free_bits: nats of KL per datum, mean over the batch, that are free.
            warmup: what grows from warmup_start to 1: the KL's weight, or that of log p(x, z).
            warmup_start: the weight at the first step.
            warmup_epochs: length of the warm-up in epochs.
            warmup_steps: its length in steps, instead of epochs.
            encoder_dropout: share of x's values that the encoder does not see in training.
        """
        ramp = None
        if warmup != "none":
            steps = warmup_steps or math.ceil(warmup_epochs * steps_per_epoch)
            ramp = Warmup(warmup, steps, warmup_start)
        return cls(samples, beta, free_bits, ramp, encoder_dropout)

    def check(self, model: VAE) -> None:
        """Check that the model's posterior has what this estimator needs.

        Raises:
            UserError: the posterior lacks the ``log_prob`` at given z that a path gradient needs.
        """
        if not self.path_gradient:
            return
        parameter = next(model.parameters())
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                q = model.posterior(parameter.new_zeros(1, model.row_dim))
                self._log_q(q, q.rsample((1,), torch.Generator(parameter.device)))
        finally:
            model.train(training)

    def forget(self) -> None:
        """Begin an epoch: what is reported is a mean over it."""
        if self.sums is not None:
            self.sums.zero_()

    def report(self) -> dict[str, float]:
        """The further figures of the epoch so far, by name; those of all processes' data."""
        if self.sums is None:
            return {}
        total, count = summed(self.sums).unbind(-1)
        return dict(zip(self.reported, (total / count).tolist(), strict=True))

    def __call__(
        self,
        model: VAE,
        x: Tensor,
        generator: torch.Generator | None = None,
        step: int | Tensor = 0,
    ) -> tuple[Tensor, ElboTerms]:
        """The loss of a batch and the terms it came from.

        Args:
            model: the model.
            x: (B, P), or (B, *data_shape).
            generator: of the draws of z.
            step: optimizer steps done so far, an int or a 0-d tensor on the device.

        Returns:
            The scalar to minimise, in nats per datum (of several processes each has its part of
            it, see :func:`flowvae.processes.batch_mean`), and the terms at the S draws, (S, B),
            detached and without any weight: ``terms.log_weight.mean()`` is the ELBO whatever was
            minimised.
        """
        x = model.flatten(x)
        q = model.posterior(seen_of(model, x, self.encoder_dropout, generator))
        sample = q.rsample_terms((self.samples,), generator)
        terms = model.terms_at(x, sample)
        joint, beta = self._weights(step)
        log_q = self._log_q(q, sample.z) if self.path_gradient else sample.log_base - sample.ladj
        fit = _times(joint, terms.log_likelihood)
        kl = log_q - terms.log_prior
        # The KL has log p(z_K) whole; what tempering takes off it is added beside the KL.
        off = terms.log_prior - _times(joint, terms.log_prior)
        if self.importance_weighted:
            log_weight = fit - beta * (kl + off)
            if self.path_gradient and sample.z.requires_grad:
                _weigh_twice(sample.z, log_weight.detach(), beta)
            loss = math.log(self.samples) - batch_mean(log_weight.logsumexp(0))
        else:
            mean_kl = batch_mean(kl)
            if self.free_bits > 0:
                enough = summed(mean_kl.detach()) > self.free_bits
                mean_kl = torch.where(enough, mean_kl, self.free_bits)
            loss = _times(beta, mean_kl + batch_mean(off)) - batch_mean(fit)
        return loss, ElboTerms(*(term.detach() for term in terms))

    def _weights(self, step: int | Tensor) -> tuple[Weight, Weight]:
        """What multiplies log p(x, z), and what multiplies the KL."""
        if self.warmup is None:
            return 1.0, self.beta
        weight = self.warmup.weight(step)
        return (1.0, self.beta * weight) if self.warmup.kind == "kl" else (weight, self.beta)

    def _log_q(self, q: LatentDistribution, z: Tensor) -> Tensor:
        """Log q(z|x) as a function of z alone, its parameters held fixed."""
        try:
            return q.detached().log_prob(z)
        except NotImplementedError as error:
            names = {entry: name for name, entry in OBJECTIVES.items()}
            raise UserError(
                f"objective: {names.get(type(self), type(self).__name__)} needs a posterior with "
                f"log_prob at given z and detached(), {type(q).__name__} has not"
                f"{f' ({error})' if str(error) else ''}; expected another objective or posterior"
            ) from None


class Elbo(Objective):
    """The evidence lower bound, and its gradient as it stands."""

    path_gradient, importance_weighted = False, False


class Stl(Objective):
    """The evidence lower bound, by path gradients ("sticking the landing", arXiv 1703.09194).

    ∇_φ E_q[ℓ] = E[(∂ℓ/∂z) ∇_φ z] - E_q[∇_φ log q(z)], and the last mean is zero: it is dropped.
    ∂ log q/∂z of a planar posterior comes from its exact inverse. Carrying it forward by Sherman
    and Morrison's formula ("Gradients should stay on Path", arXiv 2207.08219, "Fast and unified
    path gradient estimators for normalizing flows", arXiv 2403.15881) was measured to be twice as
    slow with many flows and about as fast with few; see docs/benchmarks.md.
    """

    path_gradient, importance_weighted = True, False


class Iwae(Objective):
    """The importance-weighted bound L_S, and its gradient as it stands (arXiv 1509.00519)."""

    path_gradient, importance_weighted = False, True
    without_options = frozenset({"free_bits"})  # the bound has no KL


class Dreg(Objective):
    """The importance-weighted bound L_S, doubly reparametrized (arXiv 1810.04152).

    The decoder's and the prior's gradient is that of ``iwae``; what reaches the encoder through
    z_s is weighted by w̃_s² in place of w̃_s, and log q's parameters are held fixed.
    """

    path_gradient, importance_weighted = True, True
    without_options = frozenset({"free_bits"})  # the bound has no KL


def build_objective(objective: Part, steps_per_epoch: int) -> Objective:
    """The objective a configuration names; a warm-up's length in epochs becomes one in steps.

    Examples:
        >>> from flowvae import Config
        >>> config = Config(warmup="kl", warmup_epochs=2)
        >>> build_objective(config.objective, steps_per_epoch=600).warmup
        Warmup(kind='kl', steps=1200, start=0.01)
    """
    return build("objective", objective, steps_per_epoch=steps_per_epoch)


def seen_of(model: VAE, rows: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
    """What a network sees of rows (B, R) under dropout of their values, their condition kept.

    The other values are divided by 1 - p; in a model of missing values, those not seen are missing
    and the others as they are.
    """
    if dropout == 0:
        return rows
    options: Any = {"generator": generator, "dtype": rows.dtype, "device": rows.device}
    values, condition = model.parts(rows)
    seen = noise_of_batch(values.shape, 0, lambda whole: torch.rand(whole, **options)) >= dropout
    scaled = values / (1 - dropout)
    values = torch.where(seen, values, math.nan) if model.missing else scaled * seen
    return values if condition is None else torch.cat([values, condition], -1)


def _times(weight: Weight, term: Tensor) -> Tensor:
    """Their product; nothing to do where the weight is plainly 1, as it mostly is."""
    return term if isinstance(weight, float) and weight == 1.0 else weight * term


def _weigh_twice(z: Tensor, log_weight: Tensor, beta: Weight) -> None:
    """In the backward pass, multiply ∂L_S/∂z_s = w̃_s ∂ℓ_s/∂z_s by w̃_s once more.

    With a KL weighted by β the dropped score term is β w̃_s ∇ log q, whose mean is that of
    β (w̃_s - w̃_s²) (∂ℓ_s/∂z_s) ∇z_s: so the factor is 1 - β (1 - w̃_s), which is w̃_s at β = 1.
    """
    factor = (1 - beta * (1 - log_weight.softmax(0))).unsqueeze(-1)
    z.register_hook(lambda gradient: factor * gradient)
