from benchmark.registry import measure


@measure(order=2, temperature=1.0, paper=True)
def grad_preservation(weight, hessian_gradient):
    """|sum w (Hg)|, T = 1.

    Order 2: removes the filters that change |g|^2 least, in either direction. Source: Lubana &
    Dick, ICLR 2021, section 4.3. Unlike `grasp` it preserves the gradient norm instead of
    increasing it.
    """
    return (weight * hessian_gradient).sum(dim=1).abs()
