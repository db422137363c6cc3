from benchmark.registry import measure


@measure(order=1, paper=True)
def loss(weight, gradient):
    """sum |w g|.

    Order 1: up to a constant, how fast each parameter's norm changes, d|w|^2/dt = -2 w g. Source:
    Lubana & Dick, ICLR 2021, equation 5 (loss preservation; SNIP of Lee et al., ICLR 2019, summed
    per filter). Unlike `taylor` the absolute value is taken per weight, so that opposite changes do
    not cancel.
    """
    return (weight * gradient).abs().sum(dim=1)
