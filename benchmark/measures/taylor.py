from benchmark.registry import measure


@measure(order=1)
def taylor(weight, gradient):
    """|sum w g|.

    Order 1: the first-order change of the loss when the filter's weights go to 0. Source: Molchanov
    et al., CVPR 2019 (first-order Taylor, without the square). Unlike `loss` opposite changes
    inside a filter cancel.
    """
    return (weight * gradient).sum(dim=1).abs()
