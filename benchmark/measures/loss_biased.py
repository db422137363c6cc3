from benchmark.registry import measure


@measure(order=1, paper=True)
def loss_biased(weight, gradient):
    """sum |w^2 g|.

    Order 1: loss preservation weighted by magnitude. Source: Lubana & Dick, ICLR 2021, section 4.2.
    Unlike `loss` it prefers to keep large weights.
    """
    return (weight.square() * gradient).abs().sum(dim=1)
