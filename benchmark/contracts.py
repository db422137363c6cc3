"""What every component keeps to, as checks that say in plain words what is wrong.

The suite's own components are tested with the same checks as those from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmark import data
from benchmark.errors import UserError, one_line
from benchmark.measures import MEASURES
from benchmark.measures._scoring import Scores, score_all
from benchmark.models import Net, build, takes_width
from benchmark.pruning import compact, masked, select
from benchmark.registry import Measure, load_measure

ARCHES = {"vgg13": 0.125, "resnet20": 0.0625, "mobilenet_v1": 0.125}
"""{architecture: width} of the nets that a measure is checked on."""
CLASSES = 10
NARROW = 0.0625
"""Width at which an architecture is checked."""
TOLERANCE = 1e-9
"""Largest difference of outputs in float64 of a masked and a compact net, as a share of the largest
output."""
BATCHES = 8, 3


def narrow_net(arch: str, width: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """A net whose batch-norm statistics and biases are not at their initial values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(arch, num_classes=CLASSES, width=width).to(dtype)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    return net


def random_images(count: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images uint8 [count, 32, 32, 3], and labels of all classes in turn."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=draw)
    return images, torch.arange(count) % CLASSES


def measure_faults(name: str) -> list[str]:
    """What is wrong with a measure, on three architectures; each fault once."""
    measure, (images, labels) = load_measure(name), random_images()
    for arch, width in ARCHES.items():
        net = narrow_net(arch, width)
        try:
            found = scoring_faults([measure], net, images, labels)
            found = found or [*_more_faults(measure, arch, width)]
        except Exception as error:  # of the user's function
            found = [f"raises {type(error).__name__}: {one_line(error)}"]
        if found:
            return [f"{fault} (on {arch})" for fault in dict.fromkeys(found)]
    return []


def scoring_faults(
    measures: Sequence[Measure], net: Net, images: torch.Tensor, labels: torch.Tensor
) -> list[str]:
    """What is wrong with the scores of measures, or with the net after scoring."""
    initial = {name: net.get_submodule(name).weight.detach() + 0.1 for name in net.convs}
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.random.get_rng_state()
    try:
        first, second = (
            score_all(net, measures, images, labels, initial=initial) for _ in range(2)
        )
    except UserError as error:
        return [str(error)]
    faults = []
    if not torch.equal(random, torch.random.get_rng_state()):
        faults.append(
            "changes the global random state: take random numbers from the parameter `uniform`"
        )
    if not net.training:
        faults.append("leaves the net in evaluation mode")
    if any(parameter.grad is not None for parameter in net.parameters()):
        faults.append("leaves gradients in the net")
    changed = [name for name, t in net.state_dict().items() if not torch.equal(before[name], t)]
    if changed:
        faults.append(f"changes the net: {changed[0]}; work on a copy")
    for name, layers in first.items():
        faults += _score_faults(name, layers, second[name])
    return faults


def _score_faults(name: str, layers: Scores, again: Scores) -> Iterator[str]:
    for conv, scores in layers.items():
        if bad := int((~scores.isfinite()).sum()):
            yield f"scores of {name} are not finite: {bad} of {len(scores)} in {conv}"
            return
        if scores.requires_grad:
            yield f"scores of {name} require gradients: return scores.detach()"
            return
        if not torch.equal(scores, again[conv]):
            yield f"scores of {name} are not repeatable: they change the second time, in {conv}"
            return


def _more_faults(measure: Measure, arch: str, width: float) -> Iterator[str]:
    images, labels = random_images()
    net = narrow_net(arch, width, dtype=torch.float64)
    per_batch = any(need.endswith("_square") for need in measure.needs)
    if not per_batch and depend_on_batch([measure], net, images, labels):
        yield "scores depend on the batch size, which only bounds memory"
    if spoils_others(measure, net, images, labels):
        yield "changes what other measures get: do not modify a parameter in place"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = build(arch, num_classes=CLASSES, width=width)
    initial = {name: fresh.get_submodule(name).weight.detach() for name in fresh.convs}
    layers = score_all(fresh, [measure], images, labels, initial=initial)[measure.name]
    alike = len(torch.cat(list(layers.values())).unique()) == 1
    if alike and measure.at_init:
        yield "all filters score alike at initialisation: declare at_init=False"


def depend_on_batch(
    measures: Sequence[Measure], net: Net, images: torch.Tensor, labels: torch.Tensor
) -> set[str]:
    """The names of the measures whose scores depend on the batch size, for a net in float64."""
    initial = {name: net.get_submodule(name).weight.detach() * 0.9 for name in net.convs}
    one, other = (
        score_all(net, measures, images, labels, initial=initial, batch_size=size)
        for size in BATCHES
    )
    return {
        name
        for name, layers in one.items()
        if not all(
            torch.allclose(layers[conv], other[name][conv], rtol=1e-8, atol=1e-14)
            for conv in net.convs
        )
    }


def spoils_others(measure: Measure, net: Net, images: torch.Tensor, labels: torch.Tensor) -> bool:
    """Whether measures that are scored after this one get other scores than alone."""
    names = ["loss", *(["grad_preservation"] if "hessian_gradient" in measure.needs else [])]
    others = [MEASURES[name] for name in names]
    initial = {name: net.get_submodule(name).weight.detach() for name in net.convs}
    alone = score_all(net, others, images, labels, initial=initial, temperature=1.0)
    beside = score_all(net, [measure, *others], images, labels, initial=initial, temperature=1.0)
    return not all(
        torch.equal(layer, beside[name][conv])
        for name, layers in alone.items()
        for conv, layer in layers.items()
    )


def model_faults(arch: str) -> list[str]:
    """What is wrong with an architecture."""
    try:
        return list(_model_faults(arch))
    except UserError as error:
        return [str(error)]
    except Exception as error:  # of the user's net
        return [f"raises {type(error).__name__}: {one_line(error)}"]


def _model_faults(arch: str) -> Iterator[str]:
    width = NARROW if takes_width(arch) else 1
    net = narrow_net(arch, width, dtype=torch.float64).eval()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, *net.image_size, dtype=torch.float64, generator=draw)
    logits = net(x)
    if logits.shape != (4, CLASSES):
        yield f"outputs must be logits [4, {CLASSES}] of 4 images, got {list(logits.shape)}"
        return
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    if idle:
        yield f"no gradient reaches {idle[0]}: the output does not depend on it"
        return
    net.zero_grad()
    scores = {name: torch.rand(filters, generator=draw) for name, filters in net.plan.items()}
    keep = select(net, scores, 0.5)
    with torch.no_grad():
        expected, got = masked(net, keep)(x), compact(net, keep)(x)
    error = float((expected - got).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        yield (
            f"the compact net has other outputs than the masked one (by {error:.1g}): please "
            "report it with the file, because its graph was misread"
        )


def data_faults(dataset: str, root: Path) -> list[str]:
    """What is wrong with a data set in the folder `root`. Raises `UserError` if its files are
    missing or broken."""
    try:
        return list(_data_faults(dataset, root))
    except UserError as error:
        return [str(error)]
    except Exception as error:  # of the user's function
        return [f"raises {type(error).__name__}: {one_line(error)}"]


def _data_faults(dataset: str, root: Path) -> Iterator[str]:
    images = data.load(dataset, root)
    if data.digest_of(images) != data.digest_of(data.load(dataset, root)):
        yield "is not repeatable: it has other images or labels when it is loaded again"
    classes = set(range(len(images.classes)))
    for part in ("train", "test"):
        if lacking := classes - set(getattr(images, f"{part}_labels").tolist()):
            yield f"has no {part} image of class {images.classes[min(lacking)]!r}"
