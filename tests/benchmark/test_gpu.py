"""What must hold on a GPU as it does on the CPU. Skipped without one."""

import dataclasses

import pytest
import torch

from benchmark.flow import evaluate
from benchmark.measures import MEASURES, score
from benchmark.measures._scoring import score_all
from benchmark.processes import in_new_process
from benchmark.pruning import compact, masked, select
from benchmark.record import Record
from benchmark.run import run
from benchmark.training import epoch as train
from benchmark.training import step as steps
from sweeps.placement import memory
from tests.benchmark.test_run import science
from tests.conftest import tiny_images, tiny_net, tiny_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
ARCHES = ("vgg13", "mobilenet_v1", "resnet20")


@pytest.fixture(autouse=True)
def exact():
    """No tf32 in float32 products."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("arch", ARCHES)
def test_scores_are_those_of_the_cpu(arch):
    net, (images, labels) = tiny_net(arch), tiny_images(12)
    names = [name for name in MEASURES if name not in ("oracle", "synflow")]
    initial = {name: torch.zeros_like(net.get_submodule(name).weight) for name in net.convs}
    measures = [MEASURES[name] for name in names]
    ours = score_all(net, measures, images, labels, initial=initial)
    theirs = score_all(net.cuda(), measures, images.cuda(), labels.cuda(), initial=initial)
    for name in names:
        for conv, scores in ours[name].items():
            largest = float(scores.abs().max())
            torch.testing.assert_close(
                theirs[name][conv].cpu(), scores, rtol=1e-3, atol=1e-4 * largest + 1e-12
            )


@pytest.mark.parametrize("arch", ARCHES)
def test_masked_equals_compact(arch):
    net, (images, labels) = tiny_net(arch).cuda(), (tensor.cuda() for tensor in tiny_images(12))
    keep = select(net, score(net, "magnitude", images, labels), 0.5)
    losses = [evaluate(pruned(net, keep), images, labels, 5.0)[0] for pruned in (masked, compact)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_run_has_the_same_bits_again_and_when_it_is_resumed(options, tmp_path, precision):
    config = tiny_run(
        measure="grasp", prune_epoch=1, rounds=2, epochs=5, precision=precision, train_limit=200
    )

    def stop(progress):
        if progress.row["epoch"] == 3:
            raise KeyboardInterrupt

    histories = []
    for name in ("one", "other", "resumed"):
        there = dataclasses.replace(options, device="cuda", runs=tmp_path / name)
        if name == "resumed":
            with pytest.raises(KeyboardInterrupt):
                run(config, there, stop)
        summary = run(config, there)
        assert (summary["outcome"], summary["eager"]) == ("finished", "")
        histories.append(science(config, there))
    assert histories[0] == histories[1] == histories[2]


@pytest.mark.parametrize("arch", ARCHES)
def test_replayed_steps_have_the_numbers_of_eager_ones(options, tmp_path, monkeypatch, arch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = tiny_run(arch=arch, prune_epoch=2, epochs=6, train_limit=290, batch_size=40)
    captures, losses = [], []
    real = steps.captured
    monkeypatch.setattr(steps, "captured", lambda *given: captures.append(1) or real(*given))
    for kind in (steps.ReplayedStep, steps.Step):
        monkeypatch.setattr(train, "step_kind", lambda device, kind=kind: kind)
        there = dataclasses.replace(options, device="cuda", runs=tmp_path / kind.__name__)
        run(config, there)
        losses.append([row["train/loss"] for row in Record(there.runs / config.run_id).history()])
    assert len(captures) == 4  # dense, after the cut, after each drop of the learning rate
    assert losses[0] == losses[1]


@pytest.mark.parametrize("arch", ["vgg13", "resnet20"])
def test_probes_are_those_of_the_cpu(options, tmp_path, arch):
    """Of the initial net and by scores that need no images, so that the cuts are the same."""
    config = tiny_run(measure="none", probe_epochs="0", epochs=1, arch=arch)
    found = []
    for device in ("cuda", "cpu"):
        there = dataclasses.replace(options, device=device, runs=tmp_path / device)
        run(config, there)
        rows, _ = Record(there.runs / config.run_id).probes()
        found.append([row for row in rows if row["measure"] in ("magnitude", "l1", "random")])
    for gpu, cpu in zip(*found, strict=True):
        assert gpu["kept_macs"] == cpu["kept_macs"]
        for part in ("predicted", "actual"):
            known = {key: number for key, number in cpu[part].items() if number is not None}
            assert {key: gpu[part][key] for key in known} == pytest.approx(
                known, rel=1e-2, abs=1e-4
            )


def test_what_a_run_takes_is_measured(options):
    used, free = in_new_process(
        memory, [tiny_run(batch_size=16)], dataclasses.replace(options, device="cuda")
    )
    assert 0 < used < free
