from benchmark.registry import measure

ITERATIONS = 100
FINAL_KEPT = 0.05
TINY = 2.0**-400


@measure(order=0)
def synflow(net):
    """Order of removal by sum |w dR/dw|, which is computed again after each of 100 small cuts; from
    0 (first) to 1 (last).

    R is the sum of the outputs of the linearised net (no biases, BN as the scale |gamma| / sd) with
    the absolute values of its parameters, on an all-ones input, which is scaled by 2^-400: so
    activations that are bounded or smooth act as their slopes at 0. Order 0. Source: Tanaka et al.,
    NeurIPS 2020 (synaptic flow), summed per filter. Unlike `magnitude` a filter counts for the
    paths through it, and it is iterated, so that no layer is emptied early.
    """
    import copy
    import warnings

    import torch

    from benchmark.data._batches import normalise
    from benchmark.flow import UNUSED
    from benchmark.models import copied
    from benchmark.pruning import select
    from benchmark.pruning.masks import mask_filters

    device, place = net.images.device, net.place
    dtype = next(net.model.parameters()).dtype
    model = copied(net.model).to(place).double().eval().requires_grad_()
    for name, tensor in model.state_dict().items():
        tensor.zero_() if name.endswith(("bias", "running_mean")) else tensor.abs_()
    ranked = copy.deepcopy(model).cpu()  # whose masks are read without waiting for a GPU
    ones = torch.full_like(normalise(net.images[:1].to(place), torch.float64), TINY)
    removed = {
        name: torch.zeros(filters, dtype=torch.float32) for name, filters in model.plan.items()
    }
    for step in range(1, ITERATIONS + 1):
        weights = {name: model.get_submodule(name).weight for name in model.convs}
        with torch.enable_grad():
            total = model(ones).sum()
            slopes = torch.autograd.grad(total, list(weights.values()), **UNUSED)
        sums = [
            (weight * slope).detach().abs().flatten(1).sum(dim=1)
            for weight, slope in zip(weights.values(), slopes, strict=True)
        ]
        read = torch.cat(sums).cpu()
        saliency = dict(zip(weights, read.split([len(layer) for layer in sums]), strict=True))
        if not read.isfinite().all():
            return {name: layer.to(device, dtype) * torch.nan for name, layer in saliency.items()}
        before = ranked.masks()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the floors may forbid the last, small budgets
            keep = select(ranked, saliency, 1 - FINAL_KEPT ** (step / ITERATIONS))
        mask_filters(ranked, keep)
        gone = ~torch.cat(list(ranked.masks().values())).to(place)
        for name, part in zip(weights, gone.split([len(layer) for layer in sums]), strict=True):
            for parameter in model.filter_parameters(name):
                parameter.detach()[part] = 0
        largest = float(read.max()) or 1.0
        for name, mask in before.items():
            inside, left = (saliency[name] / largest).float(), keep[name]
            going = mask & ~left
            removed[name][going] = (step - 1 + inside[going]) / (ITERATIONS + 1)
            removed[name][left] = (ITERATIONS + inside[left]) / (ITERATIONS + 1)
    return {name: scores.to(device, dtype) for name, scores in removed.items()}
