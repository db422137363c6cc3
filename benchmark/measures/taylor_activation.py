from benchmark.registry import measure


@measure(order=1)
def taylor_activation(activation_gradient):
    """abs(mean of a dL/da), over images and positions, L the mean loss of all images.

    Order 1. Source: Molchanov et al., ICLR 2017, without its normalisation by layer. Unlike
    `taylor` it removes outputs instead of weights, and is a mean over positions: a layer with
    large maps has small scores.
    """
    return activation_gradient.abs()
