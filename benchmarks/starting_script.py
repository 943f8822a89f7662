"""What training cost in the tutorial "Variational Autoencoder with Planar Flows".

Its program, written afresh from its description: its loader (one picture at a time through PIL, no
workers), its layers, its flow one layer at a time and its loop, corrected only so far as to run and
to train: the flow composes, the objective has its missing terms, tensors follow the input's device.
Nothing here is used by flowvae.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

__all__ = ["StartingScript"]

HIDDEN, D, K, BATCH = 500, 2, 3, 100


class _Pictures(Dataset):
    """What its data set and ToTensor do, one picture at a time."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = np.array(Image.fromarray(self.pixels[i]), np.uint8, copy=True)
        tensor = torch.from_numpy(picture).view(28, 28, 1).permute(2, 0, 1).contiguous()
        return tensor.to(torch.get_default_dtype()).div(255), int(self.labels[i])


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(784, HIDDEN), nn.Linear(HIDDEN, 784)
        self.mean, self.logvar = nn.Linear(HIDDEN, D), nn.Linear(HIDDEN, D)
        self.w, self.u = nn.Linear(HIDDEN, D * K), nn.Linear(HIDDEN, D * K)
        self.b, self.latent = nn.Linear(HIDDEN, K), nn.Linear(D, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """-ELBO, summed over the batch."""
        x = x.view(-1, 784)
        h, B = functional.relu(self.hidden(x)), len(x)
        mu, logvar = self.mean(h), self.logvar(h)
        w, u = self.w(h).view(B, K, 1, D), self.u(h).view(B, K, D, 1)
        b = self.b(h).view(B, K, 1, 1)
        eps = torch.randn_like(mu)
        z = (eps * torch.exp(0.5 * logvar) + mu).unsqueeze(2)
        ladj_sum = torch.zeros((B, 1), device=x.device)
        for k in range(K):
            w_k, u_k, b_k = w[:, k], u[:, k], b[:, k]
            uw = torch.bmm(w_k, u_k)
            m_uw = -1 + functional.softplus(uw)
            u_hat = (
                u_k + (m_uw - uw) * w_k.transpose(2, 1) / torch.norm(w_k, dim=2, keepdim=True) ** 2
            )
            a = torch.bmm(w_k, z) + b_k
            z = z + u_hat * torch.tanh(a)
            slope = 1 - torch.tanh(a) ** 2
            ladj_sum += (1 + torch.bmm(slope * w_k, u_hat)).abs().add(1e-8).log().squeeze(2)
        z = z.squeeze(2)
        recon = torch.sigmoid(self.out(torch.relu(self.latent(z))))
        log_q0 = -0.5 * (D * math.log(2 * math.pi) + logvar.sum(1) + eps.square().sum(1))
        log_p = -0.5 * (D * math.log(2 * math.pi) + z.square().sum(1))
        fit = functional.binary_cross_entropy(recon, x, reduction="sum")
        return fit + (log_q0 - ladj_sum.squeeze(1) - log_p).sum()


class StartingScript:
    """Its model and its loop."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, device: str) -> None:
        self.device, self.count = device, len(pixels)
        self.model = _Model().to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, weight_decay=1e-5)
        self.loader = DataLoader(_Pictures(pixels, labels), batch_size=BATCH, shuffle=True)

    def epoch(self) -> float:
        """Train for one more epoch: the mean loss per picture."""
        total = 0.0
        for x, _ in self.loader:
            loss = self.model(x.to(self.device)) / len(x)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(x)
        return total / self.count

    @torch.no_grad()
    def elbo(self, x: Tensor) -> float:
        """The mean ELBO of data (N, 784), by one draw of z each."""
        return -sum(self.model(part).item() for part in x.split(1000)) / len(x)
