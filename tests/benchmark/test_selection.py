import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import registry
from benchmark.cost import cost, dense_cost
from benchmark.errors import UserError
from benchmark.pruning import compact, masked, select, shrink
from benchmark.pruning.masks import follow
from benchmark.schedule import kept_fraction
from tests.conftest import every_arch, tiny_net, tiny_run

ARCHES = registry.names("models")
NETS = {}


def net_of(arch):
    return NETS.setdefault(arch, tiny_net(arch))


def random_scores(net, seed, ties):
    draw = torch.Generator().manual_seed(seed)
    scores = {name: torch.randn(filters, generator=draw) for name, filters in net.plan.items()}
    return {name: s.round() if ties else s for name, s in scores.items()}


def ranked(net):
    return [name for name, conv in net.convs.items() if conv.prunable]


@pytest.mark.parametrize("arch", ARCHES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), ratio=st.floats(0.05, 0.85), ties=st.booleans())
def test_exact_meets_its_budget_keeps_floors_and_prunes_the_lowest(arch, seed, ratio, ties):
    net, scores = net_of(arch), random_scores(net_of(arch), seed, ties)
    keep = select(net, scores, ratio)
    again = select(net, {name: s.clone() for name, s in scores.items()}, ratio)
    assert all(torch.equal(keep[name], again[name]) for name in keep)
    assert list(keep) == list(net.convs)
    total = sum(net.plan[name] for name in ranked(net))
    assert sum(int(keep[name].sum()) for name in ranked(net)) == int((1 - ratio) * total + 0.5)
    highest_pruned = max(float(scores[n][~keep[n]].max()) for n in ranked(net) if (~keep[n]).any())
    for name in net.convs:
        floor = -(-5 * net.original[name] // 100)
        assert int(keep[name].sum()) >= floor
        if (
            net.convs[name].prunable and int(keep[name].sum()) > floor
        ):  # above its floor: nothing lower survived
            assert float(scores[name][keep[name]].min()) >= highest_pruned or ties
        if net.convs[name].prunable and (~keep[name]).any():
            assert float(scores[name][keep[name]].min()) >= float(scores[name][~keep[name]].max())


@pytest.mark.parametrize("arch", ARCHES)
def test_floors_that_forbid_the_budget_are_reported(arch):
    net = net_of(arch)
    with pytest.warns(UserWarning, match="instead of") as caught:
        keep = select(net, random_scores(net, 0, False), 0.995)
    floors = sum(-(-5 * net.original[name] // 100) for name in ranked(net))
    assert sum(int(keep[name].sum()) for name in ranked(net)) == floors
    assert f"keeps {floors} filters instead of" in str(caught[0].message)


@pytest.mark.parametrize("arch", ARCHES)
def test_rounds_end_at_the_target_and_dead_filters_stay_dead(arch):
    net, rounds, ratio = net_of(arch), 4, 0.7
    total = sum(net.plan[name] for name in ranked(net))
    for k in range(1, rounds + 1):
        dead = {name: ~net.mask(name) for name in net.convs}
        keep = select(net, random_scores(net, k, False), ratio, round=k, rounds=rounds)
        assert not any(bool((keep[name] & dead[name]).any()) for name in keep)
        net = compact(net, keep)
        live = sum(int(net.mask(name).sum()) for name in ranked(net))
        assert live == int(kept_fraction(ratio, k, rounds) * total + 0.5)


def test_ties_go_by_layer_then_index():
    net = net_of("vgg13")
    keep = select(net, {name: torch.zeros(n) for name, n in net.plan.items()}, 0.05)
    pruned = {name: (~k).nonzero().flatten().tolist() for name, k in keep.items() if (~k).any()}
    assert pruned == {
        "features.0": list(range(7)),
        "features.3": list(range(7)),
        "features.7": [0, 1, 2, 3],
    }


def test_a_resnets_stem_is_never_ranked_and_depthwise_convs_follow():
    resnet = net_of("resnet56")
    assert bool(
        select(resnet, random_scores(resnet, 0, False) | {"conv1": torch.full((8,), -9.0)}, 0.8)[
            "conv1"
        ].all()
    )
    mobile = net_of("mobilenet_v1")
    keep = select(mobile, random_scores(mobile, 0, False), 0.5)
    assert torch.equal(keep["layers.3.conv1"], keep["layers.2.conv2"])
    assert torch.equal(keep["layers.0.conv1"], keep["conv1"])


def partly_masked():
    net = net_of("resnet20")
    net = masked(net, select(net, random_scores(net, 0, False), 0.4))
    assert any(bool((~net.mask(name)).any()) for name in net.convs)
    return net


def test_paper_keeps_a_live_filter_where_masked_ones_rank_higher():
    net = partly_masked()
    scores = {name: torch.full((filters,), -1.0) for name, filters in net.plan.items()}
    keep = select(net, scores, 0.7, round=2, rounds=5, protocol="paper")
    assert all(bool((layer & net.mask(name)).any()) for name, layer in keep.items())
    compact(net, keep)


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_scores_of_masked_filters_do_not_matter(protocol):
    net = partly_masked()
    scores = random_scores(net, 1, False)
    broken = {name: torch.where(net.mask(name), layer, torch.nan) for name, layer in scores.items()}
    keeps = [
        select(net, each, 0.7, round=2, rounds=2, protocol=protocol) for each in (scores, broken)
    ]
    assert all(torch.equal(keeps[0][name], keeps[1][name]) for name in net.convs)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"ratio": 1.5}, "ratio must be between 0 and 1"),
        ({}, {"round": 3, "rounds": 2}, "round must be a whole number from 1 to rounds = 2"),
        ({}, {"round": 1.5, "rounds": 2}, "round must be a whole number from 1 to rounds = 2"),
        ({}, {"rounds": "2"}, "rounds must be a whole number from 1, got '2'"),
        ({}, {"ratio": "0.5"}, "ratio must be between 0 and 1, both excluded, got '0.5'"),
        ({}, {"image_size": 32}, r"image_size must be \(height, width\), whole numbers from 1"),
        ({}, {"image_size": (3, 32, 32)}, r"image_size must be \(height, width\), whole"),
        ({"features.0": [1.0] * 8}, {}, r"scores\['features.0'\] must be a tensor \[8\], got list"),
        ({}, {"protocol": "guess"}, "protocol must be one of exact, paper"),
        ({"features.0": torch.zeros(3)}, {}, r"scores\['features.0'\] must be a tensor \[8\]"),
        (
            {"features.0": torch.full((8,), torch.nan)},
            {},
            r"scores\['features.0'\] must be finite, got nan",
        ),
        ({"fc": torch.zeros(3)}, {}, "missing or unknown: fc"),
    ],
)
def test_bad_arguments_are_refused(change, arguments, message):
    net = net_of("vgg13")
    with pytest.raises(UserError, match=message):
        select(net, random_scores(net, 0, False) | change, **{"ratio": 0.5, **arguments})


def test_whole_numbers_are_ranked_exactly():
    net = net_of("vgg13")
    first = {name: torch.arange(filters) + 2**24 for name, filters in net.plan.items()}
    ones = {name: scores - 2**24 for name, scores in first.items()}
    large, small = select(net, first, 0.5), select(net, ones, 0.5)
    assert all(torch.equal(large[name], small[name]) for name in small)


SHARES = st.floats(0.2, 0.85)
SEEDS = st.integers(0, 2**31)


def drawn(net, seed):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(filters, generator=draw) for name, filters in net.plan.items()}


@pytest.mark.parametrize("grouping", ["filter", "stream"])
@pytest.mark.parametrize("budget", ["params", "macs"])
@pytest.mark.parametrize("arch", every_arch())
@settings(max_examples=3, deadline=None)
@given(ratio=SHARES, seed=SEEDS, rounds=st.sampled_from([1, 5]))
def test_a_cut_stops_at_the_first_net_within_the_budget(
    arch, budget, grouping, ratio, seed, rounds
):
    """At or below the target, and above it with the filters back that were removed last."""
    net, whole = tiny_net(arch), cost(tiny_net(arch))[f"net/{budget}"]
    for round in range(1, rounds + 1):
        scores = drawn(net, seed + round)
        target = kept_fraction(ratio, round, rounds) * whole
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            keep = select(
                net, scores, ratio, round=round, rounds=rounds, budget=budget, grouping=grouping
            )
        smaller = compact(net, keep)
        left = cost(smaller)[f"net/{budget}"]
        if said:
            assert left > target
            return
        assert left <= target
        last = last_removed(net, keep, scores, grouping)
        if last:
            back = {name: layer.clone() for name, layer in keep.items()}
            for name, index in last:
                back[name][index] = True
            assert cost(masked(net, follow(net, back)))[f"net/{budget}"] > target
        net = smaller


def last_removed(net, keep, scores, grouping):
    """The filters of the highest score that went (of a channel's together, by their mean)."""
    gone = {}
    for name, conv in net.convs.items():
        if not conv.depthwise:
            for index in (net.mask(name) & ~keep[name]).nonzero().flatten().tolist():
                unit = (conv.writes, index) if grouping == "stream" else (name, index)
                gone.setdefault(unit, []).append((name, index))

    def mean(members):
        return sum(float(scores[name][index]) for name, index in members) / len(members)

    return max(gone.values(), key=mean, default=None)


@pytest.mark.parametrize("budget", ["filters", "params", "macs"])
@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
def test_allocation_magnitude_keeps_as_many_of_each_layer_as_magnitude(arch, budget):
    net, scores = tiny_net(arch), drawn(tiny_net(arch), 3)
    weights = {name: net.get_submodule(name).weight.detach() for name in scores}
    norms = {name: weight.flatten(1).norm(dim=1) for name, weight in weights.items()}
    theirs = select(net, norms, 0.6, budget=budget)
    ours = select(net, scores, 0.6, budget=budget, allocation="magnitude")
    free = [name for name, conv in net.convs.items() if not conv.depthwise]
    assert [int(ours[name].sum()) for name in free] == [int(theirs[name].sum()) for name in free]
    assert any(not torch.equal(ours[name], theirs[name]) for name in free)
    for name in free:
        kept, gone = scores[name][ours[name]], scores[name][~ours[name]]
        assert not len(gone) or not net.convs[name].prunable or kept.min() >= gone.max()


@pytest.mark.parametrize("budget", ["filters", "params", "macs"])
@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
def test_allocation_uniform_keeps_the_largest_share_of_each_layer(arch, budget):
    net, scores = tiny_net(arch), drawn(tiny_net(arch), 3)
    keep = select(net, scores, 0.4, budget=budget, allocation="uniform")
    original = {name: net.original[name] for name in ranked(net)}
    counts = {name: int(keep[name].sum()) for name in original}
    low, high = (
        bound(Fraction(2 * counts[name] + step, 2 * n) for name, n in original.items())
        for bound, step in ((max, -1), (min, 1))
    )
    assert low < high  # one share rounds to all counts; from `high` on, some are larger
    whole = dense_cost(net)[budget]
    target = int(0.6 * sum(original.values()) + 0.5) if budget == "filters" else 0.6 * whole
    assert cost(compact(net, keep))[f"net/{budget}"] <= target
    more = {name: layer.clone() for name, layer in keep.items()}
    for name, n in original.items():
        best = scores[name].argsort(descending=True)[: int(high * n + Fraction(1, 2))]
        more[name] = torch.zeros_like(keep[name]).index_fill(0, best, True)
    assert cost(masked(net, follow(net, more)))[f"net/{budget}"] > target


@pytest.mark.parametrize(
    "rules",
    [
        {"protocol": "paper"},
        {"budget": "filters"},
        {"budget": "macs"},
        {"budget": "macs", "grouping": "stream"},
        {"allocation": "uniform", "budget": "params"},
    ],
    ids=lambda rules: "-".join(rules.values()),
)
@pytest.mark.parametrize("multiple", [1, 4])
@settings(max_examples=2, deadline=None)
@given(seed=SEEDS, ties=st.booleans())
def test_a_compact_net_is_cut_as_the_masked_net_is(rules, multiple, seed, ties):
    """Filters that are gone count and rank as masked ones do, round after round."""
    whole = net = tiny_net("resnet20")
    index = {name: torch.arange(filters) for name, filters in whole.plan.items()}
    for round in (1, 2, 3):
        # a live score of 0 ties with all that are gone, and `paper` has these in another order
        scores = random_scores(whole, seed + round, ties and "protocol" not in rules)
        fewer = {name: layer[index[name]] for name, layer in scores.items()}
        keeps = [
            select(each, layers, 0.6, round=round, rounds=3, **rules)
            for each, layers in ((whole, scores), (net, fewer))
        ]
        whole, shrunk = masked(whole, keeps[0]), shrink(net, keeps[1], multiple=multiple)
        net = shrunk.net
        index = {name: index[name][shrunk.rows[f"{name}.weight"][0]] for name in index}
        for name, mask in whole.masks().items():
            live = torch.zeros_like(mask).index_copy(0, index[name], net.mask(name))
            assert torch.equal(live, mask), name


def test_a_channel_of_a_stream_goes_as_a_whole():
    net = tiny_net("resnet20")
    keep = select(net, drawn(net, 1), 0.5, grouping="stream")
    for writers in net.writers.values():
        assert all(torch.equal(keep[writers[0]], keep[writer]) for writer in writers)
    smaller = compact(net, keep)
    assert all(mask.all() for mask in smaller.masks().values())
    assert smaller.plan["conv1"] < net.plan["conv1"]


@pytest.mark.parametrize(
    "rules", [{"budget": "macs"}, {"allocation": "uniform"}, {"grouping": "stream"}]
)
def test_the_rules_of_the_paper_have_no_others(rules):
    net = tiny_net("vgg13")
    ((name, _),) = rules.items()
    with pytest.raises(UserError, match=f"{name} with protocol=paper must be"):
        select(net, drawn(net, 0), 0.5, protocol="paper", **rules)
    with pytest.raises(UserError, match=f"{name} with protocol=paper must be"):
        tiny_run(protocol="paper", **rules)


def test_unknown_rules_are_named():
    net = tiny_net("vgg13")
    with pytest.raises(UserError, match="budget must be one of filters, params, macs, got 'flops'"):
        select(net, drawn(net, 0), 0.5, budget="flops")


def test_a_target_that_floors_forbid_is_said():
    net = tiny_net("vgg13")
    with pytest.warns(UserWarning, match="macs instead of .*: each layer keeps at least 5 %"):
        select(net, drawn(net, 0), 0.9999, budget="macs")
