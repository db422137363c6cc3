"""`flowprune export`: nets in onnxruntime."""

import importlib.util

import onnx
import onnxruntime
import pytest
import torch
import torchvision

from benchmark import export
from benchmark import onnx as onnx_module
from benchmark.models import packed, trace
from benchmark.onnx import difference, exported, plain
from benchmark.pruning import compact, masked, select
from tests.conftest import tiny_images, tiny_net
from tests.support.commands import command, refusal

TOLERANCE = 1e-5


def pruned(net, ratio=0.5):
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(n, generator=draw) for name, n in net.plan.items()}
    return select(net, scores, ratio)


@pytest.fixture(scope="module")
def small():
    """A compact net some of whose convs write only some channels of their stream, with a mask."""
    dense = tiny_net("resnet20").eval()
    net = compact(dense, pruned(dense)).eval()
    assert net.written
    name = next(iter(net.written))
    net.set_mask(name, torch.arange(net.plan[name]) > 0)
    return net


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "model.pt"
    path.write_bytes(packed(small, "abcdefghij", (32, 32)))
    return path


@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
@pytest.mark.parametrize("way", [compact, masked])
def test_a_plain_net_has_the_outputs(arch, way):
    dense = tiny_net(arch).eval()
    net = way(dense, pruned(dense)).eval()
    twin, images = plain(net), tiny_images(4)[0].permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        assert torch.allclose(twin(images), net(images), atol=1e-5)
        assert not torch.allclose(dense(images), net(images), atol=1e-3)
    kinds = {type(module) for module in twin.modules() if hasattr(module, "eps")}
    assert kinds == {torch.nn.BatchNorm2d}


def test_the_command_writes_what_onnxruntime_computes(file, small, tmp_path):
    done = command("benchmark.export", file, "--onnx", tmp_path / "net.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "opset 18; in onnxruntime largest difference of a logit" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model)
    (entry,), (out,) = model.graph.input, model.graph.output
    assert (entry.name, out.name) == ("images", "logits")
    shape = entry.type.tensor_type.shape.dim
    assert [size.dim_value for size in shape] == [0, 3, 32, 32]  # 0: any number
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    images = torch.rand(7, 3, 32, 32)
    logits = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        torch.testing.assert_close(logits, small(images), rtol=1e-4, atol=1e-5)


@pytest.fixture
def vgg(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(packed(tiny_net("vgg13").eval(), "abcdefghij", (32, 32)))
    return path


def test_a_net_that_differs_is_not_written(vgg, tmp_path, monkeypatch, capsys):
    def wrong(net):
        changed = plain(net)
        changed.get_parameter("classifier.bias").data[3] += 0.01
        return changed

    monkeypatch.setattr(onnx_module, "plain", wrong)
    target = tmp_path / "net.onnx"
    assert export.execute(export.Export(vgg, target)) == export.DIFFERS
    assert "net.onnx is not written: in onnxruntime the net differs" in capsys.readouterr().out
    assert not target.exists()


def test_without_onnx_one_line_says_how_to_get_it(file, tmp_path):
    def hide():
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: name != "onnxscript" and real(name, *rest)

    done = command("benchmark.export", file, "--onnx", tmp_path / "net.onnx", before=hide)
    assert refusal(done) == (
        "export needs onnxscript, which is not installed: pip install 'flowprune[onnx]'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.pt", "--onnx", "x.onnx"], "model file no.pt does not exist"),
        (["FILE", "--onnx", "nowhere/x.onnx"], "onnx must be a file in a folder that exists"),
        (["FILE", "--onnx", "x.onnx", "--opset", "7"], "opset must be from 18 to 23, got 7"),
        (["FILE", "--onnx", "x.onnx", "--image-size", "0", "32"], "image_size must be from 1"),
    ],
)
def test_bad_input_is_one_line(arguments, message, file, tmp_path):
    line = [file if word == "FILE" else word for word in arguments]
    done = command("benchmark.export", *line, cwd=tmp_path)
    assert message in refusal(done)


def test_images_that_are_too_small(vgg, tmp_path):
    line = ("--onnx", "x.onnx", "--image-size", "8", "8")
    done = command("benchmark.export", vgg, *line, cwd=tmp_path)
    assert "image_size 8x8 does not suit vgg13" in refusal(done)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet56"])
@pytest.mark.parametrize("opset", export.OPSETS)
def test_every_architecture(arch, opset):
    dense = tiny_net(arch).eval()
    net = compact(dense, pruned(dense)).eval()
    largest, scale = difference(net, exported(net, (48, 32), opset), (48, 32))
    assert largest < TOLERANCE * scale


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121", "squeezenet1_1"])
def test_traced_nets(name):
    images = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    net = trace(torchvision.models.get_model(name, num_classes=10).eval(), images)
    small = compact(net, pruned(net, 0.3)).eval()
    largest, scale = difference(small, exported(small, (64, 64), 18), (64, 64))
    assert largest < TOLERANCE * scale
