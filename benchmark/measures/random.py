from benchmark.registry import measure


@measure(order="control")
def random(uniform):
    """uniform(0, 1) per filter.

    A control: chance decides which filters go, and how many of each layer. Source: the control of
    Frankle et al., ICLR 2021. Unlike `random_layerwise` the layers' densities are random too.
    """
    return uniform
