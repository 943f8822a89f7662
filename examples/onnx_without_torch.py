"""A flowvae model without PyTorch: numpy and onnxruntime alone.

    flowvae export runs/… --out exported
    python -m examples.onnx_without_torch exported x.npy

encodes the data of ``x.npy`` (N, P), prints the importance-weighted bound on log p(x) where the
likelihood is Bernoulli and the error of a reconstruction under any, and draws from the model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Exported:
    """The parts of an export, each a function of arrays to arrays by name.

    Args:
        folder: that ``flowvae export`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "export.json").read_text("utf-8"))
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(folder / Path(graph["file"]).name), providers=["CPUExecutionProvider"]
            )
            for name, graph in self.about["graphs"].items()
        }

    def __call__(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        session = self._sessions[name]
        given = {each.name: inputs[each.name].astype(np.float32) for each in session.get_inputs()}
        outputs = [each.name for each in session.get_outputs()]
        return dict(zip(outputs, map(np.asarray, session.run(outputs, given)), strict=True))

    def of_class(self, name: str, count: int) -> dict[str, np.ndarray]:
        """The condition of a class, which the methods of a conditional model take: (count, C)."""
        column, classes = self.about["condition"]["columns"][0], self.about["condition"]["classes"]
        place = classes.index(name)
        row = [float(place)] if column["kind"] == "binary" else np.eye(len(classes))[place]
        return {"condition": np.tile(np.asarray(row, np.float32), (count, 1))}

    def sample(self, count: int, rng: np.random.Generator, **condition: np.ndarray) -> np.ndarray:
        """Means of p(x|z) at draws z ~ p(z), (count, P)."""
        D = self.about["latent_dim"]
        noise = {"eps": rng.standard_normal((count, D)), "uniform": rng.random(count)}
        return self("decode", **self("prior", **noise, **condition), **condition)["mean"]

    def reconstruct(
        self, x: np.ndarray, rng: np.random.Generator, **condition: np.ndarray
    ) -> np.ndarray:
        """The mean of p(x|z) at one draw z ~ q(z|x), (B, P)."""
        eps = rng.standard_normal((len(x), self.about["latent_dim"]))
        z = self("flow", eps=eps, **self("encode", x=x, **condition))["z"]
        return self("decode", z=z, **condition)["mean"]

    def iw_bound(
        self, x: np.ndarray, samples: int, rng: np.random.Generator, **condition: np.ndarray
    ) -> np.ndarray:
        """log 1/S Σ_s p(x, z_s) / q(z_s|x), z_s ~ q(z|x), of a Bernoulli likelihood: (B,), in nats.

        Args:
            x: (B, P).
            samples: S.
            rng: of the draws.
            **condition: of a conditional model, ``condition`` (B, C).
        """
        q = self("encode", x=x, **condition)
        log_weights = []
        for _ in range(samples):
            drawn = self("flow", eps=rng.standard_normal((len(x), self.about["latent_dim"])), **q)
            logits = self("decode", z=drawn["z"], **condition)["logits"].astype(np.float64)
            log_likelihood = np.nansum(x * logits - np.logaddexp(0, logits), -1)
            log_prior = self("log_prior", z=drawn["z"], **condition)["log_p"]
            log_weights.append(log_likelihood + log_prior - drawn["log_q"])
        return np.logaddexp.reduce(log_weights, axis=0) - np.log(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="what flowvae export wrote")
    parser.add_argument("data", type=Path, help="an .npy of data as the model sees them, (N, P)")
    parser.add_argument("--samples", type=int, default=64, help="S of the bound")
    parser.add_argument("--class", dest="name", help="of a conditional model, the data's class")
    arguments = parser.parse_args()
    model, rng = Exported(arguments.folder), np.random.default_rng(0)
    x = np.load(arguments.data, allow_pickle=False).astype(np.float32)
    x = x.reshape(len(x), model.about["data_dim"])

    def given(count: int) -> dict[str, np.ndarray]:
        return {} if arguments.name is None else model.of_class(arguments.name, count)

    if model.about["likelihood"]["name"] == "bernoulli":
        bound = model.iw_bound(x, arguments.samples, rng, **given(len(x)))
        print(f"{arguments.samples}-sample bound on log p(x): {bound.mean():.3f} nats per datum")
    error = np.nanmean(np.square(model.reconstruct(x, rng, **given(len(x))) - x))
    print(f"mean squared error of a reconstruction: {error:.4f}")
    drawn = model.sample(4, rng, **given(4))
    print(f"four draws, the mean of each: {drawn.mean(-1).round(3).tolist()}")


if __name__ == "__main__":
    main()
