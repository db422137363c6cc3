from benchmark.registry import measure


@measure(order="control")
def random_layerwise(weight, uniform):
    """The scores of `magnitude`, shuffled among the live filters of each layer.

    A control: a random order with the layer densities that `magnitude` chooses, at any ratio.
    Source: the random layer-wise control of Frankle et al., ICLR 2021. Unlike with `random`,
    chance decides only the choice inside a layer.
    """
    norms = weight.norm(dim=1)
    live = norms.nonzero().flatten()
    norms[live] = norms[live[uniform[live].argsort()]]
    return norms
