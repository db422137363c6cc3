import contextlib
import os

import pytest
import torch

from benchmark.errors import UserError
from benchmark.flow import evaluate
from benchmark.training import checkpoint as checkpoints
from benchmark.training import state as states
from benchmark.training.cut import make_cut
from benchmark.training.epoch import advance, train_epoch
from benchmark.training.problem import make_problem
from benchmark.training.state import carry_momentum, initial_weights
from benchmark.training.step import make_optimizer
from benchmark.training.steps import finished
from tests.conftest import tiny_run

CPU = torch.device("cpu")
DATA = "0123456789ab"


def save(path, state, config, data, previous=None):
    with checkpoints.Checkpoints(config, data, 0) as kept:
        kept.keep(state, path, previous=previous)


def trained(tmp_path, **fields):
    config = tiny_run(**fields)
    problem = make_problem(config, tmp_path, CPU)
    state = states.fresh(config, problem.num_classes, CPU)
    finished(train_epoch(state, problem, config, 0.1))
    return config, problem, state


def test_checkpoint_round_trip(tmp_path):
    config, problem, state = trained(tmp_path, arch="resnet20", measure="random", rounds=2)
    make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    finished(train_epoch(state, problem, config, 0.1))
    save(tmp_path / "state.pt", state, config, DATA)
    loaded = checkpoints.load(tmp_path / "state.pt", config, CPU, DATA)
    for ours, theirs in ((state.model, loaded.model), (state, loaded)):
        if ours is state:
            for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
                momenta = (
                    s.optimizer.state[p]["momentum_buffer"] for s, p in ((ours, a), (theirs, b))
                )
                assert torch.equal(*momenta)
        else:
            tensors = theirs.state_dict()
            assert all(torch.equal(t, tensors[name]) for name, t in ours.state_dict().items())
    assert all(
        torch.equal(mask, loaded.model.mask(name)) for name, mask in state.model.masks().items()
    )
    assert loaded.model.original == state.model.original
    assert loaded.model.plan == state.model.plan
    assert state.model.written
    assert loaded.model.written.keys() == state.model.written.keys()
    images = problem.probe.images
    losses = [
        evaluate(net, images, problem.probe.labels, 5.0) for net in (loaded.model, state.model)
    ]
    assert losses[0] == losses[1]
    assert loaded.cuts == state.cuts


def test_copies_are_written_when_due_and_the_last_one_when_interrupted(tmp_path):
    config, _, state = trained(tmp_path)
    state.history = [{"epoch": 0}]
    written, file = [], tmp_path / "state.pt"

    def keep(due=False):
        epoch = state.epoch
        kept.keep(state, file, due=due, then=lambda: written.append(epoch))
        state.history.append({"epoch": len(state.history)})
        next(state.model.parameters()).data += 1

    with checkpoints.Checkpoints(config, DATA, 3600) as kept:
        keep()
        keep(due=True)
        kept.wait()
        keep()
    assert written == [1]
    weight = next(state.model.parameters()).detach().clone()
    kept = checkpoints.Checkpoints(config, DATA, 3600)
    with contextlib.suppress(KeyboardInterrupt), kept:
        keep()
        raise KeyboardInterrupt
    assert written == [1, 3]
    loaded = checkpoints.load(file, config, CPU, DATA)
    assert loaded.epoch == 3
    assert torch.equal(next(loaded.model.parameters()), weight)


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path):
    config, _, state = trained(tmp_path)
    nowhere = tmp_path / "nowhere" / "state.pt"
    kept = checkpoints.Checkpoints(config, DATA, 3600)
    with pytest.raises(FileNotFoundError), kept:
        kept.keep(state, nowhere, due=True)


def test_a_cut_is_not_made_again_after_its_checkpoint(tmp_path):
    config, problem, state = trained(tmp_path, measure="loss", rounds=1)
    state.history = [{"epoch": 0}, {"epoch": 1}]
    make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    save(tmp_path / "state.pt", state, config, DATA)
    loaded = checkpoints.load(tmp_path / "state.pt", config, CPU, DATA)
    rows = [finished(advance(s, problem, config, 0.1, flow_every=1)) for s in (state, loaded)]
    timeless = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("arch", ["mobilenet_v1", "resnet20"])
def test_initial_weights_follow_the_filters_through_cuts(tmp_path, arch):
    config = tiny_run(arch=arch, width=0.125, measure="magnitude", rounds=2)
    problem = make_problem(config, tmp_path, CPU)
    state = states.fresh(config, problem.num_classes, CPU)
    for _ in range(2):
        make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    initial = initial_weights(
        config, state
    )  # nothing was trained: the weights are still the initial ones
    for name in state.model.convs:
        assert torch.equal(initial[name], state.model.get_submodule(name).weight)


def test_carried_momentum_makes_the_step_of_the_masked_net(tmp_path):
    """With momentum carried, the compact net goes where the masked net would have gone."""
    from benchmark.pruning import select, shrink

    for arch in ("vgg13", "mobilenet_v1", "resnet20"):
        config, _, state = trained(tmp_path, arch=arch, width=0.125, train_limit=40)
        scores = {
            n: state.model.get_submodule(n).weight.detach().flatten(1).norm(dim=1)
            for n in state.model.convs
        }
        keep = select(state.model, scores, 0.5)
        shrunk = shrink(state.model, keep)
        big, small = shrunk.masked, shrunk.net
        optimizer = make_optimizer(small, config)
        carry_momentum(state, shrunk, optimizer)
        full = make_optimizer(big, config)
        for old, new in zip(state.model.parameters(), big.parameters(), strict=True):
            full.state[new]["momentum_buffer"] = state.optimizer.state[old][
                "momentum_buffer"
            ].clone()
        for net, steps in ((big, full), (small, optimizer)):
            net.eval()
            x = torch.zeros(2, 3, 32, 32)
            net(x).square().sum().backward()
            steps.step()
        tensors = dict(big.named_parameters())
        for name, parameter in small.named_parameters():
            live = slice(None)
            for conv in small.convs.values():
                if name in (f"{conv.name}.weight", f"{conv.norm}.weight", f"{conv.norm}.bias"):
                    live = small.mask(conv.name)
            kept = shrunk.part(name, tensors[name])
            torch.testing.assert_close(parameter[live], kept[live], rtol=1e-4, atol=1e-6)
            if not isinstance(live, slice):
                assert (parameter[~live] == 0).all()


@pytest.fixture
def checkpoint(tmp_path):
    config, _, state = trained(tmp_path, train_limit=40)
    save(tmp_path / "state.pt", state, config, DATA)
    return config, tmp_path / "state.pt"


def cut_short(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [cut_short, flipped, lambda content: b"", lambda content: b"not a checkpoint"]
)
def test_a_corrupt_checkpoint_is_set_aside(checkpoint, damage):
    config, path = checkpoint
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is set aside as state.pt.unusable"):
        assert checkpoints.load(path, config, CPU, DATA) is None
    assert not path.exists()
    assert path.with_name("state.pt.unusable").read_bytes() == content


def test_a_full_gpu_says_nothing_of_a_checkpoint(checkpoint, monkeypatch):
    config, path = checkpoint

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(checkpoints, "prepared", full)
    with pytest.raises(torch.OutOfMemoryError):
        checkpoints.load(path, config, CPU, DATA)
    monkeypatch.undo()
    assert checkpoints.load(path, config, CPU, DATA) is not None


def test_a_checkpoint_of_another_run_is_set_aside(checkpoint):
    config, path = checkpoint
    other = tiny_run(train_limit=40, seed=1)
    with pytest.warns(UserWarning, match=f"it belongs to run {config.run_id}"):
        assert checkpoints.load(path, other, CPU, DATA) is None


def test_a_checkpoint_of_a_newer_version_is_left_alone(checkpoint):
    config, path = checkpoint
    torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)
    with pytest.raises(UserError, match="has format 99, this version reads 4: update flowprune"):
        checkpoints.load(path, config, CPU, DATA)
    assert path.exists()


def test_a_checkpoint_of_an_older_format_is_set_aside(tmp_path):
    config, _, state = trained(tmp_path, train_limit=40)
    path = tmp_path / "state.pt"
    save(path, state, config, DATA)
    torch.save(torch.load(path, weights_only=True) | {"format": 3}, path)
    with pytest.warns(UserWarning, match="it has format 3, this version reads 4"):
        assert checkpoints.load(path, config, CPU, DATA) is None
    assert path.with_name("state.pt.unusable").exists()


@pytest.mark.parametrize("write", [1, 2])
def test_a_save_that_is_killed_leaves_a_good_checkpoint(checkpoint, tmp_path, monkeypatch, write):
    """Killed at either of its two renames, or in the middle of writing: the old or the new state is
    there."""
    config, path = checkpoint
    state, calls, rename = checkpoints.load(path, config, CPU, DATA), [], os.replace

    def killed(source, target):
        calls.append(target)
        if len(calls) == write:
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(path, state, config, DATA, previous=tmp_path / "previous.pt")
    monkeypatch.undo()
    left = [p for p in (path, tmp_path / "previous.pt") if p.exists()]
    assert left
    assert checkpoints.load(left[0], config, CPU, DATA).history == state.history
