"""The terms of the ELBO."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["ElboTerms"]


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
