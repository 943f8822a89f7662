"""``flowvae reproduce``: its runs, that they go on, and that its page says what they found."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowvae
from flowvae.config import resolve_config
from flowvae.errors import TrainingError, UserError
from flowvae.reproduction import TABLES
from flowvae.reproduction.energies import (
    ENERGIES,
    EnergyFlow,
    energy,
    fit_energy,
    kl_by_quadrature,
)
from flowvae.reproduction.page import mean_and_error, reproduction_page, value_of
from flowvae.reproduction.running import Job, Step, jobs_of, run_jobs, slug


def arguments(command: str, *options: object) -> list[str]:
    return [sys.executable, "-m", "flowvae", command, *map(str, options)]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_run_that_can_be_described(name: str, tmp_path: Path):
    table = TABLES[name]
    assert len({row.name for row in table.rows}) == len(table.rows)
    jobs = jobs_of(table, tmp_path, seeds=2)
    assert len(jobs) == 2 * len(table.rows)
    assert len({job.folder for job in jobs}) == len(jobs)
    assert not any(job.done for job in jobs)
    for more, less in table.pairs:
        assert {more, less} <= {row.name for row in table.rows}
    if table.program is None:
        for row in table.rows:
            resolve_config(preset="original", **{**table.shared, **row.settings})
    headings = {measure.heading for measure in table.measures}
    assert all(set(row.published) <= headings for row in table.rows)


def test_a_table_is_made_goes_on_and_grows(tmp_path: Path):
    lines: list[str] = []
    options = {"quick": True, "rows": ["diagonal"], "jobs": 1, "out": tmp_path, "device": "cpu"}
    found = flowvae.reproduce("rezende2015-mnist", **options, report=lines.append)
    run = tmp_path / "diagonal-seed0"
    model = (run / "model.safetensors").read_bytes()
    kept = json.loads((tmp_path / "rezende2015-mnist.json").read_text())
    assert kept == found.found
    elbo = json.loads((run / "evaluation.json").read_text())["terms"]["elbo"]["mean"]
    (only,) = kept["runs"]
    first, *_ = TABLES["rezende2015-mnist"].measures
    assert value_of(only, first) == -elbo
    page = (tmp_path / "rezende2015-mnist.md").read_text()
    assert f"{-elbo:.2f}" in page
    assert "is no result" in page
    assert "89.9" in page  # what is published
    assert "not measured" in page  # the other rows
    # A further call adds a row and a seed; what is there stays as it is.
    lines.clear()
    more = {**options, "rows": ["diagonal", "planar, K = 10"], "seeds": 2}
    grown = flowvae.reproduce("rezende2015-mnist", **more, report=lines.append)
    assert len(grown.found["runs"]) == 4
    assert (run / "model.safetensors").read_bytes() == model
    assert any("1 of 4 are there already" in line for line in lines)
    assert "planar, K = 10 − diagonal" in grown.page
    # A call for fewer seeds does not lose those that are there.
    fewer = flowvae.reproduce("rezende2015-mnist", **options)
    assert len(fewer.found["runs"]) == 4
    # A run that was stopped goes on; one with other settings is not touched.
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "status": "interrupted"}))
    flowvae.reproduce("rezende2015-mnist", **options)
    assert json.loads((run / "environment.json").read_text())["status"] == "finished"
    assert (run / "model.safetensors").read_bytes() == model
    (run / "environment.json").unlink()  # killed between two files
    flowvae.reproduce("rezende2015-mnist", **options)
    assert json.loads((run / "environment.json").read_text())["status"] == "finished"
    with pytest.raises(UserError, match=r"diagonal-seed\d is a run with other settings"):
        flowvae.reproduce("rezende2015-mnist", **{**options, "quick": False})


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path):
    (tmp_path / "vae-seed0").mkdir()
    (tmp_path / "vae-seed0" / "diary.txt").write_text("mine")
    options = {"quick": True, "rows": ["VAE"], "jobs": 1, "out": tmp_path, "device": "cpu"}
    with pytest.raises(TrainingError, match="expected a new or empty folder"):
        flowvae.reproduce("burda2016", **options)
    assert (tmp_path / "vae-seed0" / "diary.txt").read_text() == "mine"


def test_a_quick_run_of_a_program_is_no_run_of_the_table(tmp_path: Path):
    options = {"rows": ["U1, K = 2"], "jobs": 1, "seeds": 1, "out": tmp_path}
    flowvae.reproduce("rezende2015-energies", quick=True, **options)
    with pytest.raises(UserError, match="u1-k2-seed0 is a run with other settings"):
        flowvae.reproduce("rezende2015-energies", **options)


@pytest.mark.slow
def test_a_table_that_rests_on_the_full_evaluation(tmp_path: Path):
    options = {"rows": ["encoder (500)", "(500), two encoder steps"], "jobs": 2, "out": tmp_path}
    found = flowvae.reproduce("encoders", quick=True, device="cpu", **options)
    gap = TABLES["encoders"].measures[3]
    for run in found.found["runs"]:
        full = json.loads((tmp_path / slug_of(run) / "evaluation" / "full.json").read_text())
        assert value_of(run, gap) == full["gaps"]["amortization_gap"]["mean"]
    assert "(500), two encoder steps − encoder (500)" in found.page


def slug_of(run: dict) -> str:
    return f"{slug(run['row'])}-seed{run['seed']}"


def test_the_command(tmp_path: Path):
    shown = subprocess.run(arguments("reproduce"), capture_output=True, text=True, check=True)
    assert set(TABLES) == {line.split()[0] for line in shown.stdout.splitlines()}
    call = ["rezende2015-energies", "--quick", "--row", "U1, K = 2", "--jobs", 1, "--out", tmp_path]
    shown = subprocess.run(
        arguments("reproduce", *call), capture_output=True, text=True, check=True
    )
    assert "U1, K = 2" in shown.stdout
    assert "is no result" in shown.stdout
    assert (tmp_path / "rezende2015-energies.png").stat().st_size > 10_000
    for wrong, message in (
        (["nothing"], "nothing"),
        (["burda2016", "--row", "x"], "row: expected one of VAE; IWAE, 50 samples; "),
        (["burda2016", "--device", "x"], "device: expected auto"),
    ):
        shown = subprocess.run(
            arguments("reproduce", *wrong, "--quick", "--out", tmp_path / "new"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 2
        assert message in shown.stderr
        assert "Traceback" not in shown.stderr
        assert not (tmp_path / "new").exists()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path):
    def job(name: str, *command: str) -> Job:
        folder = tmp_path / name
        return Job(name, 0, folder, (Step(lambda: [*command], (folder / "done").exists),))

    (tmp_path / "good").mkdir()
    made = f"open({str(tmp_path / 'good' / 'done')!r}, 'w').close()"
    jobs = [job("bad", "no_such_module"), job("good", "timeit", "-n", "1", "-r", "1", made)]
    lines: list[str] = []
    with pytest.raises(TrainingError, match=r"1 of 2 runs failed; bad, seed 0: .*no_such_module"):
        run_jobs(jobs, 1, lines.append)
    assert jobs[1].done
    assert len(lines) == 2


def test_the_page_of_several_seeds():
    table = TABLES["rezende2015-mnist"]

    def run(row: str, seed: int, elbo: float) -> dict:
        terms = {name: {"mean": elbo} for name in ("elbo", "iw_bound", "kl")}
        about = {"date": "2026-01-01", "torch": "2", "machine": "m"}
        return {"row": row, "seed": seed, **about, "figures": {"terms": terms}}

    runs = [run("diagonal", 0, -90.0), run("diagonal", 1, -92.0), run("planar, K = 10", 1, -89.5)]
    found = {"table": "x", "quick": False, "command": "c", "runs": runs}
    page = reproduction_page(found, table)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    diagonal = next(line for line in lines if line[:1] == ["diagonal"])
    assert diagonal[1:3] == ["89.9", "91.00 ± 1.00"]
    assert diagonal[-1] == "90.00, 92.00"
    paired = next(line for line in lines if line[:1] == ["planar, K = 10 − diagonal"])
    assert paired[1] == "-2.50"  # by the seed that both have
    assert paired[-1] == "1"
    assert "no result" not in page


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_mean_and_error(values: list[float]):
    mean, error = map(float, mean_and_error(values).split(" ± "))
    tensor = torch.tensor(values, dtype=torch.double)
    assert mean == pytest.approx(tensor.mean().item(), abs=0.0051)
    assert error == pytest.approx((tensor.std() / math.sqrt(len(values))).item(), abs=0.0051)


@given(st.sampled_from(ENERGIES), st.floats(-5, 5), st.floats(-6, 6))
def test_the_energies_are_those_of_the_paper(name: str, z_1: float, z_2: float):
    sin = math.sin(2 * math.pi * z_1 / 4)
    w_2 = 3 * math.exp(-0.5 * ((z_1 - 1) / 0.6) ** 2)
    w_3 = 3 / (1 + math.exp(-(z_1 - 1) / 0.3))
    wall = 0.5 * (max(abs(z_1) - 4, 0) / 0.1) ** 2

    def two(first: float, second: float) -> float:  # -ln(e^-first + e^-second), safely
        least = min(first, second)
        return least - math.log(math.exp(least - first) + math.exp(least - second))

    expected = {
        "U1": 0.5 * ((math.hypot(z_1, z_2) - 2) / 0.4) ** 2
        + two(0.5 * ((z_1 - 2) / 0.6) ** 2, 0.5 * ((z_1 + 2) / 0.6) ** 2),
        "U2": wall + 0.5 * ((z_2 - sin) / 0.4) ** 2,
        "U3": wall + two(0.5 * ((z_2 - sin) / 0.35) ** 2, 0.5 * ((z_2 - sin + w_2) / 0.35) ** 2),
        "U4": wall + two(0.5 * ((z_2 - sin) / 0.4) ** 2, 0.5 * ((z_2 - sin + w_3) / 0.35) ** 2),
    }
    z = torch.tensor([z_1, z_2], dtype=torch.double)
    assert energy(name, z).item() == pytest.approx(expected[name], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ENERGIES)
def test_the_kl_of_an_energy_is_that_of_many_draws(name: str):
    flow = fit_energy(name, 3, updates=150, seed=1)
    exact = kl_by_quadrature(name, flow, points=600)
    assert exact == pytest.approx(kl_by_quadrature(name, flow, points=900), abs=1e-3)
    with torch.no_grad():
        flow = flow.double()
        z, log_q = flow().rsample_and_log_prob((400_000,), torch.Generator().manual_seed(0))
        value = log_q + energy(name, z)
        # The constant by importance sampling from a wide Gaussian: another way than the grid.
        wide = 2.5 * torch.randn(
            2_000_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.double
        )
        log_wide = -0.5 * (wide / 2.5).square().sum(-1) - math.log(2 * math.pi * 2.5**2)
        log_constant = (-energy(name, wide) - log_wide).logsumexp(0) - math.log(len(wide))
    error = value.std().item() / math.sqrt(len(value))
    assert exact == pytest.approx((value.mean() + log_constant).item(), abs=5 * error + 0.01)
    assert exact > 0


def test_a_longer_fit_of_more_flows_is_better():
    short, long = fit_energy("U2", 1, updates=100), fit_energy("U2", 12, updates=800)
    assert kl_by_quadrature("U2", long, 500) < 0.3 * kl_by_quadrature("U2", short, 500)
    assert isinstance(long, EnergyFlow)
    with pytest.raises(ValueError, match="expected one of U1, U2, U3, U4, got 'U5'"):
        energy("U5", torch.zeros(2))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_call_that_is_stopped_leaves_no_process_and_goes_on(tmp_path: Path, number, code):
    call = ["rezende2015-energies", "--quick", "--jobs", 2, "--out", tmp_path]
    call += ["--row", "U1, K = 2", "--row", "U2, K = 2", "--row", "U3, K = 2"]
    with subprocess.Popen(
        arguments("reproduce", *call), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("1 of"):
                break
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == code
    kept = json.loads((tmp_path / "rezende2015-energies.json").read_text())
    assert 1 <= len(kept["runs"]) <= 3
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in listed.stdout
    subprocess.run(arguments("reproduce", *call), capture_output=True, check=True)
    kept = json.loads((tmp_path / "rezende2015-energies.json").read_text())
    assert len(kept["runs"]) == 3
