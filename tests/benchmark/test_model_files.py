"""`--keep-model`, and `benchmark.models.load`."""

import dataclasses
import io

import pytest
import torch

from benchmark import files, initial, outside, registry
from benchmark import run as run_module
from benchmark.data._batches import normalise
from benchmark.errors import UserError
from benchmark.models import load, packed
from benchmark.models._weights import FORMAT, MODEL_KEYS, digest
from benchmark.record import Record
from benchmark.run import run
from sweeps.commands import run as run_grid
from sweeps.engines.local import LocalEngine
from sweeps.grid import load as load_grid
from tests.conftest import tiny_images, tiny_net, tiny_run
from tests.support.components import NET
from tests.support.disk import Disk
from tests.sweeps.test_sweeps import write


@pytest.fixture
def keeping(options):
    return dataclasses.replace(options, keep_model=True)


@pytest.fixture
def kept_nets(monkeypatch):
    """The final nets of the runs of a test."""
    nets = []
    monkeypatch.setattr(
        run_module, "packed", lambda net, *rest: nets.append(net) or packed(net, *rest)
    )
    return nets


def model_file(config, options):
    return Record(options.runs / config.run_id).model_file


@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
def test_a_kept_net_has_the_bits_of_the_run(arch, keeping, kept_nets):
    config = tiny_run(arch=arch, measure="random", rounds=2, width=0.125)
    run(config, keeping)
    net, (final,) = load(model_file(config, keeping)), kept_nets
    images = normalise(tiny_images(40)[0])
    assert not net.training
    assert torch.equal(net(images), final.eval()(images))
    assert torch.equal(net(images.contiguous()), final(images.contiguous()))
    assert (net.arch, net.plan, net.original) == (arch, final.plan, final.original)
    assert net.written.keys() == final.written.keys()
    assert bool(net.written) == (arch == "resnet20")
    assert net.classes == tuple("0123456789")
    assert net.image_size == (32, 32)


def test_masks_are_kept(tmp_path):
    """Masked filters stay in nets of a GPU, whose widths are multiples of 8."""
    net = tiny_net("resnet20").eval()
    name = "layer1.0.conv1"
    net.set_mask(name, torch.arange(net.plan[name]) > 1)
    (tmp_path / "model.pt").write_bytes(packed(net, "abcdefghij", (32, 32)))
    images, loaded = normalise(tiny_images(4)[0]), load(tmp_path / "model.pt")
    assert loaded.mask(name).tolist() == net.mask(name).tolist()
    assert torch.allclose(loaded(images), net(images), atol=1e-5)


def test_the_file_is_plain_and_smaller_than_a_checkpoint(keeping):
    config = tiny_run(measure="none", epochs=1)
    run(config, keeping)
    content = torch.load(model_file(config, keeping), weights_only=True)
    assert content.keys() == MODEL_KEYS
    assert content["weights"].keys() == tiny_net("vgg13").state_dict().keys()
    plain = sum(tensor.nbytes for tensor in content["weights"].values())
    assert model_file(config, keeping).stat().st_size < plain + 60_000


def test_it_is_on_the_disk_before_the_summary(keeping, monkeypatch):
    disk = Disk()
    monkeypatch.setattr(files, "os", disk)
    config = tiny_run(measure="none", epochs=1, train_limit=40)
    run(config, keeping)
    steps = [(number, *step.split(" ")) for number, step in enumerate(disk.log)]
    of_model = [(number, what) for number, what, name in steps if "model.pt" in name]
    assert [what for _, what in of_model][:4] == ["open", "write", "fsync", "replace"]
    written = of_model[3][0]
    summary = min(number for number, _, name in steps if "summary.json" in name)
    assert f"fsync {config.run_id}" in disk.log[written:summary]


def test_nothing_is_kept_unless_asked_for_and_a_finished_run_says_so(options, keeping):
    config = tiny_run(measure="none", epochs=1)
    run(config, options)
    assert not model_file(config, options).exists()
    with pytest.raises(UserError, match=rf"{config.run_id} is finished without model.pt: .* again"):
        run(config, keeping)
    assert run(config, options)["outcome"] == "finished"


def test_a_sweep_says_which_finished_runs_have_no_model(options, keeping, tmp_path, capsys):
    grid = load_grid(
        write(tmp_path / "g.yaml", measure={"values": ["none"]}, keep_model={"value": True})
    )
    assert grid.options(options) == keeping
    for config in grid.configs:
        run(config, options)
    assert run_grid(grid, keeping, LocalEngine, 0) == 0
    said = " ".join(capsys.readouterr().out.split())
    count = len(grid.configs)
    assert f"{count} runs were finished without model.pt ({grid.configs[0].run_id} is one)" in said


def test_a_net_of_an_architecture_of_ones_own(keeping, tmp_path, monkeypatch, kept_nets):
    monkeypatch.setattr(outside, "_given", {})
    monkeypatch.setattr(outside, "_runs", {})
    (tmp_path / "net.py").write_text(NET)
    config = tiny_run(
        measure="magnitude", epochs=1, arch=registry.resolve("models", str(tmp_path / "net.py"))
    )
    run(config, keeping)
    images = normalise(tiny_images(4)[0])
    expected = kept_nets[0].eval()(images)
    (tmp_path / "net.py").unlink()
    outside._given.clear()
    outside._runs.clear()
    path = model_file(config, keeping)
    assert torch.equal(load(path)(images), expected)
    alone = path.rename(tmp_path / "alone.pt")
    outside._given.clear()
    outside._runs.clear()
    with pytest.raises(UserError, match=rf"arch {config.arch} is not here: give its file"):
        load(alone)


def test_a_dense_net_starts_other_runs_and_a_pruned_one_does_not(keeping):
    dense = tiny_run(measure="none", epochs=1, test_limit=0)
    pruned = tiny_run(measure="magnitude", epochs=1)
    for config in (dense, pruned):
        run(config, keeping)
    path = model_file(dense, keeping)
    assert initial.resolve(str(path)) == digest(load(path).state_dict())
    with pytest.raises(UserError, match="is of a pruned net; a run starts from a dense one"):
        initial.resolve(str(model_file(pruned, keeping)))
    again = dataclasses.replace(dense, init=initial.resolve(str(path)))
    first = Record(keeping.runs / dense.run_id).history()[-1]
    run(again, keeping)
    assert Record(keeping.runs / again.run_id).history()[0]["test/loss"] == first["test/loss"]


def changed(**values):
    content = packed(tiny_net("vgg13"), "abcdefghij", (32, 32))
    return torch.load(io.BytesIO(content)) | values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "cannot be read"),
        (b"nothing of the kind", "cannot be read"),
        ({"format": 4, "plan": {}}, "must be a model.pt, which a run with --keep-model leaves"),
        ([1], "must be a model.pt"),
        (changed(format=FORMAT + 1), f"has format 2, this version reads {FORMAT}: update"),
        (changed(weights={}), "is not of vgg13: it lacks features.0.weight"),
        (changed(masks={"nowhere": torch.ones(2)}), "does not fit vgg13"),
        (changed(written=3), "does not fit vgg13"),
        (changed(arch="alexnet"), "models must be one of"),
    ],
)
def test_a_file_that_is_no_model_is_one_line(content, message, tmp_path):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
