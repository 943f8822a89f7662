"""What a notebook shows: of a run, and in a real kernel."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flowvae
from flowvae.config import resolve_config
from flowvae.data import Column, Dataset
from flowvae.runs import Run

EVIL = "<script>alert(1)</script>"


class Facts(HTMLParser):
    """The rows of the table, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def __getitem__(self, name: str) -> str:
        return self.texts[self.texts.index(name) + 1]


def picture(html: str) -> Image.Image:
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_settings_and_figures_with_their_errors(run):
    opened = flowvae.open_run(run.path, "cpu")
    facts = Facts(opened._repr_html_())
    assert opened._dataset is None  # nothing was read but the folder
    assert facts["status"] == "finished, 3 of 3 epochs"
    assert facts["preset"] == "original"
    assert "(6 x 5)" in facts["data"]
    assert facts["posterior"] == "planar, K = 3 flows"
    assert (facts["likelihood"], facts["seed"]) == ("bernoulli", "0")
    assert facts["latent dimensions D"] == "2"
    evaluation = json.loads((run.path / "evaluation.json").read_text())
    terms, bound = evaluation["terms"], f"{evaluation['samples']}-sample bound on log p(x)"
    for name, key in (("pseudo-ELBO", "elbo"), (bound, "iw_bound")):
        mean, error = terms[key]["mean"], terms[key]["standard_error"]
        assert facts[name] == f"{mean:.3f} ± {error:.3f}"
    assert facts["measure"].startswith("p(x) is a pseudo-likelihood of grey pixels")


def test_the_picture_is_the_posterior_reduced(run):
    shown = picture(run._repr_html_())
    with Image.open(run.figures / "posterior.png") as whole:
        assert shown.width / shown.height == pytest.approx(whole.width / whole.height, rel=0.01)
    assert shown.width <= 960
    assert np.asarray(shown.convert("L")).std() > 10


def test_no_colour_of_its_own_but_behind_the_picture(run):
    """Legible on a light and on a dark page: text has the page's colour."""
    html = run._repr_html_()
    assert set(re.findall(r"(?<![-\w])color: (\w+)", html)) == {"inherit"}
    assert re.findall(r"background: (\w+)", html) == ["none", "white"]


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run.path, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["environment.json", "evaluation.json", "metrics.csv"])
@pytest.mark.parametrize("content", [b"[", b"\xff", b"[1]", b'{"terms": {"elbo": 1}}', b"1,2\n3"])
def test_corrupt_files_are_told_and_nothing_is_raised(name, content, copy):
    (copy / name).write_bytes(content)
    (copy / "figures" / "posterior.png").write_bytes(content)
    html = flowvae.open_run(copy, "cpu")._repr_html_()
    assert picture(html).format == "PNG"  # the next one
    assert "posterior</th>" in html


def test_without_figures_and_evaluation(copy):
    shutil.rmtree(copy / "figures")
    for name in ("environment.json", "evaluation.json", "metrics.csv"):
        (copy / name).unlink()
    facts = Facts(flowvae.open_run(copy, "cpu")._repr_html_())
    assert facts["status"] == "unknown, 0 of 3 epochs"
    assert facts["test figures"].startswith("none yet")
    assert "img" not in facts.tags
    assert "No pictures yet; " in facts.texts


def test_what_files_say_is_escaped(run, copy, tmp_path):
    evaluation = json.loads((copy / "evaluation.json").read_text())
    (copy / "evaluation.json").write_text(json.dumps({**evaluation, "data": EVIL, "split": EVIL}))
    (copy / "environment.json").write_text(json.dumps({"status": EVIL}))
    folder = tmp_path / f"a{EVIL.replace('/', '')}"
    shutil.move(copy, folder)
    config = run.config.replace(data=EVIL)
    html = Run(folder, config, flowvae.load(folder))._repr_html_()
    assert "script" not in Facts(html).tags
    assert html.count("&lt;script&gt;") >= 5
    (folder / "evaluation.json").write_text(json.dumps({"terms": {EVIL: 1}}))
    assert "script" not in Facts(Run(folder, config, flowvae.load(folder))._repr_html_()).tags


def test_columns_are_escaped_and_named(tmp_path):
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    names = [EVIL, *(f"c{k}" for k in range(11))]
    rows = [",".join(f"{value:.4f}" for value in row) for row in rng.normal(size=(60, 12))]
    (tmp_path / "table.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    run = flowvae.train(
        "planar", data=str(tmp_path / "table.csv"), likelihood="mixed", out=tmp_path / "run",
        hidden_dims=(4,), latent_dim=3, epochs=1, evaluation_samples=2, progress=False,
    )  # fmt: skip
    html = run._repr_html_()
    facts = Facts(html)
    assert "script" not in facts.tags
    assert f"columns {EVIL}, c0, c1, c2, c3, c4, c5, c6 and 4 more" in facts["data"]
    assert facts["measure"] == "p(x) is a density"
    assert picture(html).format == "PNG"  # of latent space: D = 3 has no picture of posteriors


CELLS = [
    """
import numpy as np, flowvae
from flowvae.data import Dataset
pixels = np.random.default_rng(0).random((3000, 6, 5))
data = Dataset.from_arrays(pixels[:2900], pixels[2900:])
run = flowvae.train("original", dataset=data, out="run", epochs=3, hidden_dims=(16,),
                    batch_size=5, evaluation_samples=4)""",
    "run",
    "run.figure('learning_curves')",
    "run.metrics",
    "flowvae.traverse(run)",
    "flowvae.interpolate(run)",
    """
def stop(run, row, model):
    raise KeyboardInterrupt
try:
    flowvae.train("original", dataset=data, out="stopped", epochs=5, on_epoch=stop)
except KeyboardInterrupt:
    print("stopped")""",
    "flowvae.train('original', dataset=data, out='quiet', epochs=1, finish=False, progress=False);",
    "import sys; 'matplotlib.pyplot' in sys.modules",
    "run.figure('nosuch')",
]


def test_in_a_kernel(tmp_path):
    """Progress is one output that changes; runs, pictures and walks show themselves."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    updates: list[str] = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, *rest):
            if message["msg_type"] == "update_display_data":
                updates.append(message["content"]["data"]["text/plain"])
            return super().process_message(message, *rest)

    client = Client(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    training, shown, figure, table, walk, way, stopped, quiet, pyplot, unknown = (
        cell.outputs for cell in notebook.cells
    )
    last, evaluating = (output.data["text/plain"] for output in training)
    assert last.startswith("Training original (K = 3, D = 2) on arrays: 2,900 train, 100 test")
    assert last.splitlines()[1:][0] == "Run folder: run"
    assert last.splitlines()[2].startswith("epoch   3/3  pseudo-ELBO: train ")
    assert evaluating.startswith("evaluating: done in ")
    assert len([text for text in updates if text.startswith("Training")]) >= 3 + 1
    (output,) = shown
    assert picture(output.data["text/html"]).format == "PNG"
    for (output,) in (figure, walk, way):
        assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
    assert "<table>" in table[0].data["text/html"]
    assert [output.output_type for output in stopped] == ["display_data", "stream"]
    assert "\nepoch   1/5  " in stopped[0].data["text/plain"]
    assert quiet == []
    assert pyplot[0].data["text/plain"] == "False"
    assert unknown[0].evalue.startswith("figure: expected one of learning_curves, ")
    assert "got 'nosuch'" in unknown[0].evalue


def test_a_picture_shows_itself(run):
    png = run.figure("samples")._repr_png_()
    assert Image.open(io.BytesIO(png)).width == pytest.approx(540, abs=2)


def test_training_goes_on_where_the_picture_was_drawn(run):
    model = flowvae.load(run.path).train()
    data = Dataset.from_arrays(np.zeros((4, 6, 5)), np.ones((4, 6, 5)))
    Run(run.path, run.config, model, data).figure("latent_space")
    assert model.training


def test_conditions_and_gaps(tmp_path):
    config = resolve_config(
        hidden_dims=(8,), condition=("labels",), labelled=1000, objective="m2", missing="model"
    )
    columns = (Column(EVIL, "categorical", ("cat", "dog")),)
    model = flowvae.build_vae(config, (6, 5), condition=columns)
    html = Run(tmp_path, config, model)._repr_html_()
    facts = Facts(html)
    assert EVIL not in html
    assert "(2 classes), 1,000 of the train data labelled" in html
    assert facts["missing values"] == "may be; the likelihood is of those that are there"
