from benchmark.registry import measure


@measure(order="activation")
def apoz(activation):
    """share of a above 0, over images and positions.

    Of activations: no gradient. Source: Hu et al., 2016 (average percentage of zeros, of which it
    is the complement: the lowest goes first). Unlike `activation_mean` it counts and does not
    weigh.
    """
    return activation.ceil().clamp(max=1).mean(dim=(0, 2, 3))
