"""g and Hg against autograd's explicit gradient and Hessian, and against finite differences."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout

from benchmark.data._batches import normalise
from benchmark.flow import (
    dot,
    evaluate,
    evaluating,
    fitting,
    gradients,
    hessian_gradients,
    measure_flow,
    parameters,
)
from benchmark.models import trace
from tests.conftest import tiny_images, tiny_net


class SmallNet(torch.nn.Module):
    """64 parameters: small enough for an explicit Hessian."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 2, stride=8, bias=False)
        self.bn = torch.nn.BatchNorm2d(2)
        self.linear = torch.nn.Linear(2, 10)

    def forward(self, x):
        return self.linear(torch.tanh(self.bn(self.conv(x))).mean((2, 3)))


def explicit(net, images, labels, temperature):
    """Gradient and Hessian of the mean loss as one vector and one matrix, in evaluation mode."""
    net.eval()
    x, theta = normalise(images, torch.float64), dict(net.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in theta.values()])

    def loss(vector):
        parts = vector.split([p.numel() for p in theta.values()])
        values = {
            name: part.view_as(p) for (name, p), part in zip(theta.items(), parts, strict=True)
        }
        return cross_entropy(torch.func.functional_call(net, values, (x,)) / temperature, labels)

    return torch.func.grad(loss)(flat), torch.func.hessian(loss)(flat)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_gradient_and_hessian_product_equal_the_explicit_ones(batch_size):
    torch.manual_seed(0)
    net = SmallNet().double()
    images, labels = tiny_images(8)
    g, hessian = explicit(net, images, labels, 2.0)
    ours = gradients(net, images, labels, (2.0,), batch_size=batch_size).mean
    product = hessian_gradients(net, images, labels, ours, batch_size=batch_size)[2.0]
    torch.testing.assert_close(
        torch.cat([v.flatten() for v in ours[2.0].values()]), g, rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(
        torch.cat([v.flatten() for v in product.values()]), hessian @ g, rtol=1e-9, atol=1e-12
    )


def test_several_temperatures_share_a_pass():
    net, (images, labels) = tiny_net("vgg13", dtype=torch.float64), tiny_images(6)
    together = gradients(net, images, labels, (1.0, 5.0, 200.0), batch_size=4)
    products = hessian_gradients(net, images, labels, together.mean, batch_size=4)
    for t in (1.0, 5.0, 200.0):
        alone = gradients(net, images, labels, (t,), batch_size=3)
        product = hessian_gradients(net, images, labels, alone.mean, batch_size=3)
        for name in together.mean[t]:
            torch.testing.assert_close(
                together.mean[t][name], alone.mean[t][name], rtol=1e-9, atol=1e-13
            )
            torch.testing.assert_close(products[t][name], product[t][name], rtol=1e-8, atol=1e-13)


def test_theta_hg_is_half_the_derivative_of_the_squared_gradient_norm_along_theta():
    """d/de |g(theta + e theta)|^2 = 2 theta.Hg, by central differences."""
    net, (images, labels) = tiny_net("vgg13", dtype=torch.float64), tiny_images(6)
    flow = measure_flow(net, images, labels, 5.0).numbers
    squares = []
    for step in (1e-5, -1e-5):
        moved = tiny_net("vgg13", dtype=torch.float64)
        with torch.no_grad():
            for p in moved.parameters():
                p.mul_(1 + step)
        squares.append(measure_flow(moved, images, labels, 5.0).numbers["grad_norm"] ** 2)
    assert flow["theta_hg"] == pytest.approx((squares[0] - squares[1]) / 4e-5, rel=1e-4)


def test_gradient_flow_lowers_the_loss_as_predicted():
    """A small step along -g changes loss, |theta|^2 and |g|^2 by -|g|^2, -2 theta.g and -2 g.Hg
    times the step."""
    net, (images, labels) = tiny_net("vgg13", dtype=torch.float64), tiny_images(6)
    before = measure_flow(net, images, labels, 5.0)
    step = 1e-6
    with torch.no_grad():
        for name, p in parameters(net).items():
            p.sub_(before.g[name], alpha=step)
    old, new = before.numbers, measure_flow(net, images, labels, 5.0).numbers
    assert (new["loss"] - old["loss"]) / step == pytest.approx(-(old["grad_norm"] ** 2), rel=1e-3)
    change = (new["weight_norm_sq"] - old["weight_norm_sq"]) / step
    assert change == pytest.approx(-2 * old["theta_g"], rel=1e-3, abs=1e-5)
    change = (new["grad_norm"] ** 2 - old["grad_norm"] ** 2) / step
    assert change == pytest.approx(-2 * old["g_hg"], rel=1e-3)


def test_passes_leave_the_net_untouched():
    net, (images, labels) = tiny_net("mobilenet_v1"), tiny_images(6)
    net.train()
    net.bn1.eval()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    rng = torch.random.get_rng_state()
    measure_flow(net, images, labels, 5.0)
    evaluate(net, images, labels, 5.0)
    assert torch.equal(rng, torch.random.get_rng_state())
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert not net.bn1.training
    assert net.layers[0].bn1.training


def test_passes_leave_the_mode_of_the_traced_net_itself():
    """What its own code asks for, as a functional dropout does."""

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

        def forward(self, x):
            return self.head(dropout(self.conv(x).mean((2, 3)), 0.5, self.training))

    images, labels = tiny_images(6)
    net = trace(Dropping(), torch.zeros(2, 3, 32, 32))
    for training in (True, False):
        net.train(training)
        evaluate(net, images, labels, 5.0)
        torch.manual_seed(0)
        one, other = net(torch.ones(2, 3, 32, 32)), net(torch.ones(2, 3, 32, 32))
        assert torch.equal(one, other) != training


def test_evaluate_agrees_with_the_gradient_pass():
    net, (images, labels) = tiny_net("resnet56", dtype=torch.float64), tiny_images(7)
    loss, accuracy = evaluate(net, images, labels, 5.0, batch_size=3)
    numbers = measure_flow(net, images, labels, 5.0).numbers
    assert (loss, accuracy) == (pytest.approx(numbers["loss"]), numbers["accuracy"])
    g = gradients(net, images, labels, (5.0,)).mean[5.0]
    assert numbers["grad_norm"] == pytest.approx(float(dot(g, g)) ** 0.5)


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 2500), (32, 2500), (64, 625), (224, 51), (4096, 1)]
)
def test_a_gpu_takes_fewer_images_at_once_if_they_are_large(side, expected):
    assert fitting(2500, torch.empty(1, side, side, 3, dtype=torch.uint8)) == expected
    assert fitting(2500, torch.empty(1, 3, side, side)) == expected


def test_scoring_is_without_tf32_and_leaves_the_setting():
    before = torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            with evaluating(nn.Linear(2, 2)):
                assert not torch.backends.cudnn.allow_tf32
                assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.backends.cudnn.allow_tf32 == allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before
