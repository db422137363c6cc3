from benchmark.registry import measure


@measure(order="truth")
def oracle(net):
    """The change of the loss when that filter alone is really removed (masked), measured; signed.

    The truth that first-order scores approximate. Source: Molchanov et al., ICLR 2017 (oracle
    ranking). Unlike `taylor` nothing is extrapolated, at one evaluation per filter. A depthwise
    conv has its producer's scores.
    """
    import copy

    from benchmark.pruning.selection import follow

    model = copy.deepcopy(net.model)
    masks, before, changes = model.masks(), net.loss(model), {}
    for name, conv in model.convs.items():
        if conv.depthwise:
            continue
        changes[name] = model.get_submodule(name).weight.new_zeros(model.plan[name])
        for i in masks[name].nonzero().flatten().tolist():
            live = masks[name].clone()
            live[i] = False
            for one, mask in follow(model, {**masks, name: live}).items():
                model.set_mask(one, mask)
            changes[name][i] = net.loss(model) - before
        for one, mask in masks.items():
            model.set_mask(one, mask)
    producer = {stream: writers[-1] for stream, writers in model.writers.items()}
    return {
        name: changes[producer[conv.reads] if conv.depthwise else name].clone()
        for name, conv in model.convs.items()
    }
