from benchmark.registry import measure


@measure(order="truth")
def oracle(net):
    """The measured change of the loss when only that filter is removed (masked); signed.

    First-order scores approximate it. Source: Molchanov et al., ICLR 2017 (oracle ranking). Unlike
    `taylor` it extrapolates nothing, but costs one evaluation per filter. A depthwise conv has its
    producer's scores.
    """
    from benchmark.models import copied
    from benchmark.pruning.masks import follow

    model = copied(net.model)
    masks, before, changes = model.masks(), net.loss(model), {}
    for name, conv in model.convs.items():
        if conv.follows:
            continue
        changes[name] = model.get_submodule(name).weight.new_zeros(model.plan[name])
        for i in masks[name].nonzero().flatten().tolist():
            live = masks[name].clone()
            live[i] = False
            for one, mask in follow(net.model, {**masks, name: live}).items():
                model.set_mask(one, mask)
            changes[name][i] = net.loss(model) - before
        for one, mask in masks.items():
            model.set_mask(one, mask)
    return {name: model.ranking(name, changes).clone() for name in model.convs}
