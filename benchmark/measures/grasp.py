from benchmark.registry import measure


@measure(order=2, temperature=200.0, paper=True)
def grasp(weight, hessian_gradient):
    """sum w (Hg), signed, T = 200.

    Order 2: removing w changes |g|^2 by about -2 w (Hg), so pruning the lowest scores increases the
    gradient norm. Source: Wang et al., ICLR 2020 (GraSP), summed per filter as in Lubana & Dick,
    ICLR 2021, section 4.3. Unlike `grad_preservation` the sign counts.
    """
    return (weight * hessian_gradient).sum(dim=1)
