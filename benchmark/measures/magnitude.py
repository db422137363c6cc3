from benchmark.registry import measure


@measure(order=0, paper=True)
def magnitude(weight):
    """norm2(w).

    Order 0 of the gradient-flow view: the norm of the parameters itself. Source: Li et al., ICLR
    2017 (with the 1-norm); Lubana & Dick, ICLR 2021, section 3. Unlike `loss` it looks at no data.
    """
    return weight.norm(dim=1)
