from benchmark.registry import measure


@measure(order=0, at_init=False)
def bn_scale(gamma):
    """|gamma|, the scale of the batch norm behind the conv.

    Order 0. Source: Liu et al., ICCV 2017 (network slimming). Unlike `magnitude` it reads one
    number per filter, which says nothing at initialisation, when all are 1.
    """
    return gamma.abs()
