from benchmark.registry import measure


@measure(order=1)
def fisher_bn(gamma, beta, gamma_square, beta_square):
    """gamma^2 mean_b(g_gamma^2) + beta^2 mean_b(g_beta^2), over batch-mean gradients.

    Order 1. Source: Molchanov et al., CVPR 2019 (on the batch norm), as in the code of Lubana &
    Dick, ICLR 2021; it depends on the batch size. Unlike `fisher` it reads the batch norm behind
    the conv instead of its weights.
    """
    return gamma.square() * gamma_square + beta.square() * beta_square
