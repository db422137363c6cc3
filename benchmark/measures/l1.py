from benchmark.registry import measure


@measure(order=0)
def l1(weight):
    """norm1(w).

    Order 0, like `magnitude`. Source: Li et al., ICLR 2017. Unlike `magnitude` it is not dominated
    by a filter's largest weights.
    """
    return weight.abs().sum(dim=1)
