from benchmark.registry import measure


@measure(order=1, at_init=False)
def loss_biased_init(weight, initial, gradient):
    """sum |w - w_init| |w g|.

    Order 1: loss preservation weighted by the distance that a weight has moved. Source: Lubana &
    Dick, ICLR 2021, section 4.2. Unlike `loss_biased` a weight that is large since initialisation
    has no bonus; at initialisation every score is 0.
    """
    return ((weight - initial) * weight * gradient).abs().sum(dim=1)
