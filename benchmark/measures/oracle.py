from benchmark.registry import measure


@measure(order="truth")
def oracle(net):
    """The change of the loss when that filter alone is really removed (masked), measured; signed.

    The truth that first-order scores approximate. Source: Molchanov et al., ICLR 2017 (oracle ranking). Unlike
    `taylor` nothing is extrapolated, at one evaluation per filter. A depthwise conv has its producer's scores.
    """
    import copy

    model = copy.deepcopy(net.model)
    followers = {name: [] for name in model.convs}
    writer = {conv.writes: name for name, conv in model.convs.items() if not conv.depthwise}
    for name, conv in model.convs.items():
        if conv.depthwise:
            followers[writer[conv.reads]].append(name)
    masks, before, changes = model.masks(), net.loss(model), {}
    for name in model.convs:
        if name not in changes:
            changes[name] = model.get_submodule(name).weight.new_zeros(model.plan[name])
            for i in masks[name].nonzero().flatten().tolist():
                live = masks[name].clone()
                live[i] = False
                together = [name, *followers[name]]
                for one in together:
                    model.set_mask(one, live)
                changes[name][i] = net.loss(model) - before
                for one in together:
                    model.set_mask(one, masks[one])
            for one in followers[name]:
                changes[one] = changes[name].clone()
    return {name: changes[name] for name in model.convs}
