"""The card of a run on the hub: what it is, what its figures are, how it is used and was made."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flowvae.config import Config, Part, outside_modules
from flowvae.data.columns import condition_in_words
from flowvae.evaluation import Evaluation
from flowvae.hub.environment import Environment
from flowvae.likelihoods import measure_of
from flowvae.markdown_text import code_text, plain_text
from flowvae.progress import evaluation_text
from flowvae.vae import VAE

__all__ = ["card"]

_MOST_CLASSES = 20  # that are named
_LONGEST_VALUE = 60  # characters of a class that stands in the code


def card(
    model: VAE,
    config: Config,
    evaluation: Evaluation | None,
    environment: Environment | None,
    pictures: Sequence[str],
    name: str,
    licence: str | None = None,
) -> str:
    """A page of Markdown, with the hub's fields at its head.

    Args:
        model: of the run.
        config: of the run, for others to read.
        evaluation: its last one, if any.
        environment: what is told of how it was made, if anything.
        pictures: names of files under ``figures/``.
        name: ``OWNER/NAME``.
        licence: of the weights, by the hub's names.
    """
    head = ["---", "library_name: flowvae"]
    head += [f"license: {licence}"] if licence else []
    head += ["tags:", "- flowvae", "- variational-autoencoder", "- normalizing-flows", "---"]
    sections = [
        "\n".join(head),
        f"# {name.partition('/')[2]}",
        _what(model, config),
        _use(model, name, config),
        _figures(model, evaluation),
        _training(config, environment),
        "## Licence\n\n"
        + (f"The weights: `{licence}`." if licence else "None was stated by who pushed this.")
        + " The data has a licence of its own.",
    ]
    if pictures:
        shown = [f"![{each.removesuffix('.png')}](figures/{each})" for each in pictures]
        sections.append("## Pictures\n\n" + "\n\n".join(shown))
    return "\n\n".join(sections) + "\n"


def _what(model: VAE, config: Config) -> str:
    described = config.model
    shape = " × ".join(map(str, model.data_shape))
    values = (
        f"rows of a table of {len(model.columns)} columns"
        if model.columns is not None
        else f"data of {shape} values"
    )
    given = "" if model.condition is None else ", y"
    more = "" if model.condition is None else f"| conditioned on y | {_condition(model)} |\n"
    seen = "" if model.missingness is None else ", and of which these are"
    more += f"| missing values | NaN; the likelihood is of the others{seen} |\n" * model.missing
    conditional = given and getattr(model.prior, "conditional", False)
    data = f"{code_text(config.data.public_source)}, binarization `{config.data.binarization}`"
    return (
        f"A variational autoencoder of {values}, made with flowvae.\n\n"
        "| | |\n|---|---|\n"
        f"| data | {data} |\n"
        f"{more}"
        f"| latent dimensions | {model.latent_dim} |\n"
        f"| posterior q(z\\|x{given}) | {_part(described.posterior)} |\n"
        f"| prior p(z{chr(92) + '|y' if conditional else ''}) | {_part(described.prior)} |\n"
        f"| likelihood p(x\\|z{given}) | {_part(described.likelihood)} |\n"
        f"| networks | {_part(described.network)} |\n"
        f"| parameters | {sum(each.numel() for each in model.parameters()):,} |"
    )


def _use(model: VAE, name: str, config: Config) -> str:
    trust = ", trust=True" if outside_modules(config.model_dump()) else ""
    lines = [f'model = flowvae.load("hf://{name}"{trust})']
    if model.condition is None:
        lines += [f"x = model.sample(64)  # means of p(x|z) at z ~ p(z), (64, {model.data_dim})"]
    else:
        lines += [
            f"y = {_some_condition(model)}  # what to condition on",
            f"x = model.sample(64, condition=y)  # means of p(x|z, y), (64, {model.data_dim})",
        ]
    if model.missing:
        lines += ['x[:, ::2] = float("nan")  # a value that is missing']
    if model.condition is None:
        lines += ["z = model.posterior(x).rsample()  # z ~ q(z|x)"]
    else:
        lines += ["z = model.posterior(x, condition=y).rsample()  # z ~ q(z|x, y)"]
    if model.classifier is not None:
        lines += ["log_q = model.classifier(x).log_softmax(-1)  # log q(y|x) of each class"]
    code = "\n".join(lines)
    return (
        "## Use\n\n"
        "```python\n"
        "import flowvae\n\n"
        f"{code}\n"
        "```\n\n"
        "The weights are safetensors, and opening them executes nothing that they say."
    )


def _condition(model: VAE) -> str:
    """The columns of the condition, and the first of their categories."""
    columns = model.condition or ()
    if len(columns) != 1 or not columns[0].categories:
        return plain_text(condition_in_words(columns))
    names = ", ".join(columns[0].categories[:_MOST_CLASSES])
    more = ", …" if len(columns[0].categories) > _MOST_CLASSES else ""
    return plain_text(f"{condition_in_words(columns)}: {names}{more}")


def _some_condition(model: VAE) -> str:
    """Python for a condition of this model: its first category, or the mean of a number."""
    columns = model.condition or ()
    if len(columns) == 1:
        value = columns[0].categories[0] if columns[0].categories else columns[0].mean
        text = json.dumps(value, ensure_ascii=not str(value).isprintable())
        if len(text) <= _LONGEST_VALUE:
            return text
    return "{c.name: c.categories[0] if c.categories else c.mean for c in model.condition}"


def _figures(model: VAE, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "## Figures\n\nIt was not evaluated."
    measure = measure_of(model.likelihood, not evaluation.pseudo_likelihood)
    text = evaluation_text(evaluation).replace("`", "'")  # which would end the block
    given = "" if model.condition is None else " Everything is given the condition y."
    return (
        f"## Figures\n\n```text\n{text}\n```\n\n"
        f"What exp log p(x) is here: a {measure}. Only figures of one kind, on the same data under "
        "the same binarization, can be compared. The bound is below log p(x) in expectation."
        f"{given}"
    )


def _training(config: Config, environment: Environment | None) -> str:
    training = config.training
    text = (
        f"Preset {code_text(config.preset)}, seed {config.seed}, "
        f"objective {code_text(config.objective.name)}; "
        f"{training.epochs} epochs in batches of {training.batch_size}, learning rate "
        f"{training.learning_rate:g}. `config.yaml` has every setting, `metrics.csv` every epoch."
    )
    if environment is not None:
        versions = environment.versions
        known = [package for package in ("flowvae", "torch") if versions.get(package)]
        made = ", ".join(f"{package} {versions[package]}" for package in known)
        minutes = environment.seconds / 60
        took = f", {minutes:.0f} minutes" if minutes else ""
        text += f" Trained with {made or 'flowvae'} on {code_text(environment.device)}{took}."
    return f"## Training\n\n{text}"


def _part(part: Part) -> str:
    options = ", ".join(f"{name} {plain_text(value)}" for name, value in part.options().items())
    return code_text(part.name) + (f": {options}" if options else "")
