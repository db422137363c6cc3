"""`trace`: nets that do odd things are cut where that is sound, else refused in one line."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import (
    dropout,
    hardsigmoid,
    hardtanh,
    relu,
    scaled_dot_product_attention,
)
from torch.utils.flop_counter import FlopCounterMode

from benchmark.cost import cost
from benchmark.errors import UserError
from benchmark.flow import measure_flow
from benchmark.measures import MEASURES, score
from benchmark.models import _net, trace
from benchmark.pruning import compact, masked, select, shrink
from tests.benchmark.test_pruning import random_keep, train_steps
from tests.benchmark.test_trace import (
    CLOSE,
    assert_masked_equals_compact,
    inputs,
    lively,
    models,
)
from tests.conftest import tiny_images, tiny_net


class Odd(nn.Module):
    """Three convs and a head, put together by a function."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


def pooled(net, x):
    return net.head(x.mean((2, 3)))


def by_batch(net, x):
    x = relu(net.c(net.b(net.a(x)))).mean((2, 3), keepdim=True)
    return net.head(x.view(x.size(0), -1))


def aliased(net, x):
    y = z = net.b(net.a(x))
    z += z.sigmoid()
    return pooled(net, net.c(y))


ODD = {
    "a parameter is added": (
        lambda n, x: pooled(n, (y := relu(n.a(x))) + n.c(relu(n.b(y)) + n.norm.weight.sum())),
        ["a", "c"],
    ),
    "the weight of a conv is used beside it": (
        lambda n, x: pooled(n, n.c(relu(n.b(n.a(x))))) + n.b.weight.mean(), ["c"],
    ),
    "a sigmoid in place": (
        lambda n, x: ((y := n.b(n.a(x))).sigmoid_(), pooled(n, n.c(y)))[1], ["a", "c"],
    ),
    "a sum in place": (
        lambda n, x: ((y := n.b(n.a(x))).add_(y.sigmoid()), pooled(n, n.c(y)))[1], ["a", "c"],
    ),
    "an assigned sum of an alias": (aliased, ["a", "c"]),
    "the type of a weight is asked": (
        lambda n, x: pooled(n, n.c(n.b(n.a(x)).to(n.b.weight.dtype))), ["a", "c"],
    ),
    "zero does not stay zero": (
        lambda n, x: pooled(n, n.c(hardtanh(n.b(n.a(x)), 0.5, 2.0))), ["a", "c"],
    ),
    "a full conv writes what it reads": (
        lambda n, x: pooled(n, relu((y := n.a(x)) + n.b(y)) + y), ["a", "b"],
    ),
    "a norm reads what another conv reads too": (
        lambda n, x: pooled(n, n.c((y := n.a(x)) + n.b(relu(n.norm(y))))), ["a", "b", "c"],
    ),
    "a conv is called twice": (lambda n, x: pooled(n, n.c(n.b(n.b(n.a(x))))), ["c"]),
    "a gate is read by a norm": (
        lambda n, x: pooled(n, n.c((y := n.a(x)) * (g := n.b(y).sigmoid())) + n.norm(g)),
        ["a", "b", "c"],
    ),
    "a sigmoid is read by a conv": (
        lambda n, x: pooled(n, n.c(n.b(n.a(x)).sigmoid())), ["a", "c"],
    ),
    "ones are added": (lambda n, x: pooled(n, n.c(n.b(n.a(x)) + 1)), ["a", "c"]),
    "a view by the batch": (by_batch, ["a", "b", "c"]),
    "a view by the channels": (
        lambda n, x: n.head(n.c(n.b(n.a(x))).mean((2, 3)).view(-1, 8)), ["a", "b"],
    ),
    "channels are counted": (
        lambda n, x: pooled(n, n.c(n.b((y := n.a(x)) / y.shape[1]))), ["b", "c"],
    ),
    "channels are sliced": (lambda n, x: pooled(n, n.c(n.b(n.a(x))).flip(1)), ["a", "b"]),
    "dropout by mode": (
        lambda n, x: pooled(n, dropout(n.c(n.b(n.a(x))), 0.0, n.training)), ["a", "b", "c"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ODD)
def test_what_is_not_understood_stays_whole(how):
    torch.manual_seed(0)
    forward, convs = ODD[how]
    x, y = inputs(8)
    net = trace(lively(Odd(forward)), x)
    assert list(net.convs) == convs
    shrunk = shrink(net, random_keep(net, 1, 0.4))
    for model in (shrunk.masked, shrunk.net):
        train_steps(model.train(), x, y, 2)
    torch.testing.assert_close(shrunk.masked(x), shrunk.net(x), **CLOSE)
    assert cost(shrunk.net) == cost(shrunk.masked)
    assert cost(shrunk.net)["net/params"] == sum(p.numel() for p in shrunk.net.parameters())


class StochasticDepth(nn.Module):
    """Of another library: it has the module that it skips."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class Shift(nn.Module):
    def forward(self, x):
        return x - 0.5


@pytest.mark.parametrize(
    "first",
    [
        lambda: OrderedDict(image=nn.Conv2d(3, 8, 3), act=nn.ReLU()),
        lambda: OrderedDict(a=nn.Conv2d(3, 8, 3), b=StochasticDepth(nn.Conv2d(8, 8, 3))),
        lambda: OrderedDict(
            shift=Shift(), net=compact(net := tiny_net("mobilenet_v1"), random_keep(net, 0, 0.3))
        ),
        lambda: OrderedDict(
            shift=Shift(), net=compact(net := tiny_net("resnet20"), random_keep(net, 0, 0.3))
        ),
    ],
)
def test_names_of_the_suite_and_modules_with_modules(first):
    """A conv called `image`, a module that looks like torchvision's, and nets of the suite."""
    x, y = inputs(32)
    parts = first()
    if "net" not in parts:
        parts |= {"c": nn.Conv2d(8, 8, 3), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        parts["head"] = nn.Linear(8, 10)
    net = trace(lively(nn.Sequential(parts)), x)
    assert len(net.convs) > 0.4 * sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert_masked_equals_compact(net, x, y)


def test_a_full_gpu_is_no_bad_input(monkeypatch):
    """Another attempt may succeed."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    net = tiny_net("vgg13")
    monkeypatch.setattr(_net.copy, "deepcopy", full)
    with pytest.raises(torch.OutOfMemoryError):
        masked(net, random_keep(net, 0, 0.5))
    monkeypatch.setattr(net, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        net.pixels((40, 40))


def test_norms_that_need_two_images_suit():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 10),
    )  # fmt: skip
    images, labels = tiny_images(4)
    net = trace(nn.Sequential(nn.Conv2d(3, 3, 1), *net), torch.zeros(2, 3, 32, 32))
    assert score(net, "loss", images, labels)["0"].isfinite().all()


@pytest.mark.parametrize(
    "forward",
    [
        lambda n, x: pooled(n, n.c(n.b(relu(n.b(n.a(x)))))),
        lambda n, x: n.head(n.b(n.a(x)).permute(0, 2, 3, 1)).mean((1, 2)),
        lambda n, x: pooled(n, n.c(n.norm(n.b(n.a(x))))),
    ],
)
def test_every_call_and_every_kind_of_layer_is_counted(forward):
    """A conv that is called twice, a linear layer on pixels, and a transposed conv."""
    odd, (x, _) = Odd(forward), inputs(12)
    odd.norm = nn.ConvTranspose2d(8, 8, 2, 2)
    net = trace(odd.double(), x)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x[:1])
    assert counter.get_total_flops() == 2 * cost(net)["net/macs"]


def test_attention_is_differentiated_twice():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.all, self.head = nn.Linear(8, 24), nn.Linear(8, 10)

        def forward(self, x):
            pixels = self.b(relu(self.a(x))).flatten(2).transpose(1, 2)
            query, key, value = self.all(pixels).chunk(3, -1)
            return self.head(scaled_dot_product_attention(query, key, value).mean(1))

    x, y = inputs(8)
    scores = score(trace(Attending().double(), x), "grasp_t1", x, y)
    assert scores["a"].isfinite().all()
    assert scores["a"].all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: setattr(n, "plan", nn.Parameter(torch.ones(1))), r"Odd\.plan must have another"),
        (lambda n: setattr(n.a, "mask", torch.ones(8)), r"a\.mask must have another name"),
        (
            lambda n: setattr(n, "again", nn.Sequential(n.a, n.b, n.c)),
            "no filters that can be removed: the weights of a are used in several places",
        ),
    ],
)
def test_names_that_clash_are_refused(change, said):
    net = Odd(lambda n, x: pooled(n, n.c(n.b(n.a(x)))))
    change(net)
    with pytest.raises(UserError, match=said):
        trace(net, torch.zeros(2, 3, 8, 8))


def test_what_score_cannot_take_is_refused():
    images, labels = tiny_images(4)
    x = images.permute(0, 3, 1, 2).float()
    net = trace(Odd(lambda n, x: pooled(n, n.c(n.b(n.a(x))))), x)
    for said, call in {
        "labels must be from 0 to 9": lambda: score(net, "loss", images, labels + 9),
        "images must be a tensor, got 'list'": lambda: score(net, "loss", [1], labels),
        "labels must be a tensor": lambda: score(net, "loss", images, [0, 1, 2, 3]),
        "batch_size must be a whole": lambda: score(net, "loss", images, labels, batch_size=1.5),
        "temperature must be a num": lambda: score(net, "loss", images, labels, temperature="1"),
        "images must suit the net, got 4x4": lambda: score(
            tiny_net("vgg13"), "loss", x[:, :, :4, :4], labels
        ),
        r"images must be a tensor float \[N, C, H, W\], got \[3,": lambda: trace(net, x[0]),
        "no filters that can be removed": lambda: trace(nn.Flatten(), x),
    }.items():
        with pytest.raises(UserError, match=said):
            call()


def test_a_net_that_keeps_a_result_is_refused_where_it_is_copied():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

        def forward(self, x):
            self.last = self.a(x)
            return self.head(relu(self.last).mean((2, 3)))

    net = trace(Keeping(), torch.zeros(2, 3, 8, 8))
    net(torch.zeros(2, 3, 8, 8))
    with pytest.raises(
        UserError, match=r"Keeping cannot be copied \(Only Tensors created explicitly"
    ):
        masked(net, random_keep(net, 0, 0.5))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential()
        self.inner.add_module("deep", Deciding())

    def forward(self, x):
        return self.inner(x)


class Deciding(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_nets_that_cannot_be_traced_or_cut_are_refused_with_the_module():
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(UserError, match=r"^Branching inner\.deep cannot be traced"):
        trace(Branching(), x)
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 2}
    vit = models.VisionTransformer(**sizes, hidden_dim=16, mlp_dim=16)
    swin = models.SwinTransformer([2, 2], 16, [2], [1], [4, 4])
    convnext = models.ConvNeXt([models.convnext.CNBlockConfig(16, None, 2)])
    for net, conv in ((vit, "conv_proj"), (swin, r"features\.0\.0"), (convnext, r"features\.0\.0")):
        with pytest.raises(UserError, match=f"no filters that can be removed: those of {conv} are"):
            trace(net, x)
    with pytest.raises(UserError, match="images must suit the net"):
        trace(models.squeezenet1_1(), torch.randn(1, 3, 4, 4))
    with pytest.raises(UserError, match="must return one tensor"):
        trace(models.googlenet(init_weights=False), torch.randn(2, 3, 64, 64))


class Unusual(nn.Module):
    """Convs with batch norms, and what the arguments ask for."""

    def __init__(self, act=None, *, spare=False, gate=False):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.na, self.nb, self.nc = (nn.BatchNorm2d(8) for _ in range(3))
        self.act, self.fc = act or nn.ReLU(), nn.Linear(8, 10)
        self.unused = nn.Linear(4, 4) if spare else None
        self.dropped = nn.Conv2d(8, 8, 1) if spare else None
        self.gate = nn.Conv2d(8, 8, 1) if gate else None

    def forward(self, x):
        x = self.act(self.na(self.a(x)))
        x = self.act(self.nb(input=self.b(input=x)))
        if self.dropped:
            self.dropped(x)
        if self.gate:
            x = x * hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.fc(self.act(self.nc(self.c(x))).mean((2, 3)))


UNUSUAL = {
    "bounded activations": lambda: Unusual(nn.ReLU6()),
    "smooth activations": lambda: Unusual(nn.Tanh()),
    "parameters that nothing depends on": lambda: Unusual(spare=True),
    "a gate of a functional hardsigmoid": lambda: Unusual(gate=True),
}


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=list(UNUSUAL))
def test_every_measure_scores_and_cuts_odd_nets(make):
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    net = trace(make(), x)
    norms = all(conv.norm for conv in net.convs.values())
    initial = {name: torch.zeros_like(net.get_submodule(name).weight) for name in net.convs}
    for name, measure in MEASURES.items():
        if name not in ("none", "oracle") and (norms or not measure.needs_norm):
            scores = score(net, name, x, y, initial=initial)
            assert all(layer.isfinite().all() for layer in scores.values()), name
    keep = select(net, scores, 0.4)
    big, small = masked(net, keep).eval(), compact(net, keep).eval()
    torch.testing.assert_close(big(x), small(x), rtol=1e-4, atol=1e-6)
    assert measure_flow(small, x, y, 5.0).numbers["theta_hg"] != 0


def test_synflow_of_a_bounded_net_is_that_of_a_rectified_one():
    x, y = torch.randn(2, 3, 16, 16), torch.arange(2)
    found = []
    for act in (nn.ReLU(), nn.ReLU6(), nn.Tanh()):
        torch.manual_seed(0)
        found.append(score(trace(Unusual(act), x), "synflow", x, y))
    for conv, layer in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[conv], layer)


def test_what_removal_takes_away_has_the_parameters_of_a_norm_that_only_reads():
    """So that the first-order change of the loss is that of removing the channel."""

    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.pool, self.norm = nn.Conv2d(3, 8, 3), nn.AvgPool2d(2), nn.BatchNorm2d(8)
            self.b, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

        def forward(self, x):
            return self.fc(relu(self.b(relu(self.norm(self.pool(self.a(x)))))).mean((2, 3)))

    net = trace(Before(), torch.randn(2, 3, 16, 16))
    keep = {name: torch.arange(8) > 1 for name in net.convs}
    big = masked(net, keep)
    assert not big.norm.weight[:2].any()
    assert not big.norm.bias[:2].any()
    assert big.norm.weight[2:].all()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), "Conv2d cannot be copied"),
        (
            lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)), nn.Flatten()),
            "no filters that can be removed",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_hooks_compute_stay_or_are_refused(module, said):
    with pytest.raises(UserError, match=said):
        trace(module(), torch.zeros(1, 3, 8, 8))
