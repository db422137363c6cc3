import pytest
import torch
from torch.nn import functional

from benchmark import registry
from benchmark.cost import cost
from benchmark.errors import UserError
from benchmark.models import build, default_plan, load_authors
from benchmark.models._layers import Conv2d
from benchmark.pruning import compact, masked, select
from tests.conftest import tiny_net

ARCHES = registry.names("models")
PARAMETERS = {
    "vgg13": (9_413_066, 9_459_236),
    "mobilenet_v1": (3_217_226, 3_309_476),
    "resnet56": (855_770, 861_620),
}
MILLION_MACS = {"vgg13": 228.3, "mobilenet_v1": 46.4, "resnet56": 125.7}


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameters_and_macs_are_those_of_the_literature(arch):
    for classes, expected in zip((10, 100), PARAMETERS[arch], strict=True):
        net = build(arch, num_classes=classes)
        assert sum(p.numel() for p in net.parameters()) == expected == cost(net)["net/params"]
    assert round(cost(build(arch))["net/macs"] / 1e6, 1) == MILLION_MACS[arch]


@pytest.mark.parametrize("arch", ARCHES)
def test_table_names_every_conv_in_module_order(arch):
    net = tiny_net(arch)
    convs = {name: m for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert list(convs) == list(net.convs) == list(net.plan)
    for name, conv in net.convs.items():
        assert (
            convs[name].out_channels == net.plan[name] == net.get_submodule(conv.norm).num_features
        )
        assert convs[name].in_channels == net.channels[conv.reads]
        assert (convs[name].groups > 1) == conv.depthwise
    for reader in net.readers.values():
        assert net.get_submodule(reader.name).in_features == net.channels[reader.reads]


@pytest.mark.parametrize("arch", ARCHES)
def test_any_image_size_gives_logits(arch):
    net = tiny_net(arch).eval()
    for side in (32, 48):
        assert net(torch.zeros(2, 3, side, side)).shape == (2, 10)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_plan_is_what_is_built(arch):
    convs = tiny_net(arch).convs
    wider = {
        stream: 3 + i % 17 for i, stream in enumerate(sorted({c.writes for c in convs.values()}))
    }
    plan = {name: wider[conv.writes] for name, conv in convs.items()}
    net = build(arch, num_classes=7, plan=plan)
    assert net.plan == plan
    assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_width_keeps_at_least_eight_filters():
    assert set(default_plan("resnet56", 0.01).values()) == {8}
    assert default_plan("vgg13", 0.5)["features.31"] == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1": 0}, r"plan\['conv1'\] must be a whole number from 1, got 0"),
        ({"conv1": 8.5}, r"plan\['conv1'\] must be a whole number from 1, got 8.5"),
        ({"layer1.0.conv2": 12}, r"plan\['layer1.0.conv2'\] must equal plan\['conv1'\] = 16"),
        ({"conv9": 4}, "missing or unknown: conv9"),
        (
            {"layer1.0.conv2": torch.ones(12, dtype=torch.bool)},
            r"plan\['layer1.0.conv2'\] must equal plan\['conv1'\] = 16",
        ),
        (
            {"layer1.0.conv2": torch.zeros(16, dtype=torch.bool)},
            r"plan\['layer1.0.conv2'\] must be at least 1",
        ),
        (
            {"layer1.0.conv2": torch.ones(16)},
            r"plan\['layer1.0.conv2'\] must be bool \[channels\] or a number of filters",
        ),
    ],
)
def test_plans_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        build("resnet56", plan=default_plan("resnet56") | change)
    depthwise = {"layers.0.conv1": torch.ones(32, dtype=torch.bool)}
    with pytest.raises(UserError, match="of a depthwise conv must be a number of filters"):
        build("mobilenet_v1", plan=default_plan("mobilenet_v1") | depthwise)


def test_a_net_that_writes_parts_of_streams_is_built_from_its_plan():
    dense = tiny_net("resnet20").eval()
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(n, generator=draw) for name, n in dense.plan.items()}
    net = compact(dense, select(dense, scores, 0.6))
    assert net.written.keys() == {
        n for n in net.plan if net.plan[n] < net.channels[net.convs[n].writes]
    }
    again = build("resnet20", plan=net.plan | net.written).eval()
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), net(x))
    assert again.plan == net.plan
    whole = {name: torch.ones(n, dtype=torch.bool) for name, n in dense.plan.items()}
    assert build("resnet20", plan=whole).written == {}
    assert dense.state_dict().keys() == net.state_dict().keys()


def test_unknown_architecture():
    with pytest.raises(ValueError, match="must be one of mobilenet_v1"):
        build("alexnet")


@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
def test_the_authors_checkpoints_load_dense_and_pruned(tmp_path, arch):
    dense = tiny_net(arch).eval()
    scores = {
        name: dense.get_submodule(name).weight.detach().flatten(1).norm(dim=1)
        for name in dense.convs
    }
    keep = select(dense, scores, 0.5, grouping="stream")
    for net in (dense, masked(dense, keep), compact(dense, keep)):
        state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
        torch.save({"net": state, "cfg": [8, "M"]}, tmp_path / "net.pth")
        loaded = load_authors(arch, tmp_path / "net.pth").eval()
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(loaded(x), net(x))


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    torch.save({"net": tiny_net("resnet20").state_dict()}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"is not of vgg13: it lacks features\.0\.weight"):
        load_authors("vgg13", tmp_path / "net.pth")
    (tmp_path / "net.pth").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read"):
        load_authors("resnet20", tmp_path / "net.pth")


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_strided_pointwise_convs_of_any_width(layout):
    """Torch 2.15 corrupts memory in their weight gradient, channels last, unless channels come in
    eights."""
    torch.manual_seed(0)
    ours = Conv2d(5, 7, 1, stride=2, bias=False).to(memory_format=layout)
    x = torch.randn(4, 5, 9, 9).to(memory_format=layout)
    kept = functional.conv2d(x.double(), ours.weight.double(), stride=2)
    torch.testing.assert_close(ours(x).double(), kept, rtol=1e-5, atol=1e-5)
    ours(x).sum().backward()
    torch.testing.assert_close(
        ours.weight.grad[0, :, 0, 0], x[:, :, ::2, ::2].sum((0, 2, 3)), rtol=1e-5, atol=1e-4
    )
