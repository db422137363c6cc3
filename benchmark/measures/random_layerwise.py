from benchmark.registry import measure


@measure(order="control")
def random_layerwise(weight, uniform):
    """The scores of `magnitude`, shuffled inside each layer.

    A control: a random order with the layer densities that `magnitude` chooses, at any ratio. Source: the random
    layer-wise control of Frankle et al., ICLR 2021. Unlike `random` only the choice inside a layer is chance.
    """
    return weight.norm(dim=1)[uniform.argsort()]
