"""The growing head: its equations in float64, and its compact form."""

import pytest
import torch
from torch import Tensor

from compressbench import accounting, models, storage
from compressbench.layers.deployment import deploy
from compressbench.models.growing import GrowingClassifier, GrowingHead, norm

F, N, SESSIONS = 7, 5, (4, 2, 3)


def head(expansions: tuple[int, ...] = (N, N), sessions: tuple[int, ...] = SESSIONS) -> GrowingHead:
    torch.manual_seed(0)
    made = GrowingHead(F, N, sessions, expansions, 0.6).double()
    for session in made.parts:
        if session.rows:
            session.gate.uniform_()
    return made


def x(count: int = 6) -> Tensor:
    return torch.randn(count, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def unit(v: Tensor) -> Tensor:
    return v / (1e-6 + v.square().sum().sqrt())


def test_logits_are_those_of_the_equations() -> None:
    model, inputs = head(), x()
    expected = []
    for sample in inputs:
        h = model.nodes.weight @ sample
        row = [model.parts[0].classifier.weight @ unit(h)]
        for session in model.parts[1:]:
            z = session.expansion.weight @ sample
            row.append(session.classifier.weight @ unit(0.6 * h + session.gate * z))
        expected.append(torch.cat(row))
    torch.testing.assert_close(model(inputs), torch.stack(expected), rtol=1e-12, atol=1e-14)


def test_norm_of_zero_is_zero_with_a_finite_gradient() -> None:
    zero = torch.zeros(2, N, dtype=torch.float64, requires_grad=True)
    norm(zero).sum().backward()
    assert torch.equal(norm(zero), torch.zeros_like(zero)) and torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("last", [0, 1, 2])
def test_as_many_logits_as_classes_seen_and_no_bias(last: int) -> None:
    model = head((N,) * last, SESSIONS[: last + 1])
    assert model(x()).shape == (6, sum(SESSIONS[: last + 1]))
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    assert torch.equal(model(x())[:, :4], head()(x())[:, :4]) or last  # the base session reads V_0 only


def test_logits_are_linear_in_v_and_do_not_change_with_the_scale_of_the_nodes() -> None:
    model, before = head(), head()(x())
    with torch.no_grad():
        model.parts[1].classifier.weight.mul_(3)
    torch.testing.assert_close(model(x())[:, 4:6], 3 * before[:, 4:6])
    model = head()
    with torch.no_grad():
        for weight in (model.nodes.weight, *(s.expansion.weight for s in model.parts[1:])):
            weight.mul_(10)
    torch.testing.assert_close(model(x()), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("beta", "gates"), [(1, (0.26894, 0.5, 0.73106)), (3, (0.04743, 0.5, 0.95257))])
def test_gates_are_sigmoids_of_the_mean_activation(beta: float, gates: tuple[float, ...]) -> None:
    model = GrowingHead(3, 3, (2, 2), (3,), 0.6).double()
    with torch.no_grad():
        model.last.expansion.weight.copy_(torch.eye(3))
    batch = torch.tensor([[-3.0, 1.0, 0.0], [1.0, -1.0, 2.0]], dtype=torch.float64)
    assert model.self_activated(batch, beta).gate.tolist() == pytest.approx(gates, abs=5e-6)


def test_gates_in_training_are_one_vector_per_batch_and_stored_ones_in_tests() -> None:
    model, inputs = head(), x()
    alone = torch.cat([model(sample[None]) for sample in inputs])
    torch.testing.assert_close(model(inputs), alone, rtol=1e-12, atol=1e-14)
    output = model.self_activated(inputs, beta=2.0)
    assert output.gate.shape == (N,)
    z = model.last.expansion(inputs)
    torch.testing.assert_close(output.gate, torch.sigmoid(2 * z.mean(0)))
    assert torch.equal(output.logits[:, :6], model(inputs)[:, :6])  # earlier sessions: their stored gates


def test_gradient_reaches_the_expansion_through_the_gate() -> None:
    model = head()
    model.self_activated(x(), 1.0).gate.sum().backward()
    assert model.last.expansion.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kept", [(3, 2), (N, 0), (0, 1)])
def test_closed_nodes_can_go(kept: tuple[int, int]) -> None:
    model = head()
    for session, rows in zip(model.parts[1:], kept, strict=True):
        session.gate.zero_()[torch.randperm(N)[:rows]] = 1
    small = model.compact(0.01).double()
    torch.testing.assert_close(small(x()), model(x()), rtol=0, atol=1e-5)
    later = sum(k * F + c * N for k, c in zip(kept, SESSIONS[1:], strict=True))
    assert sum(p.numel() for p in small.parameters()) == N * F + SESSIONS[0] * N + later


def test_soft_gates_below_the_threshold_move_the_logits_little() -> None:
    model = head()
    for session in model.parts[1:]:
        session.gate[:3] = 0.009
    small = model.compact(0.01).double()
    assert small.arguments["expansions"] == [2, 2]
    torch.testing.assert_close(small(x()), model(x()), rtol=0, atol=1e-2)


def grown(form: str) -> GrowingClassifier:
    torch.manual_seed(0)
    arguments = {"backbone": "plain", "backbone_arguments": {"in_channels": 1, "widths": [4, 7], "strides": [2, 2]}}
    network = models.build("growing", **arguments, nodes=N, sessions=[4]).eval()
    dense = network.classifier
    for classes in SESSIONS[1:]:
        dense.grow(classes, N).gate.copy_((torch.rand(N) > 0.4).float())
    return network.with_head(dense if form == "dense" else dense.compact(0.01))


@pytest.mark.parametrize("form", ["dense", "compact"])
def test_a_grown_network_is_stored_deployed_and_counted(form: str, tmp_path) -> None:
    network, images = grown(form), torch.randn(3, 1, 8, 8)
    storage.save_model(network, tmp_path)
    assert torch.equal(storage.load_model(tmp_path)(images), network(images))
    torch.testing.assert_close(deploy(network)(images), network(images), rtol=1e-4, atol=1e-5)
    account = accounting.account(network, (1, 8, 8))
    rows = sum(session.rows for session in network.classifier.parts)
    conv = (4 * 9) * 16 + (7 * 4 * 9) * 4
    assert account.macs == conv + N * 7 + sum(SESSIONS) * N + rows * 7
    torch.testing.assert_close(grown("compact")(images), grown("dense")(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["dense", "compact"])
@pytest.mark.parametrize("runtime", ["torch_eager", "torch_compiled", "onnxruntime"])
def test_both_forms_run_on_every_dense_runtime(form: str, runtime: str) -> None:
    from compressbench.timing import latency

    base = grown("dense")
    result = latency.measure(base, grown(form), (1, 8, 8), runtimes=[runtime], threads=[1], rounds=1, warmup=1)
    assert not result["skipped"] and len(result["measurements"]) == 1


def test_wrong_sizes_are_named() -> None:
    from compressbench.errors import UserError

    for wrong in ({"expansions": [513]}, {"expansions": [1, 1]}, {"sessions": []}):
        with pytest.raises(UserError, match="growing: "):
            models.build("growing", **({"sessions": [4, 2]} | wrong))
