"""What is decoded at once is counted in numbers, not in points."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flowvae

# 200,000 values a datum, 4,096 points and 20 data: some gigabytes if whole.
_DECODE = """
import re
import torch, flowvae
from flowvae.data import Split
from flowvae.evaluation import evaluate_model, grid_log_joint

torch.set_num_threads(1)
config = flowvae.Config(hidden_dims=(2,), latent_dim=2)
model = flowvae.build_vae(config, (400, 500)).eval()
x = torch.rand(20, 200_000)

def mebibytes(which):
    return int(re.search(which + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

before = mebibytes("VmRSS")
assert grid_log_joint(model, x[:2], torch.randn(4096, 2)).shape == (2, 4096)
evaluate_model(model, Split(x), samples=4)
print(mebibytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory as Linux tells it")
def test_data_of_many_values():
    done = subprocess.run(
        [sys.executable, "-c", _DECODE], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300


def test_of_few_values_the_widest_layer_is_counted():
    models = [flowvae.build_vae(flowvae.Config(hidden_dims=(w,)), (2,)) for w in (2, 500)]
    narrow, wide = (model.draws_at_once() for model in models)
    assert narrow // wide == 250
