"""One set of weights, many networks: slices, operating points, budgets."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressbench import accounting, storage
from compressbench.errors import UserError
from compressbench.method.operating_points import Adaptive, Blockwise
from compressbench.models.subnets import as_tensors
from tests.contexts.supernet import ENDS, space, switchable


def test_a_switched_network_equals_the_fixed_one() -> None:
    model = switchable().eval()
    images = torch.randn(5, 1, 28, 28)
    norms = [m for m in model.modules() if hasattr(m, "means")]
    for norm in norms:
        norm.means.normal_()
        norm.variances.uniform_(0.5, 2)
    for point in model.operating_points:
        fixed = model.at(point)
        assert type(next(m for m in fixed.modules() if isinstance(m, nn.Conv2d))) is nn.Conv2d
        assert torch.allclose(model.switch(point)(images), fixed(images), atol=1e-5)
    outputs = [model.switch(p)(images) for p in model.operating_points]
    assert not torch.allclose(outputs[0], outputs[1])
    assert isinstance(model, Adaptive)


def test_an_operating_point_copies_no_weight() -> None:
    model = switchable()
    weight = model.network.blocks[1].pointwise.conv.weight
    assert model.at("min").network.blocks[1].pointwise.conv.weight.data_ptr() == weight.data_ptr()


def test_a_stored_model_comes_back_with_its_points(tmp_path: Path) -> None:
    model = switchable().eval()
    storage.save_model(model, tmp_path)
    again = storage.load_model(tmp_path)
    images = torch.randn(2, 1, 28, 28)
    assert again.operating_points == {"min": "smallest", "middle": "middle", "max": "largest"}
    assert torch.equal(again.at("middle")(images), model.at("middle")(images))


def test_a_budget_chooses_the_most_expensive_point_that_it_pays() -> None:
    model = switchable()
    assert [model.within(b) for b in (1e5, 299_999, 300_000, 1e9)] == ["min", "min", "middle", "max"]
    with pytest.raises(UserError, match="no operating point costs at most 5000 macs: the least is 98640"):
        model.within(5000)
    with pytest.raises(UserError, match="not known in 'latency'"):
        model.within(5000, "latency")
    with pytest.raises(UserError, match="unknown operating point 'half'"):
        model.at("half")


def test_channels_outside_the_slice_get_no_gradient_and_do_not_move() -> None:
    model, smallest = switchable().train(), space().smallest
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model.switch(smallest)(torch.randn(8, 1, 28, 28)), torch.arange(8)).backward()
    conv = model.network.blocks[1].pointwise.conv
    assert conv.active == 32 and not conv.weight.grad[32:].any() and not conv.weight.grad[:, 16:].any()
    assert conv.weight.grad[:32, :16].any()
    optimizer.step()
    assert torch.equal(conv.weight[32:], before["network.blocks.1.pointwise.conv.weight"][32:])
    bn = model.network.blocks[3].depthwise.bn
    assert torch.equal(bn.weight[32:], before["network.blocks.3.depthwise.bn.weight"][32:])


def test_weights_start_with_the_full_fan_out() -> None:
    model = switchable()
    depthwise = model.network.blocks[3].depthwise.conv.weight.detach()
    assert depthwise.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.15)
    assert model.network.classifier.weight.detach().std() == pytest.approx(0.01, rel=0.1)


def test_the_blocks_of_a_point_are_a_chain_from_image_to_logits() -> None:
    model = switchable()
    assert isinstance(model, Blockwise)
    for name, point in ENDS.items():
        chain = [model.block(key) for key in model.blocks(name)]
        shapes = [example.shape for _, example in chain]
        assert shapes[0] == (1, 1, point["resolution"], point["resolution"])  # the resize before it is not in the table
        assert [network.eval()(example).shape for network, example in chain] == [*shapes[1:], (1, 10)]
        costs = [accounting.flops(network, tuple(x.shape[1:]), "macs_with_pool") for network, x in chain]
        assert sum(costs) == model.layout.macs(*as_tensors([model.subnet(name)])).item()
