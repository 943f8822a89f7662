"""Public calls at many sizes, to be run where freed memory is unmapped at once (test_memory.py).

A kernel that reads or writes freed memory then dies instead of getting away with it. Prints a
digest of every result, so that two runs can be compared.
"""

from __future__ import annotations

import sys

import torch

import flowvae
from flowvae.data import Dataset
from flowvae.flows import planar_flow, planar_flow_inverse
from flowvae.training import Trainer

BATCHES, SAMPLES = (1, 7, 100, 333, 500, 1000, 5000), (1, 4, 20, 200)
MOST = 20_000  # data times samples in one call


def note(name: str, *values: torch.Tensor) -> None:
    sums = " ".join(f"{value.detach().double().sum().item():.9e}" for value in values)
    print(name, sums)


def model_calls(posterior: str, num_flows: int, repeats: int, threads: int) -> None:
    flows = {} if posterior == "gaussian" else {"num_flows": num_flows}
    config = flowvae.Config(posterior=posterior, hidden_dims=(64,), batch_size=100, seed=1, **flows)
    model = flowvae.build_vae(config, (28, 28))
    generator = torch.Generator().manual_seed(0)
    images = torch.bernoulli(torch.full((5000, 784), 0.2), generator=generator)
    data = Dataset.from_arrays(images[:1000].numpy(), images[:50].numpy())
    trainer = Trainer(model, data, config.training)
    for repeat in range(repeats):
        for B in BATCHES:
            for S in SAMPLES:
                if B * S > MOST:
                    continue
                with torch.no_grad():
                    elbo = model.elbo(images[:B], S, generator)
                    bound = model.iw_bound(images[:B], S, generator)
                    q = model.posterior(images[:B])
                    z = q.rsample((min(S, 4),), generator)
                    note(f"{posterior} {threads} {repeat} {B} {S}", elbo, bound, q.log_prob(z))
            note("reconstruct", model.reconstruct(images[:B], generator))
            note("sample", model.sample(B, generator))
        for _ in trainer.steps():
            pass
        note("trained", *model.parameters())


def flow_calls(repeats: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for repeat in range(repeats):
        for B, K, D, S in ((1, 1, 1, 1), (7, 3, 2, 4), (100, 16, 40, 1), (333, 5, 9, 1),
                           (1000, 8, 17, 3), (5000, 3, 2, 4), (100, 80, 40, 1)):  # fmt: skip
            for dtype in (torch.float32, torch.float64):
                z, w, u, b = (
                    torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
                    for shape in ((S, B, D), (B, K, D), (B, K, D), (B, K))
                )
                for function in (planar_flow, planar_flow_inverse):
                    end, ladj = function(z, w, u, b, "centred")
                    gradients = torch.autograd.grad(end.sum() + ladj.sum(), (z, w, u, b))
                    note(f"flow {repeat} {B} {K} {D} {S}", end, ladj, *gradients)


if __name__ == "__main__":
    count, threads = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    flow_calls(count)
    for family, K in (("planar", 16), ("planar", 3), ("gaussian", 0)):
        model_calls(family, K, count, threads)
    print("done")
