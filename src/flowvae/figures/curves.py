"""Learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from flowvae.figures.style import BLUE, ORANGE, new_figure
from flowvae.progress import elbo_name

__all__ = ["learning_curves"]


def learning_curves(
    metrics: Sequence[dict[str, float]], *, pseudo_likelihood: bool = False
) -> Figure:
    """ELBO and its terms against epochs, training (running mean) and test data.

    Args:
        metrics: the rows of ``metrics.csv``, see :attr:`flowvae.Run.metrics`.
        pseudo_likelihood: label the ELBO as one of grey pixels.
    """
    panels = [
        ("elbo", elbo_name(pseudo_likelihood)),
        ("log_likelihood", "E log p(x|z)" + (", grey pixels" if pseudo_likelihood else "")),
        ("kl", "KL(q ‖ p(z))"),
        ("ladj", "E Σ log|det| of the flows"),
    ]
    figure = new_figure(10, 6.4)
    epochs = [row["epoch"] for row in metrics]
    for axes, (term, title) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for split, color, dashes in (("train", BLUE, "-"), ("test", ORANGE, "--")):
            values = [row[f"{split}_{term}"] for row in metrics]
            marker = "o" if len(epochs) == 1 else None
            axes.plot(epochs, values, dashes, color=color, label=split, marker=marker)
        if term in ("elbo", "log_likelihood") and len(epochs) > 10:
            # The first epochs would flatten the rest.
            shown = [row[f"{split}_{term}"] for row in metrics[2:] for split in ("train", "test")]
            margin = 0.05 * (max(shown) - min(shown))
            axes.set_ylim(min(shown) - margin, max(shown) + margin)
        axes.set(title=title, xlabel="epoch", ylabel="nats per datum")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure
