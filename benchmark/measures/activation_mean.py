from benchmark.registry import measure


@measure(order="activation")
def activation_mean(activation):
    """mean of a, over images and positions.

    Of activations: no gradient. Source: Molchanov et al., ICLR 2017. Unlike `apoz` it measures how
    large a is.
    """
    return activation.mean(dim=(0, 2, 3))
