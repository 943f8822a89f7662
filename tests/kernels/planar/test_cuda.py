"""The Triton kernels against the float64 reference: in Triton's interpreter, and on a GPU if any.

The interpreter must be chosen before triton is imported, so another process runs this file as a
program; it prints what disagrees. A second one compiles the kernels for a GPU that need not exist.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowvae.flows import reference

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


NAMES = ("end", "ladj", "start_bar", "w_bar", "u_bar", "b_bar")


BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-9}


# S, P, D, K and rows of a tile, None for the launcher's choice: sets to a program if S = 1, else
# samples, and several blocks of those where there are fewer rows than samples.
SHAPES = [
    (1, 1, 1, 1, None),
    (1, 9, 3, 16, 4),
    (1, 7, 20, 4, 8),
    (1, 3, 2, 4, None),
    (5, 1, 1, 4, 8),
    (5, 3, 3, 4, 2),
    (5, 2, 20, 1, 4),
    (5, 3, 2, 1, None),
    (70, 1, 3, 16, 32),
    (70, 1, 20, 4, 64),
    (70, 1, 2, 4, 128),
    (70, 2, 1, 1, 16),
]


def normal(S: int, P: int, D: int, K: int, scale: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (S, P, D), (P, K, D), (P, K, D), (P, K)
    z, *others = (torch.randn(s, generator=generator) for s in shapes)
    return [z, *(scale * x for x in others)]


def by_kernel(inputs, shift, inverted, seed=0) -> list[Tensor]:
    """Outputs, and gradients under random weights of the outputs."""
    from flowvae.kernels.planar import cuda

    end, ladj, kept = cuda.forward(*inputs, shift, True, inverted)
    S, P, D = end.shape
    assert kept.dtype == torch.float64
    assert kept.shape == (S * P * (inputs[1].shape[1] + D),)
    weights = [x.to(end) for x in bars(end, ladj, seed)]
    return [end, ladj, *cuda.backward(*inputs[1:], kept, *weights, shift, inverted)]


def by_reference(inputs, shift, inverted, seed=0) -> list[Tensor]:
    function = reference.inverse if inverted else reference.forward
    inputs = [x.detach().cpu().double().requires_grad_() for x in inputs]
    outputs = function(*inputs, shift)
    gradients = torch.autograd.grad(outputs, inputs, bars(*outputs, seed))
    return [*(o.detach() for o in outputs), *gradients]


def bars(end: Tensor, ladj: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, generator=generator).double() for x in (end, ladj)]


def error(found: Tensor, truth: Tensor) -> float:
    """Largest error relative to the largest value; NaN where either has one."""
    return ((found - truth).abs().max() / truth.abs().max().clamp(min=1e-6)).item()


def disagreements(inputs, shift, inverted) -> list[str] | None:
    """What is wrong, or None where the map is chaotic: there no two arithmetics agree."""
    truth = by_reference(inputs, shift, inverted)
    # At w = 0 û is not continuous: the kernels' w̄ is that of the map, the reference's another.
    of_zero = inverted & (inputs[1].cpu() == 0).all(-1, keepdim=True)
    nudged = by_reference([x.double() * (1 + 3e-16) for x in inputs], shift, inverted)
    own = [error(a, b) for a, b in zip(nudged, truth, strict=True)]
    if not max(own) < 1e-7:
        return None
    dtype = inputs[0].dtype
    found = by_kernel(inputs, shift, inverted)
    truth[3], found[3] = (x.cpu().masked_fill(of_zero, 0.0) for x in (truth[3], found[3]))
    wrong = []
    for name, a, b, o in zip(NAMES, found, truth, own, strict=True):
        bound = BOUNDS[dtype] + (100 * o if dtype == torch.float64 else 0.0)
        if a.dtype != dtype or a.shape != b.shape or not error(a.cpu().double(), b) < bound:
            wrong.append(f"{name}: {error(a.cpu().double(), b):.1e}")
    return wrong


KINDS = list(itertools.product(reference.SHIFTS.values(), (False, True), BOUNDS))


def compare_random(device: str, some: slice = slice(None)) -> list[str]:
    """These of all pairs of a shape and a scale, with one after the other of ``KINDS``."""
    from flowvae.kernels.planar import cuda

    choose = cuda._tile
    wrong, compared = [], 0
    pairs = list(enumerate(itertools.product(SHAPES, (0.3, 3.0, 30.0))))[some]
    for n, ((*sizes, rows), scale) in pairs:
        shift, inverted, dtype = KINDS[n % len(KINDS)]
        inputs = [x.to(device, dtype) for x in normal(*sizes, scale, n)]
        if rows is not None:
            width = choose(*sizes[:3], False)[1]
            tile = rows, width, max(rows * width // 256, 1)
            cuda._tile = lambda *_, tile=tile, **__: tile
        found = disagreements(inputs, shift, inverted)
        cuda._tile = choose
        compared += found is not None
        case = f"{sizes} rows {rows} scale {scale} {shift:.2f} inverted {inverted} {dtype}"
        wrong += [f"{case} {x}" for x in found or []]
    if compared < len(pairs) / 2:
        wrong.append(f"only {compared} cases of {len(pairs)} could be compared")
    return wrong


def compare_layouts(device: str) -> list[str]:
    """Strided inputs, rows of w that are zero, no point, no layer, and nothing kept."""
    from flowvae.kernels.planar import cuda

    wrong = []
    for inverted in (False, True):
        z, w, u, b = (x.to(device).double() for x in normal(4, 3, 3, 2, 0.5, 1))
        strided = [z.transpose(0, 1).contiguous().transpose(0, 1)]
        strided += [x.repeat_interleave(2, 0)[::2] for x in (w, u, b)]
        flipped = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (z, w, u, b)]
        zero = [z, w * (torch.arange(2).to(w) % 2)[:, None], u, b]
        one_zero = [x[:1] if x is z else x for x in zero]
        none = [z, w[:, :0], u[:, :0], b[:, :0]]
        cases = {"strided": strided, "flipped": flipped, "zero": zero, "one_zero": one_zero}
        for name, inputs in cases.items():
            found = disagreements(inputs, 0.0, inverted)
            wrong += [f"{name} inverted {inverted} {x}" for x in found or []]
        end, ladj, kept = cuda.forward(*none, 0.0, True, inverted)
        start_bar, *_ = cuda.backward(*none[1:], kept, z, ladj, 0.0, inverted)
        if not (torch.equal(end, z) and torch.equal(start_bar, z) and not ladj.any()):
            wrong.append("no layer")
        empty = cuda.forward(z[:, :0], *(x[:0] for x in (w, u, b)), 0.0, True, inverted)
        shapes = [tuple(x.shape) for x in empty]
        if shapes != [(4, 0, 3), (4, 0), (0,)]:
            wrong.append(f"no point {shapes}")
        if cuda.forward(z, w, u, b, 0.0, False, inverted)[2].numel():
            wrong.append("kept though not asked to")
    return wrong


def compare_extremes(device: str) -> list[str]:
    """Parameters of ±100, and w·u from -1e4 to 1e4 in one dimension."""
    from flowvae.kernels.planar import cuda

    wrong = []
    for shift, inverted in itertools.product(reference.SHIFTS.values(), (False, True)):
        case = f"shift {shift:.2f} inverted {inverted}"
        for S in (1, 3):
            P, K, D = 6 // S, 4, 5
            shapes = (S, P, D), (P, K, D), (P, K, D), (P, K)
            generator = torch.Generator().manual_seed(S)
            inputs = [(200 * torch.rand(s, generator=generator) - 100).to(device) for s in shapes]
            found = by_kernel(inputs, shift, inverted)
            # An inverse's gradients may well be beyond float32.
            for name, x in list(zip(NAMES, found, strict=True))[: 2 if inverted else 6]:
                if not x.isfinite().all():
                    wrong.append(f"extremes {case} S {S} {name}")
        # One dimension, w = 1: every wu with every tau, down to where c = w·û rounds to -1.
        wu = [-1e4, -745, -300, -100, -40, -13, -11.9, -3, -0.1, 0, 0.54, 1.6, 40, 1e4]
        tau = [0.0, 1e-20, 1e-3, 0.5, -2.0, 9e3]
        pairs = torch.tensor(list(itertools.product(wu, tau)))
        P = len(pairs)
        inputs = [pairs[None, :, 1:], torch.ones(P, 1, 1), pairs[:, :1, None], torch.zeros(P, 1)]
        inputs = [x.to(device) for x in inputs]
        end, ladj, _ = cuda.forward(*inputs, shift, False, inverted)
        exact = [x.double() for x in inputs]
        if inverted:  # a root near a singularity is badly conditioned; its image is not
            start, log_det, _ = cuda.forward(*exact, shift, False, True)
            image, truth = reference.forward(start, *exact[1:], shift)[0], exact[0]
            allowed = 1e-12 * torch.maximum(1 + truth.abs(), 4e-4 * exact[2].abs()[None, :, 0])
        else:
            image = end.double()
            truth, log_det = reference.forward(*exact, shift)
            allowed = 1e-6 * (1 + truth.abs())
        if not (end.isfinite().all() and ((image - truth).abs() <= allowed).all()):
            wrong.append(f"end over wu {case}")
        if not ((ladj - log_det).abs() <= 1e-6 * (1 + log_det.abs())).all():
            wrong.append(f"ladj over wu {case}")
    return wrong


def compile_all() -> list[str]:
    """Each kernel, both directions, for one point a set and for many, as code of sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from flowvae.kernels.planar import cuda

    wrong = []
    doubles = ("kept", "sums")
    values = ("z", "w", "u", "b", "end", "ladj", "end_bar", "ladj_bar", "start_bar")
    values += ("w_bar", "u_bar", "b_bar")
    for kernel, inverted, S, dtype in itertools.product(
        (cuda._map, cuda._adjoint), (False, True), (1, 70), ("fp32", "fp64")
    ):
        rows, width, warps = cuda._tile(S, 100, 20, kernel is cuda._adjoint)
        constants = {"D": 20, "SHIFT": 0.5, "TINY": 1e-38, "INVERTED": inverted, "SAVE": True}
        constants |= {"SHARED": S > 1, "ROWS": rows, "WIDTH": width}
        types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(values, f"*{dtype}")
        types |= dict.fromkeys(doubles, "*fp64") | dict.fromkeys(constants, "constexpr")
        source = ASTSource(
            kernel,
            {name: types[name] for name in kernel.arg_names},
            {name: value for name, value in constants.items() if name in kernel.arg_names},
        )
        options = {"num_warps": warps, "enable_fp_fusion": True}
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        if not built.asm.get("cubin"):
            wrong.append(f"{kernel.__name__} {inverted} {S} {dtype}")
    return wrong


def in_another_process(check: str, **environment: str) -> None:
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    shown = subprocess.run(
        [sys.executable, __file__, check],
        env={**variables, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert shown.returncode == 0, shown.stdout[-4000:] + shown.stderr[-4000:]
    assert shown.stdout.strip() == "all agree"


@pytest.mark.slow
@needs_triton
def test_in_the_interpreter():
    """Values, log-determinants and all four gradients; both directions, shifts and dtypes."""
    in_another_process("interpreter", TRITON_INTERPRET="1")


@pytest.mark.slow
@needs_triton
def test_compiles_for_a_gpu(tmp_path):
    in_another_process("compile", TRITON_CACHE_DIR=str(tmp_path))


@needs_triton
@pytest.mark.parametrize("whole", [False, True])
def test_tiles(whole):
    """Powers of two that hold a row, and no more rows than are of use."""
    from flowvae.kernels.planar import cuda

    for S, P, D in itertools.product((1, 2, 5, 70, 10**5), (1, 9, 10**3, 10**6), (1, 3, 20, 3000)):
        rows, width, warps = cuda._tile(S, P, D, whole)
        assert D <= width < 2 * D
        assert all(x & (x - 1) == 0 for x in (rows, width, warps))
        assert 1 <= rows < 2 * max(S, 32)
        assert 1 <= warps <= 16


@needs_triton
@pytest.mark.cuda
@pytest.mark.parametrize("first", range(0, 3 * len(SHAPES), 3))
def test_on_a_gpu(first):
    """In parts, because compiling the kernels is what takes the time."""
    wrong = compare_random("cuda", slice(first, first + 3))
    assert not wrong, "\n".join(wrong)


@needs_triton
@pytest.mark.cuda
@pytest.mark.parametrize("compare", [compare_layouts, compare_extremes])
def test_corners_on_a_gpu(compare):
    wrong = compare("cuda")
    assert not wrong, "\n".join(wrong)


@needs_triton
@pytest.mark.cuda
def test_the_same_twice_on_a_gpu():
    inputs = [x.cuda() for x in normal(70, 20, 5, 8, 0.3, 0)]
    first, again = (by_kernel(inputs, 0.0, False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "compile":
        warnings.simplefilter("error")
        wrong = compile_all()
    else:
        from flowvae.kernels.planar import cuda

        assert Path(cuda.__file__).name == "cuda.py"
        cuda._ENOUGH = 1  # the interpreter takes its time for each program
        wrong = compare_random("cpu") + compare_layouts("cpu") + compare_extremes("cpu")
    sys.stdout.write("\n".join(wrong) + "\n" if wrong else "all agree\n")
    sys.exit(bool(wrong))
