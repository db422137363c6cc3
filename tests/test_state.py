import torch

from benchmark import state as states
from benchmark.cut import make_cut
from benchmark.state import carry_momentum, initial_weights, make_optimizer
from benchmark.train import make_problem, train_epoch
from tests.conftest import tiny_run

CPU = torch.device("cpu")


def trained(tmp_path, **fields):
    config = tiny_run(**fields)
    problem = make_problem(config, tmp_path, CPU)
    state = states.fresh(config, problem.num_classes, CPU)
    train_epoch(state, problem, config, 0.1)
    return config, problem, state


def test_checkpoint_round_trip(tmp_path):
    config, problem, state = trained(tmp_path, arch="resnet56", measure="random", rounds=2)
    make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    train_epoch(state, problem, config, 0.1)
    states.save(tmp_path / "state.pt", state, config)
    loaded = states.load(tmp_path / "state.pt", config, CPU)
    for ours, theirs in ((state.model, loaded.model), (state, loaded)):
        if ours is state:
            for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
                momenta = (s.optimizer.state[p]["momentum_buffer"] for s, p in ((ours, a), (theirs, b)))
                assert torch.equal(*momenta)
        else:
            tensors = theirs.state_dict()
            assert all(torch.equal(t, tensors[name]) for name, t in ours.state_dict().items())
    assert all(torch.equal(mask, loaded.model.mask(name)) for name, mask in state.model.masks().items())
    assert loaded.model.original == state.model.original
    assert loaded.cuts == state.cuts


def test_initial_weights_follow_the_filters_through_cuts(tmp_path):
    config = tiny_run(arch="mobilenet_v1", width=0.125, measure="magnitude", rounds=2)
    problem = make_problem(config, tmp_path, CPU)
    state = states.fresh(config, problem.num_classes, CPU)
    for _ in range(2):
        make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    initial = initial_weights(config, state)  # nothing was trained: the weights are still the initial ones
    for name in state.model.convs:
        assert torch.equal(initial[name], state.model.get_submodule(name).weight)


def test_carried_momentum_makes_the_step_of_the_masked_net(tmp_path):
    """With momentum carried, the compact net goes where the masked net would have gone."""
    from benchmark.pruning import compact, kept_indices, masked, select, take

    for arch in ("vgg13", "mobilenet_v1", "resnet56"):
        config, _, state = trained(tmp_path, arch=arch, width=0.125, train_limit=40)
        scores = {n: state.model.get_submodule(n).weight.detach().flatten(1).norm(dim=1) for n in state.model.convs}
        keep = select(state.model, scores, 0.5)
        big, small = masked(state.model, keep), compact(state.model, keep)
        optimizer = make_optimizer(small, config)
        carry_momentum(state, keep, optimizer, small)
        full = make_optimizer(big, config)
        for old, new in zip(state.model.parameters(), big.parameters(), strict=True):
            full.state[new]["momentum_buffer"] = state.optimizer.state[old]["momentum_buffer"].clone()
        for net, steps in ((big, full), (small, optimizer)):
            net.eval()
            x = torch.zeros(2, 3, 32, 32)
            net(x).square().sum().backward()
            steps.step()
        indices, tensors = kept_indices(big), dict(big.named_parameters())
        for name, parameter in small.named_parameters():
            live = slice(None)
            for conv in small.convs.values():
                if name in (f"{conv.name}.weight", f"{conv.norm}.weight", f"{conv.norm}.bias"):
                    live = small.mask(conv.name)
            kept = take(tensors[name], indices.get(name, ()))
            torch.testing.assert_close(parameter[live], kept[live], rtol=1e-4, atol=1e-6)
            if not isinstance(live, slice):
                assert (parameter[~live] == 0).all()
