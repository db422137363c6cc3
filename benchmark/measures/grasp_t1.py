from benchmark.registry import measure


@measure(order=2, temperature=1.0)
def grasp_t1(weight, hessian_gradient):
    """sum w (Hg), signed, T = 1.

    Order 2: removing w changes |g|^2 by about -2 w (Hg), so pruning the lowest scores increases the
    gradient norm. Source: the comparison of Lubana & Dick, ICLR 2021, section 4.3. Unlike `grasp`
    it has the temperature of `grad_preservation`, whose scores are its absolute values.
    """
    return (weight * hessian_gradient).sum(dim=1)
