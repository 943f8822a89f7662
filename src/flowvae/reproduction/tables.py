"""The tables of ``flowvae reproduce``: their rows, what is published, how it is measured.

Must not import torch: the command line reads this file to answer ``--help``.
"""

from __future__ import annotations

from flowvae.reproduction.description import Measure, Row, Table

__all__ = ["TABLES"]

_NEGATIVE_ELBO = Measure("−ELBO", ("terms", "elbo"), -1)
_FLOWS = {"posterior": "planar", "constraint": "centred", "standardized": True, "bound": 1.0}
_WELL_TRAINED = {"schedule": "cosine", "averaging": 0.998, "max_grad_ratio": 3.0}
_ADAM = (
    "Adam at a rate that falls to zero, weight decay 1e-5, gradients clipped to three times their "
    "usual norm, averaged weights"
)
_STATIC = (
    "Static binarization is a fixed draw of our own, x ~ Bernoulli(grey value) once for all, the "
    "same in every run: the pixels are not those of the published files, so figures may differ by "
    "some tenths of a nat for that alone."
)


def _nll(samples: int) -> Measure:
    return Measure(f"NLL, {samples:,} samples", ("terms", "iw_bound"), -1)


_ENERGIES = Table(
    title="Planar flows fitted to the test energies U1 to U4",
    source='"Variational Inference with Normalizing Flows", arXiv 1505.05770, table 1 and figure 3',
    text="Each run fits a diagonal Gaussian through K planar flows to p(z) ∝ exp(−U(z)) by "
    "minimising KL(q ‖ p), and the KL is then found by quadrature. The paper shows pictures and no "
    "figures. "
    "U2, U3 and U4 do not decay along z₁, so they are no densities; here they have a soft wall at "
    "|z₁| = 4, ½((|z₁| − 4)₊/0.1)², as they are drawn up to there.",
    measures=(Measure("KL(q ‖ p)", ("energy", "kl")),),
    rows=tuple(
        Row(f"{energy}, K = {K}", {"energy": energy, "num_flows": K})
        for energy in ("U1", "U2", "U3", "U4")
        for K in (2, 8, 32)
    ),
    shared={"updates": 10_000},
    program="flowvae.reproduction.energies",
)

_REZENDE = Table(
    title="Planar flows on binarized MNIST, 40 latent dimensions",
    source='"Variational Inference with Normalizing Flows", arXiv 1505.05770, table 2',
    text="Published: one layer of 400 maxout units, RMSprop, 500,000 updates of 100 data; the "
    "published figure is a bound on −log p(x) and is set beside −ELBO. Ours: two gated layers of "
    f"300 units in encoder and decoder, 60,000 updates, {_ADAM}, KL warm-up over 10 epochs; under "
    "the published weight of log p(x, z), min(1, 0.01 + t/10,000), these nets stay at a posterior "
    "that ignores x. The rate starts at 0.001, with K = 40 and 80 at half of it, because training "
    "with K = 80 broke down at 0.001. MNIST is binarized anew in every epoch for training and once "
    "for the test.",
    measures=(_NEGATIVE_ELBO, _nll(200), Measure("KL(q ‖ p(z))", ("terms", "kl"))),
    rows=(
        Row("diagonal", {"posterior": "gaussian"}, {"−ELBO": "89.9"}),
        *(
            Row(
                f"planar, K = {K}",
                {**_FLOWS, "bound": 0.5, "num_flows": K, "learning_rate": rate},
                {"−ELBO": published},
            )
            for K, published, rate in (
                (10, "87.5", 0.001),
                (20, "86.5", 0.001),
                (40, "85.7", 0.0005),
                (80, "85.1", 0.0005),
            )
        ),
    ),
    shared={
        "latent_dim": 40,
        "hidden_dims": (300, 300),
        "gated": True,
        "binarization": "dynamic",
        "init_output_bias": True,
        "warmup": "kl",
        "warmup_epochs": 10,
        "epochs": 100,
        **_WELL_TRAINED,
    },
    seeds=2,
    pairs=(
        *(
            (f"planar, K = {more}", f"planar, K = {less}" if less else "diagonal")
            for less, more in ((0, 10), (10, 20), (20, 40), (40, 80))
        ),
        ("planar, K = 80", "diagonal"),
    ),
)

_BURDA = Table(
    title="VAE and IWAE with one stochastic layer, MNIST binarized dynamically",
    source='"Importance Weighted Autoencoders", arXiv 1509.00519, table 1',
    text="Published: 3,280 epochs of batches of 20, a rate that falls in eight steps from 0.001 to "
    f"0.0001. Ours: batches of 100, 200 epochs, {_ADAM}. Nets as published, two layers of 200 tanh "
    "units and 50 latent dimensions.",
    measures=(_nll(5000), _NEGATIVE_ELBO),
    rows=(
        Row("VAE", {"objective": "elbo"}, {"NLL, 5,000 samples": "86.76"}),
        Row(
            "IWAE, 50 samples",
            {"objective": "iwae", "objective.samples": 50},
            {"NLL, 5,000 samples": "84.78"},
        ),
        Row("DReG, 50 samples", {"objective": "dreg", "objective.samples": 50}),
    ),
    shared={
        "posterior": "gaussian",
        "latent_dim": 50,
        "hidden_dims": (200, 200),
        "activation": "tanh",
        "binarization": "dynamic",
        "init_output_bias": True,
        "epochs": 200,
        "evaluation_samples": 5000,
        **_WELL_TRAINED,
    },
    pairs=(("IWAE, 50 samples", "VAE"), ("DReG, 50 samples", "IWAE, 50 samples")),
)

_SYLVESTER = Table(
    title="Flow posteriors with gated convolutions, 64 latent dimensions",
    source='"Sylvester Normalizing Flows for Variational Inference", arXiv 1803.05649, table 1; '
    "± there is over three runs",
    text="Published: Adamax at 0.0005, KL warm-up over 100 epochs, at most 2,000 epochs, stopped "
    f"after 100 epochs without a better validation ELBO. Ours: {_ADAM}, 400 epochs, the same "
    f"warm-up; IAF and Sylvester flows have this project's own widths. {_STATIC} Meant for a GPU.",
    measures=(_NEGATIVE_ELBO, _nll(5000)),
    rows=(
        Row("Gaussian", {"posterior": "gaussian"}, {"−ELBO": "86.55 ± 0.06"}),
        Row(
            "planar, K = 16",
            {**_FLOWS, "num_flows": 16},
            {"−ELBO": "86.06 ± 0.31"},
        ),
        Row("IAF, K = 16", {"posterior": "iaf", "num_flows": 16}, {"−ELBO": "84.20 ± 0.17"}),
        Row(
            "Sylvester, orthogonal, K = 16",
            {"posterior": "sylvester_orthogonal", "num_flows": 16},
            {"−ELBO": "83.32 ± 0.06"},
        ),
    ),
    shared={
        "network": "gated_conv",
        "latent_dim": 64,
        "binarization": "static",
        "warmup": "kl",
        "warmup_epochs": 100,
        "epochs": 400,
        "learning_rate": 0.0005,
        "evaluation_samples": 5000,
        **_WELL_TRAINED,
    },
    pairs=tuple(
        (name, "Gaussian")
        for name in ("planar, K = 16", "IAF, K = 16", "Sylvester, orthogonal, K = 16")
    ),
)

_SINGLE_LAYER = Table(
    title="The lowest NLL with one stochastic layer and multilayer perceptrons",
    source='IWAE: "Importance Weighted Autoencoders", arXiv 1509.00519; VampPrior: "VAE with a '
    'VampPrior", arXiv 1705.07120',
    text="MNIST binarized dynamically. Published: IWAE with 50 samples 84.78 (two layers of 200), "
    "VampPrior with two gated layers of 300 82.4. Ours: two gated layers of 300, 40 latent "
    f"dimensions, KL warm-up over 20 of 200 epochs, {_ADAM}; the VampPrior has 100 pseudo-inputs. "
    "Annealing checks the importance samples on the first 50 test images.",
    measures=(
        _nll(5000),
        _NEGATIVE_ELBO,
        Measure("importance − annealing", ("full", "checks", "importance - ais")),
    ),
    rows=(
        Row(
            "gated, flow prior",
            {"prior": "flow", "posterior": "gaussian"},
        ),
        Row(
            "gated, VampPrior",
            {"prior": "vampprior", "posterior": "gaussian"},
            {"NLL, 5,000 samples": "82.4"},
        ),
    ),
    shared={
        "latent_dim": 40,
        "hidden_dims": (300, 300),
        "gated": True,
        "binarization": "dynamic",
        "init_output_bias": True,
        "warmup": "kl",
        "warmup_epochs": 20,
        "epochs": 200,
        "learning_rate": 0.001,
        "evaluation_samples": 5000,
        **_WELL_TRAINED,
    },
    seeds=1,
    full={
        "count": 500,
        "mixture_count": 50,
        "ais_count": 50,
        "ais_temperatures": 1000,
        "bdmc_count": 10,
        "gap_count": 10,
        "refine_count": 50,
        "information_count": 500,
    },
)

_POSTERIORS = {
    "Gaussian": {"posterior": "gaussian"},
    "planar, K = 3": {**_FLOWS, "num_flows": 3},
    "planar, K = 16": {**_FLOWS, "num_flows": 16},
}
_NETS = {"(500)": (500,), "(500, 500)": (500, 500)}


_GAPS = (
    Measure("ELBO", ("terms", "elbo")),
    Measure("200-sample bound", ("terms", "iw_bound")),
    Measure("approximation gap", ("full", "gaps", "approximation_gap")),
    Measure("amortization gap", ("full", "gaps", "amortization_gap")),
)
_GAPS_OF_200: dict[str, int] = {
    "samples": 1000,
    "count": 500,
    "mixture_count": 200,
    "quadrature_count": 200,
    "ais_count": 1,
    "ais_temperatures": 10,
    "bdmc_count": 1,
    "gap_count": 200,
    "refine_count": 200,
    "information_count": 500,
}


def _study() -> Table:
    """All posteriors with the tutorial's nets in 2 to 40 dimensions, most with deeper ones."""
    rows, pairs = [], []
    for D in (2, 5, 10, 40):
        for nets, widths in _NETS.items():
            for posterior, settings in _POSTERIORS.items():
                if posterior == "planar, K = 3" and nets != "(500)":
                    continue
                name = f"D = {D}, {nets}, {posterior}"
                rows.append(Row(name, {"latent_dim": D, "hidden_dims": widths, **settings}))
                if posterior != "Gaussian":
                    pairs.append((name, f"D = {D}, {nets}, Gaussian"))
        pairs.append((f"D = {D}, (500, 500), Gaussian", f"D = {D}, (500), Gaussian"))
    return Table(
        title="The inference gap: where flows pay",
        source="",
        text='The gap is split as in "Inference Suboptimality in Variational Autoencoders", arXiv '
        "1801.03558. MNIST binarized dynamically; all runs are trained alike, for 30 epochs at a "
        f"rate of 0.003: {_ADAM}, decoder_gain 3. The gap log p(x) − ELBO is split on the "
        "first 200 test images: by the best q of the family for each image (approximation) and by "
        "what the encoder's q loses against it (amortization). log p(x) is by quadrature at D = 2 "
        "and by importance sampling above.",
        measures=(*_GAPS, Measure("KL(q ‖ p(z))", ("terms", "kl"))),
        rows=tuple(rows),
        shared={
            "binarization": "dynamic",
            "epochs": 30,
            "learning_rate": 0.003,
            "decoder_gain": 3.0,
            **_WELL_TRAINED,
        },
        seeds=2,
        pairs=tuple(pairs),
        full=_GAPS_OF_200,
    )


_ENCODERS = Table(
    title="Better encoders beside equal decoders",
    source="",
    text="Two latent dimensions, MNIST binarized dynamically, a plain Gaussian posterior and the "
    f"tutorial's decoder (500); 30 epochs at a rate of 0.003: {_ADAM}, decoder_gain 3. Dropout of "
    'the encoder\'s input follows "Generalization Gap in Amortized Inference", arXiv 2205.11640. '
    "The gap is split on the first 200 test images.",
    measures=_GAPS,
    rows=(
        Row("encoder (500)", {}),
        Row("(500, 500)", {"hidden_dims": (500, 500)}),
        Row("(500), dropout 0.1", {"encoder_dropout": 0.1}),
        Row("(500), dropout 0.3", {"encoder_dropout": 0.3}),
        Row("(500), two encoder steps", {"encoder_steps": 2}),
        Row("(500, 500), dropout 0.1", {"hidden_dims": (500, 500), "encoder_dropout": 0.1}),
    ),
    shared={
        "posterior": "gaussian",
        "decoder_hidden_dims": (500,),
        "binarization": "dynamic",
        "epochs": 30,
        "learning_rate": 0.003,
        "decoder_gain": 3.0,
        **_WELL_TRAINED,
    },
    seeds=2,
    pairs=tuple(
        (name, "encoder (500)")
        for name in (
            "(500, 500)",
            "(500), dropout 0.1",
            "(500), dropout 0.3",
            "(500), two encoder steps",
            "(500, 500), dropout 0.1",
        )
    ),
    full=_GAPS_OF_200,
)

_BY_CLASSIFIER = "error of q(y|x), %"
_M2 = {
    "objective": "m2",
    "condition": ("labels",),
    "schedule": "one_cycle",
    "learning_rate": 0.002,
    "alpha": 1.0,
    "labelled_batch": 20,
    "classifier_dropout": 0.5,
    "warmup_start": 4.0,
    "hold_epochs": 3,
}

_KINGMA = Table(
    title="Labels: conditional and semi-supervised models",
    source='Kingma et al. 2014, "Semi-supervised Learning with Deep Generative Models", arXiv '
    "1406.5298, table 1 (M2; 50 latent dimensions)",
    text="The tutorial's networks, (500), with ten latent dimensions, a plain Gaussian posterior "
    "and a prior p(z|y) that is a Gaussian for each class; MNIST binarized dynamically: "
    f"{_ADAM}, decoder_gain 3; 80 epochs at a rate of 0.003; M2 for 48 with 100 labels and 36 with "
    "1,000, the rate rising to 0.002 first, alpha 1, 20 labelled images beside each batch, half of "
    "the pixels hidden from q(y|x) in training, and a KL that costs four times as much at first. "
    "Errors are by Bayes' "
    "rule from log p(x|y), 50 samples for each class, and for M2 also of its classifier q(y|x); "
    "of a conditional model ELBO and bound are of log p(x|y). The images with labels are the first "
    "of each class, whatever the seed. M2's settings were chosen by some fifteen trials on the "
    "last 10,000 training images, held out, after some ten on the test images themselves that gave "
    "hold, alpha and rate; those of the other rows on the test images, but for the epochs, "
    "80 rather than 50, which were chosen on those held out.",
    measures=(
        Measure("test ELBO", ("terms", "elbo")),
        Measure("200-sample bound", ("terms", "iw_bound")),
        Measure("log p(x)", ("classification", "log_prob")),
        Measure("error by Bayes' rule, %", ("classification", "bayes", "accuracy"), -100, 100.0),
        Measure(_BY_CLASSIFIER, ("classification", "classifier", "accuracy"), -100, 100.0),
    ),
    rows=(
        Row("unconditional", {}),
        Row("conditional", {"condition": ("labels",)}),
        Row(
            "M2, 100 labels",
            {**_M2, "labelled": 100, "epochs": 48, "ramp_epochs": 30, "warmup_epochs": 36},
            {_BY_CLASSIFIER: "11.97 ± 1.71"},
        ),
        Row(
            "M2, 1,000 labels",
            {**_M2, "labelled": 1000, "epochs": 36, "ramp_epochs": 24, "warmup_epochs": 27},
            {_BY_CLASSIFIER: "3.60 ± 0.56"},
        ),
    ),
    classify={"samples": 50},
    shared={
        "posterior": "gaussian",
        "prior": "normal",
        "latent_dim": 10,
        "binarization": "dynamic",
        "epochs": 80,
        "learning_rate": 0.003,
        "decoder_gain": 3.0,
        **_WELL_TRAINED,
    },
    pairs=(("conditional", "unconditional"),),
)

TABLES: dict[str, Table] = {
    "rezende2015-energies": _ENERGIES,
    "rezende2015-mnist": _REZENDE,
    "burda2016": _BURDA,
    "sylvester2018": _SYLVESTER,
    "single-layer": _SINGLE_LAYER,
    "inference-gaps": _study(),
    "encoders": _ENCODERS,
    "kingma2014": _KINGMA,
}
