"""The trainer: repeatable, stoppable at any update, guarded, and equal to the plain loop."""

from __future__ import annotations

import math
from itertools import chain, islice

import pytest
import torch

import flowvae
from flowvae import TrainingError
from flowvae.config import resolve_config
from flowvae.data import Dataset
from flowvae.precision import at_least_float32
from flowvae.terms import ElboTerms
from flowvae.training import Trainer
from tests.helpers.making import trainer_of

SETTINGS = {"hidden_dims": (16,), "batch_size": 30}


def make(data: Dataset, **settings) -> Trainer:
    return trainer_of(resolve_config(**{**SETTINGS, **settings}), data)


def epochs(trainer: Trainer, n: int) -> list[dict[str, float]]:
    rows = []
    for _ in range(n):
        for _ in trainer.steps():
            pass
        rows.append(trainer.means.read())
    return rows


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in trainer.parameters])


def last_bias(trainer: Trainer) -> torch.Tensor:
    return dict(trainer.model.named_parameters())["decoder.1.bias"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("binarization", ["none", "dynamic"])
def test_the_same_seed_gives_the_same_bits(small_data, precision, binarization):
    data = flowvae.data.binarize(small_data, binarization)
    first, second = (make(data, precision=precision, num_flows=5) for _ in range(2))
    assert epochs(first, 2) == epochs(second, 2)
    assert torch.equal(weights(first), weights(second))
    third = make(data, precision=precision, num_flows=5, seed=1)
    assert epochs(third, 2) != epochs(make(data, precision=precision, num_flows=5), 2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "cosine", "epochs": 3},
        {"schedule": "one_cycle", "epochs": 3},
        {"schedule": "step", "schedule_epochs": 1},
        {"accumulate": 2},
        {"max_grad_norm": 1.0, "precision": "bfloat16"},
        {"averaging": 0.9},
        {"encoder_steps": 2, "encoder_dropout": 0.2, "max_grad_ratio": 1.1},
        {"warmup": "kl", "warmup_steps": 9, "objective": "iwae", "samples": 3},
    ],
)
@pytest.mark.parametrize("done", [0, 1, 4, 7, 9])
def test_a_saved_state_goes_on_exactly_where_it_stopped(small_data, tmp_path, settings, done):
    data = flowvae.data.binarize(small_data, "dynamic")
    whole, stopped = make(data, **settings), make(data, **settings)
    rows = epochs(whole, 3)
    left, positions = done, []
    while left:  # stop after so many updates, in the middle of an epoch or between two
        left -= len(list(islice(stopped.steps(), left)))
        positions.append(stopped.position)
    assert not any(positions[:-1])
    stopped.save(tmp_path / "state.safetensors")
    again = make(data, **{**settings, "seed": 0})
    epochs(again, 1)  # whatever it did before is forgotten
    again.load(tmp_path / "state.safetensors")
    found = epochs(again, 3 - again.epoch)
    assert torch.equal(weights(again), weights(whole))
    assert found == rows[3 - len(found) :]
    assert again.step == whole.step


def test_it_is_the_plain_loop(small_data):
    """The same draws through a loop of plain PyTorch give the same weights."""
    trainer = make(small_data, num_flows=4, max_grad_norm=5.0)
    model = flowvae.build_vae(resolve_config(**SETTINGS, num_flows=4), small_data.data_shape)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    order, noise = (torch.Generator().manual_seed(0) for _ in range(2))
    for _ in range(2):
        for index in torch.randperm(200, generator=order).split(30):
            terms = model.elbo_terms(small_data.train.values(index), generator=noise)
            adam.zero_grad()
            (-terms.log_weight.mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            adam.step()
    epochs(trainer, 2)
    plain = torch.cat([p.detach().ravel() for p in model.parameters()])
    torch.testing.assert_close(weights(trainer), plain, rtol=1e-4, atol=1e-5)


def test_further_updates_of_the_encoder_leave_the_decoder_alone(small_data):
    """Two of three updates are of encoder and posterior; each is a plain step of Adam."""
    settings = {"num_flows": 4, "encoder_steps": 3}
    trainer = make(small_data, **settings)
    model = flowvae.build_vae(resolve_config(**SETTINGS, **settings), small_data.data_shape)
    inside = [*model.encoder.parameters(), *model.posterior_head.parameters()]
    outside = [*model.prior.parameters(), *model.decoder.parameters()]
    adams = [torch.optim.Adam(part, lr=1e-3, weight_decay=1e-5) for part in (inside, outside)]
    order, noise = (torch.Generator().manual_seed(0) for _ in range(2))
    for index in torch.randperm(200, generator=order).split(30):
        for stepping in (adams[:1], adams[:1], adams):
            terms = model.elbo_terms(small_data.train.values(index), generator=noise)
            model.zero_grad()
            (-terms.log_weight.mean()).backward()
            for adam in stepping:
                adam.step()
    epochs(trainer, 1)
    plain = torch.cat([p.detach().ravel() for p in model.parameters()])
    torch.testing.assert_close(weights(trainer), plain, rtol=1e-4, atol=1e-5)
    assert int(trainer.step) == 7


def test_accumulated_gradients_are_those_of_a_larger_batch(small_data):
    """With the draws given, two batches of 50 and one of 100 make the same update."""
    large, small = make(small_data, batch_size=100), make(small_data, batch_size=50, accumulate=2)
    x = small_data.train.values(slice(0, 100))
    noise = torch.randn(1, 100, 2)

    def fixed(model, part, generator, step):
        del generator, step
        first = 0 if part[0].equal(x[0]) else 50
        rows = slice(first, first + len(part))
        terms = model.terms_at(part, model.posterior(part).at_noise(noise[:, rows]))
        return -terms.log_weight.mean(), ElboTerms(*(t.detach() for t in terms))

    vars(fixed)["forget"] = small.objective.forget
    large.objective = small.objective = fixed
    one, two = large._update([x]), small._update([x[:50], x[50:]])
    assert one.log_weight.shape == two.log_weight.shape
    torch.testing.assert_close(weights(large), weights(small), rtol=1e-5, atol=1e-6)
    assert large.means.read() == pytest.approx(small.means.read())


def _poisoned(trainer: Trainer, bad: set[int]) -> None:
    objective, calls = trainer.objective, iter(range(10**6))

    def poisoned(model, x, generator, step):
        loss, terms = objective(model, x, generator, step)
        if next(calls) in bad:
            loss, terms = loss * math.nan, ElboTerms(*(t * math.nan for t in terms))
        return loss, terms

    vars(poisoned)["forget"] = objective.forget
    trainer.objective = poisoned


def test_updates_without_a_finite_gradient_are_left_out_and_counted(small_data):
    trainer = make(small_data)
    _poisoned(trainer, {1, 4})
    before, seen = weights(trainer), []
    for _ in trainer.steps():
        seen.append(weights(trainer).equal(before))
        before = weights(trainer)
    assert seen == [False, True, False, False, True, False, False]
    assert int(trainer.skipped) == 2
    assert trainer.step == 5
    assert all(map(math.isfinite, trainer.means.read().values()))
    assert weights(trainer).isfinite().all()


@pytest.mark.parametrize("most", [None, 1.0])
def test_a_gradient_whose_square_overflows_would_stop_adam_and_is_left_out(small_data, most):
    trainer = make(small_data, max_grad_norm=most)
    objective, before = trainer.objective, weights(trainer)

    def steep(model, x, generator, step):
        loss, terms = objective(model, x, generator, step)
        return loss * 1e25, terms

    vars(steep)["forget"] = trainer.objective.forget
    trainer.objective = steep
    next(trainer.steps())
    assert (int(trainer.skipped), trainer.step) == (1, 0)
    assert weights(trainer).equal(before)


@pytest.mark.parametrize("batch_size", [30, 2])
def test_nothing_finite_for_long_is_an_error(small_data, batch_size):
    trainer = make(small_data, batch_size=batch_size)
    _poisoned(trainer, set(range(10**4)))
    with pytest.raises(TrainingError, match=r"not finite in .* updates in a row, .* of epoch 1: "):
        epochs(trainer, 1)


def test_the_error_says_what_was_not_finite_and_where(small_data):
    def complaint(trainer: Trainer, updates: int) -> str:
        for _ in islice(trainer.steps(), updates):
            pass
        with pytest.raises(TrainingError) as raised:
            epochs(trainer, 1)
        return str(raised.value)

    trainer = make(small_data)
    with torch.no_grad():
        last_bias(trainer)[3] = torch.nan
    assert (
        "in 7 updates in a row, the last of them update 7 of epoch 1: log_likelihood was not "
        "finite for 20 of 20 data" in complaint(trainer, 0)
    )
    trainer = make(small_data, batch_size=2)
    last_bias(trainer).register_hook(lambda grad: grad * torch.nan)
    assert (
        "the last of them update 50 of epoch 1: every term was finite, the gradient of decoder"
        in (complaint(trainer, 0))
    )


def test_the_update_off_the_cpu_does_the_same_without_waiting(small_data):
    """Its branch, which the CPU does not take, run here by hand."""
    settings = {"max_grad_ratio": 2.0, "encoder_steps": 2}
    ordinary, other = make(small_data, **settings), make(small_data, **settings)
    for trainer in (ordinary, other):
        _poisoned(trainer, {2, 5})  # in an update of the encoder, and of the whole
    other.optimizer = torch.optim.Adam(other.parameters, lr=1e-3, weight_decay=1e-5, fused=True)
    other.step = torch.zeros((), dtype=torch.long)
    other.device = torch.device("meta")  # any but the CPU
    for x in list(ordinary.batches)[:5]:
        ordinary._update([x])
        other._update([x])
    # By PyTorch's Adam and by ours: alike but for rounding.
    torch.testing.assert_close(weights(ordinary), weights(other), rtol=1e-5, atol=1e-7)
    assert int(other.step) == ordinary.step == 4
    assert int(other.skipped) == int(ordinary.skipped) == 1
    assert other.means.read() == pytest.approx(ordinary.means.read())


def test_bfloat16_reaches_the_products_alone(small_data):
    """Densities, terms and weights stay in float32, and the loss is near that of float32."""
    trainer = make(small_data, precision="bfloat16", posterior="planar", num_flows=4)
    seen: list[torch.dtype] = []
    last = list(trainer.model.decoder.modules())[-1]
    last.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    rows = epochs(trainer, 1)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.parameters} == {torch.float32}
    trainer.model.decode(torch.zeros(1, 2))
    assert seen[-1] == torch.float32  # no longer than training
    q = trainer.model.posterior(small_data.train.values(slice(0, 3)))
    assert q.base.loc.dtype == torch.float32
    exact = epochs(make(small_data, num_flows=4), 1)[0]["elbo"]
    assert rows[0]["elbo"] == pytest.approx(exact, rel=0.02)
    assert at_least_float32(torch.ones(1).double()).dtype == torch.float64


def test_gradients_are_clipped_to_the_norm(small_data):
    config = resolve_config(hidden_dims=(8,), max_grad_norm=0.01)
    trainer = trainer_of(config, small_data)
    for _ in trainer.steps():
        norms = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
        assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("most", [None, 20.0])
def test_gradients_are_clipped_to_a_multiple_of_their_usual_norm(small_data, most):
    """By a loop of its own, in which some losses are a thousand times as large, or not finite."""
    factors = {3: 1e3, 5: math.nan, 8: 1e4, 9: 1e-3, 11: math.inf}
    settings = {"num_flows": 4, "max_grad_ratio": 1.5, "max_grad_norm": most}
    trainer = make(small_data, **settings)
    objective, calls = trainer.objective, iter(range(10**6))

    def uneven(model, x, generator, step):
        loss, terms = objective(model, x, generator, step)
        return loss * factors.get(next(calls), 1.0), terms

    vars(uneven)["forget"] = trainer.objective.forget
    trainer.objective = uneven
    norms: list[float] = []
    step = trainer.optimizer.step

    def stepping() -> None:
        gradients = [p.grad.norm() for p in trainer.parameters if p.grad is not None]
        norms.append(torch.stack(gradients).norm().item())
        step()

    trainer.optimizer.step = stepping
    plain = make(small_data, num_flows=4)
    calls_of_plain, usual, wanted = iter(range(10**6)), 0.0, []
    for _ in range(2):
        for x in plain.batches:
            plain._backward([x])
            factor = factors.get(next(calls_of_plain), 1.0)
            if not math.isfinite(factor):
                continue
            gradients = [p.grad for p in plain.parameters if p.grad is not None]
            norm = factor * torch.stack([g.norm() for g in gradients]).norm().item()
            largest = 1.5 * usual if wanted else 1.5 * norm
            clipped = min(norm, largest)
            usual += (clipped - usual) / (len(wanted) + 1)  # fewer than a hundred: a plain mean
            wanted.append(min(clipped, most or math.inf))
            for gradient in gradients:
                gradient.mul_(factor * wanted[-1] / norm)
            plain.optimizer.step()
    epochs(trainer, 2)
    assert norms == pytest.approx(wanted, rel=1e-3)
    assert trainer._usual_norm[0].tolist() == pytest.approx([usual, len(wanted)], rel=1e-3)
    torch.testing.assert_close(weights(trainer), weights(plain), rtol=1e-3, atol=1e-4)
    assert int(trainer.skipped) == 2


def test_averaged_weights_are_the_moving_average(small_data):
    """θ̄ ← d θ̄ + (1 - d) θ with d = min(decay, (1 + t)/(10 + t)), written out again."""
    trainer = make(small_data, averaging=0.9)
    expected, last = torch.empty(0), torch.empty(0)
    for t, _ in enumerate(chain(trainer.steps(), trainer.steps(), trainer.steps())):
        last = weights(trainer)
        decay = min(0.9, (1 + t) / (10 + t)) if t else 0.0
        expected = last if t == 0 else decay * expected + (1 - decay) * last
    with trainer.averaged_weights():
        torch.testing.assert_close(weights(trainer), expected)
    assert torch.equal(weights(trainer), last)
    assert not torch.allclose(expected, last)
    trainer.settle()
    torch.testing.assert_close(weights(trainer), expected)


def test_without_averaging_the_weights_are_the_weights(small_data):
    trainer = make(small_data)
    epochs(trainer, 1)
    before = weights(trainer)
    with trainer.averaged_weights():
        assert torch.equal(weights(trainer), before)
    trainer.settle()
    assert torch.equal(weights(trainer), before)
