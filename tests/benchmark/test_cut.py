"""Ablations do what they say, and cuts follow the protocol of the run."""

import copy

import pytest
import torch

from benchmark.errors import UserError
from benchmark.measures import score
from benchmark.models import Net
from benchmark.pruning import select
from benchmark.training import state as states
from benchmark.training.cut import ablated, make_cut, sampled
from benchmark.training.problem import make_problem
from tests.conftest import tiny_images, tiny_net, tiny_run

CPU = torch.device("cpu")


def random_scores(net, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(filters, generator=draw) for name, filters in net.plan.items()}


def cut(tmp_path, cuts=1, **fields):
    """The state and rows after some cuts of an untrained net."""
    config = tiny_run(**fields)
    problem = make_problem(config, tmp_path, CPU)
    state = states.fresh(config, problem.num_classes, CPU)
    for _ in range(cuts):
        make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    return state


def test_layer_shuffle_keeps_the_densities_and_changes_the_filters():
    net = tiny_net("vgg13")
    scores = random_scores(net)
    shuffled = ablated(scores, net, tiny_run(ablation="layer_shuffle"), 1)
    plain, other = select(net, scores, 0.5), select(net, shuffled, 0.5)
    assert {n: int(k.sum()) for n, k in plain.items()} == {
        n: int(k.sum()) for n, k in other.items()
    }
    assert all(
        torch.equal(scores[name].sort().values, shuffled[name].sort().values) for name in scores
    )
    changed = sum(int((plain[name] != other[name]).sum()) for name in plain)
    assert changed > 0.2 * sum(net.plan.values())


def test_layer_shuffle_of_streams_keeps_the_densities():
    net = tiny_net("resnet20")
    scores = random_scores(net)
    shuffled = ablated(scores, net, tiny_run(ablation="layer_shuffle", grouping="stream"), 1)
    plain, other = (select(net, each, 0.5, grouping="stream") for each in (scores, shuffled))
    assert [int(k.sum()) for k in plain.values()] == [int(k.sum()) for k in other.values()]
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


def test_layer_shuffle_differs_from_round_to_round_and_seed_to_seed():
    net = tiny_net("vgg13")
    scores = random_scores(net)
    draws = [
        torch.cat(
            list(
                ablated(scores, net, tiny_run(ablation="layer_shuffle", seed=seed), round).values()
            )
        )
        for seed, round in ((0, 1), (0, 1), (0, 2), (1, 1))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_invert_prunes_what_the_measure_would_keep():
    net = tiny_net("vgg13")
    scores = random_scores(net)
    keep = select(net, ablated(scores, net, tiny_run(ablation="invert"), 1), 0.5)
    for name, kept in keep.items():
        if bool(kept.any()) and not bool(kept.all()):
            assert float(scores[name][kept].max()) <= float(scores[name][~kept].min())


@pytest.mark.parametrize("arch", ["vgg13", "resnet20"])
def test_reinit_keeps_the_filters_and_draws_new_weights(tmp_path, arch):
    plain = cut(tmp_path, arch=arch, width=0.125)
    again = cut(tmp_path, arch=arch, width=0.125, ablation="reinit")
    assert plain.model.plan == again.model.plan
    assert plain.model.written.keys() == again.model.written.keys()
    assert all(
        torch.equal(part, again.model.written[name]) for name, part in plain.model.written.items()
    )
    assert all(
        torch.equal(mask, again.model.mask(name)) for name, mask in plain.model.masks().items()
    )
    for name in plain.model.convs:
        live = plain.model.mask(name)
        ours, theirs = (net.get_submodule(name).weight for net in (plain.model, again.model))
        assert not torch.allclose(ours[live], theirs[live])
        assert (theirs[~live] == 0).all()
        initial = states.initial_weights(
            tiny_run(arch=arch, width=0.125, ablation="reinit"), again
        )[name]
        assert torch.equal(initial[live], theirs[live])
    norm = again.model.get_submodule(next(iter(again.model.convs.values())).norm)
    assert (norm.running_var == 1).all()


@pytest.mark.parametrize(("ratio", "rounds", "kept"), [(0.6, 1, 40), (0.6, 5, 38), (0.75, 5, 23)])
def test_the_papers_truncation_piles_up_on_resnets(ratio, rounds, kept):
    from benchmark.models import build
    from benchmark.pruning import compact

    net = build("resnet56")
    for round in range(1, rounds + 1):
        keep = select(
            net, random_scores(net, round), ratio, round=round, rounds=rounds, protocol="paper"
        )
        net = compact(net, keep)
    share = sum(int(mask.sum()) for mask in net.masks().values()) / sum(net.original.values())
    assert share == pytest.approx(kept / 100, abs=0.005)
    assert bool(net.mask("conv1").all())


def test_masked_rows_are_ranked_again_with_score_0_under_paper_rules():
    """With negative scores for all live rows, a signed measure un-masks dead rows: they eat the
    budget."""
    from benchmark.pruning import masked

    net = tiny_net("resnet20")
    first = select(net, random_scores(net, 1), 0.5, round=1, rounds=2, protocol="paper")
    pruned = masked(net, first)
    negative = {name: -1 - s for name, s in random_scores(net, 2).items()}
    second = select(pruned, negative, 0.5, round=2, rounds=2, protocol="paper")
    dead = {name: ~mask for name, mask in pruned.masks().items()}
    assert any(
        bool((second[n] & dead[n]).any())
        for n, conv in net.convs.items()
        if conv.writes.startswith("layer")
    )
    exact = select(pruned, negative, 0.5, round=2, rounds=2)
    assert not any(bool((exact[name] & dead[name]).any()) for name in exact)


def test_a_cut_of_each_protocol_ends_where_it_says(tmp_path):
    for protocol in ("exact", "paper"):
        state = cut(tmp_path, cuts=3, rounds=3, protocol=protocol, arch="resnet20")
        assert [row["round"] for row in state.cuts] == [1, 2, 3]
        assert 0.3 < sum(state.cuts[-1]["kept"].values()) / sum(state.model.original.values()) < 0.6


@pytest.mark.parametrize("fields", [{"cut_momentum": "carry"}, {"ablation": "reinit"}])
def test_a_cut_copies_the_net_once_and_once_more_for_fresh_statistics(
    tmp_path, monkeypatch, fields
):
    copied, deepcopy = [], copy.deepcopy

    def counting(thing, memo=None):
        if isinstance(thing, Net) and memo is None:  # with its weights
            copied.append(thing)
        return deepcopy(thing, memo)

    monkeypatch.setattr(copy, "deepcopy", counting)
    cut(tmp_path, score_bn="running", **fields)
    assert len(copied) == 2


def test_gibbs_sampling_adds_noise_that_falls_with_the_rounds():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(4)
    scores = score(net, "gibbs", images, labels)
    config = tiny_run(measure="gibbs", sampling="gibbs", rounds=4, epochs=6)
    spreads = []
    for round in (1, 2, 3, 4):
        noisy = sampled(scores, net, config, round)
        again = sampled(scores, net, config, round)
        assert all(torch.equal(noisy[name], again[name]) for name in scores)
        sizes = [
            float(((noisy[name] - layer) / layer.std(correction=0)).std())
            for name, layer in scores.items()
        ]
        spreads.append(sum(sizes) / len(sizes))
    assert spreads == pytest.approx([1.8 * share for share in (0.75, 0.5, 0.25, 0)], rel=0.2)
    assert sampled(scores, net, tiny_run(measure="gibbs"), 1) is scores
    other = sampled(scores, net, tiny_run(**{**config.to_dict(), "seed": 1}), 1)
    assert not torch.equal(other["features.3"], sampled(scores, net, config, 1)["features.3"])


def test_soft_removal_scales_filters_down_before_it_removes_them(tmp_path):
    fields = {"measure": "magnitude", "rounds": 4, "epochs": 6}
    config = tiny_run(removal="soft", **fields)
    problem = make_problem(config, tmp_path, CPU)
    state = states.fresh(config, problem.num_classes, CPU)
    first = copy.deepcopy(state.model)
    keep = select(first, score(first, "magnitude", *tiny_images(4)), config.ratio)
    for left in (3, 2, 1):
        make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
        assert all(mask.all() for mask in state.model.masks().values())
        assert state.model.plan == first.plan
        for name, kept in keep.items():
            pairs = zip(
                state.model.filter_parameters(name), first.filter_parameters(name), strict=True
            )
            for now, then in pairs:
                assert torch.equal(now[kept], then[kept])
                torch.testing.assert_close(now[~kept], then[~kept] * left / 4)
    make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    assert {name: len(kept) for name, kept in state.cuts[2]["scores"].items()}
    live = {name: int(kept.sum()) for name, kept in keep.items()}
    assert state.cuts[3]["kept"] == live
    assert state.cuts[2]["kept"] == first.plan


def test_a_small_fade_changes_the_loss_as_predicted(tmp_path):
    state = cut(tmp_path, measure="loss", rounds=200, epochs=300, removal="soft", lr=0.01)
    predicted, actual = (state.cuts[0][key] for key in ("predicted", "actual"))
    assert actual["loss_change"] == pytest.approx(predicted["loss_change"], rel=0.05)
    assert actual["loss_change"] != 0


def test_soft_removal_goes_with_no_new_weights():
    with pytest.raises(UserError, match="removal with ablation=reinit must be hard, got 'soft'"):
        tiny_run(removal="soft", rounds=3, epochs=6, ablation="reinit")
    tiny_run(removal="soft", rounds=1, ablation="reinit")
