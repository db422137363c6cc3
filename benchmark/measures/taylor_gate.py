from benchmark.registry import measure


@measure(order=1)
def taylor_gate(gate_square):
    """mean_b((gamma g_gamma + beta g_beta)^2), over batch-mean gradients.

    Order 1. Source: Molchanov et al., CVPR 2019 (a gate behind the batch norm): the squared slope
    of the loss as the filter's output shrinks. It depends on the batch size; batches count by
    their sizes. Unlike `fisher_bn` it squares the sum of the two terms.
    """
    return gate_square
