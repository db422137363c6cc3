from benchmark.registry import measure


@measure(order=1)
def fisher(weight, gradient_square):
    """sum w^2 mean_b(g_b^2), g_b the mean gradient of batch b.

    Order 1. Source: Theis et al., 2018, with batch gradients as in the code of Lubana & Dick, ICLR
    2021; it depends on the batch size. Unlike `loss` the gradient is squared before it is averaged,
    so that gradients which cancel over the data still count.
    """
    return (weight.square() * gradient_square).sum(dim=1)
