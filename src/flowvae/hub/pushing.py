"""``flowvae push``: a run to the hub, without what belongs to the machine that it comes from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from flowvae.errors import UserError, shown
from flowvae.figures.gallery import DRAWN
from flowvae.files import write_bytes, write_json, write_text
from flowvae.hub.card import card
from flowvae.hub.environment import read_environment
from flowvae.hub.fetching import complaint, endpoint, hub_library, repository_name
from flowvae.metrics import write_metrics
from flowvae.runs import MODEL_FILE, Run, RunLike, opened, write_model

__all__ = ["push", "write_public"]

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
# Whatever of these an earlier push left there goes, unless this one brings it anew.
_OWNED = (
    MODEL_FILE,
    "README.md",
    "config.yaml",
    "environment.json",
    "evaluation.json",
    "metrics.csv",
    *(f"figures/{name}.png" for name in DRAWN),
)


def push(
    run: RunLike,
    name: str,
    *,
    private: bool = False,
    licence: str | None = None,
    figures: bool = True,
) -> str:
    """Put a run on the Hugging Face hub, where ``flowvae.load("hf://OWNER/NAME")`` finds it.

    Pushed are ``model.safetensors``, ``config.yaml``, ``evaluation.json``, ``metrics.csv``, the
    pictures that flowvae draws into ``figures/``, the part of ``environment.json`` that is not the
    machine's, and a card. Of a path to data the last part alone is kept, in the header of the
    weights, too. The checkpoint, logs and exports stay here. Files of these names that an earlier
    push left and this one does not bring are deleted there; others stay.

    Args:
        run: a run, or its folder.
        name: ``OWNER/NAME``; made if it is not there.
        private: for the owner alone, where it is new.
        licence: of the weights, by the hub's names: ``mit``, ``cc-by-4.0``.
        figures: whether the pictures go with it; they show data that the run was tested on.

    Returns:
        The address of the repository.

    Raises:
        UserError: the library is not installed, nobody is logged in, a file of the run is corrupt
            or a picture a link, or the hub says no.
    """
    name = repository_name(name)
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(
            f"licence: expected a name of the hub's, such as mit or cc-by-4.0, got {shown(licence)}"
        )
    run = opened(run, "cpu")
    library = hub_library()
    if library.get_token() is None:
        raise UserError("hub: not logged in; log in by 'hf auth login', or set HF_TOKEN")
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with TemporaryDirectory(prefix="flowvae-push-") as folder:
        write_public(run, Path(folder), name, licence, figures)
        try:
            hub = library.HfApi(endpoint=endpoint())
            made = hub.create_repo(name, private=private or None, exist_ok=True)
            # What is there already stays as public as it is.
            public = private and not hub.model_info(name).private
            if not public:
                hub.upload_folder(
                    repo_id=name,
                    folder_path=folder,
                    commit_message="A run of flowvae's",
                    delete_patterns=list(_OWNED),
                )
        except Exception as error:  # noqa: BLE001  the library raises of many kinds
            raise UserError(complaint(name, error)) from None
    if public:
        raise UserError(
            f"private: {name} is there already and public; make it private on its page, or choose "
            "another name. Nothing was pushed"
        )
    return str(made)


def write_public(
    run: Run, folder: Path, name: str, licence: str | None = None, figures: bool = True
) -> None:
    """Everything that is pushed, into a folder."""
    source = run.config.data.public_source
    config = run.config.replace(data=source)
    write_model(folder / MODEL_FILE, run.model, config)
    write_text(folder / "config.yaml", config.to_yaml())
    evaluation = run.evaluation
    if evaluation is not None:
        evaluation = replace(evaluation, data=source)
        write_json(folder / "evaluation.json", evaluation.to_dict())
    if rows := run.metrics:
        write_metrics(folder / "metrics.csv", rows)
    environment = read_environment(run)
    if environment is not None:
        write_json(folder / "environment.json", environment.model_dump(exclude_none=True))
    pictures = _pictures(run.figures) if figures else []
    for picture in pictures:
        write_bytes(folder / "figures" / picture.name, picture.read_bytes())
    text = card(
        run.model, config, evaluation, environment, [each.name for each in pictures], name, licence
    )
    write_text(folder / "README.md", text)


def _pictures(folder: Path) -> list[Path]:
    """Those that flowvae draws: what else lies in the folder is somebody's own.

    Raises:
        UserError: one is a link, which may lead to anything.
    """
    found = [file for name in DRAWN if (file := folder / f"{name}.png").exists()]
    for place in (folder, *found):
        if place.is_symlink():
            raise UserError(f"push: expected a file or folder of the run, got a link, {place}")
    return found
