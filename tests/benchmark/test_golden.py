"""Agreement with what the authors' released code returned (see golden/README.md)."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import measures
from benchmark.data._batches import normalise
from benchmark.measures._scoring import score_all
from benchmark.models import Net, build
from benchmark.pruning import compact, masked, select

GOLDEN = Path(__file__).parent / "golden"
ARCHES = ("vgg13", "mobilenet_v1", "resnet56")
EXACT = dict.fromkeys(ARCHES, (pytest.mark.slow,)) | {
    "resnet56": (pytest.mark.slow, pytest.mark.long)
}

MEASURES = (
    "magnitude", "l1", "bn_scale", "loss", "taylor", "loss_biased", "loss_biased_init", "fisher",
    "fisher_bn", "grasp", "grad_preservation",
)  # fmt: skip
BATCH = 50


@lru_cache
def golden(arch: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{arch}.npz") as arrays:
        return dict(arrays)


@lru_cache
def images() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(GOLDEN / "images.npz") as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


def net_and_initial(
    arch: str, dtype: torch.dtype = torch.float32
) -> tuple[Net, dict[str, torch.Tensor]]:
    arrays = golden(arch)
    plan = dict(zip(arrays["plan_names"].tolist(), arrays["plan_sizes"].tolist(), strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(arch, plan=plan)
    initial = {
        name: net.get_submodule(name).weight.detach().clone().to(dtype) for name in net.convs
    }
    state = {
        k.removeprefix("state/"): torch.from_numpy(v)
        for k, v in arrays.items()
        if k.startswith("state/")
    }
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return net.to(dtype).eval(), initial


def by_layer(net: Net, flat: np.ndarray) -> dict[str, torch.Tensor]:
    return dict(zip(net.convs, torch.from_numpy(flat).split(list(net.plan.values())), strict=True))


def flat(layers: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat(list(layers.values())).numpy()


@pytest.mark.parametrize(
    ("arch", "dtype", "tolerance"),
    [
        ("vgg13", torch.float32, 1e-4),
        ("mobilenet_v1", torch.float32, 1e-4),
        pytest.param("resnet56", torch.float32, 1e-4, marks=pytest.mark.slow),
        *(pytest.param(arch, torch.float64, 1e-6, marks=marks) for arch, marks in EXACT.items()),
    ],
)
def test_scores(arch, dtype, tolerance):
    net, initial = net_and_initial(arch, dtype)
    scored = [measures.MEASURES[name] for name in MEASURES]
    scores = score_all(net, scored, *images(), initial=initial, batch_size=BATCH)
    for measure in MEASURES:
        expected = golden(arch)[f"score{'32' if dtype == torch.float32 else '64'}/{measure}"]
        error = np.abs(flat(scores[measure]) - expected).max() / np.abs(expected).max()
        assert error < tolerance, (measure, error)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("rounds", [1, 5])
def test_paper_protocol_keeps_the_same_filters(arch, rounds):
    net, _ = net_and_initial(arch)
    arrays = golden(arch)
    for measure in MEASURES:
        scores = by_layer(net, arrays[f"score32/{measure}"])
        keep = select(net, scores, float(arrays["ratio"]), round=1, rounds=rounds, protocol="paper")
        expected = np.unpackbits(arrays[f"keep/{rounds}/{measure}"])[
            : sum(net.plan.values())
        ].astype(bool)
        different = set(np.flatnonzero(flat(keep) != expected).tolist())
        assert different <= set(
            arrays.get(f"ambiguous/{rounds}/{measure}", np.array([])).tolist()
        ), measure


@pytest.mark.parametrize(
    "arch", ["vgg13", "mobilenet_v1", pytest.param("resnet56", marks=pytest.mark.slow)]
)
def test_logits_and_parameter_counts(arch):
    net, _ = net_and_initial(arch)
    arrays, x = golden(arch), normalise(images()[0][:20])
    with torch.no_grad():
        np.testing.assert_allclose(net(x).numpy(), arrays["logits64"][:20], atol=1e-4)
        for rounds in (1, 5):
            for measure in MEASURES:
                bits = np.unpackbits(arrays[f"keep/{rounds}/{measure}"])[
                    : sum(net.plan.values())
                ].astype(bool)
                keep = by_layer(net, bits)
                small = compact(net, keep)
                for pruned in (masked(net, keep), small):
                    expected = arrays[f"logits/{rounds}/{measure}"][:20]
                    np.testing.assert_allclose(
                        pruned(x).numpy(), expected, atol=1e-4, err_msg=measure
                    )
                if (
                    arch != "resnet56"
                ):  # there the authors keep the masked rows of the residual streams
                    params = sum(p.numel() for p in small.parameters())
                    assert params == arrays[f"params/{rounds}/{measure}"]
