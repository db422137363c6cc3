from benchmark.registry import measure


@measure(order=0)
def lamp(weight, live):
    """norm2(w)^2 / sum_j norm2(w_j)^2, over the filters j of the layer that are not smaller.

    Order 0. Source: Lee et al., ICLR 2021 (layer-adaptive magnitude pruning), for filters. The
    largest filter of each layer has the score 1, and equal filters have equal scores. Unlike
    `magnitude` it compares a filter with those of its layer, so that no layer is emptied.
    """
    squares = (weight * live[:, None]).double().square().sum(dim=1)
    not_smaller = squares[None, :] >= squares[:, None]
    total = (squares * not_smaller).sum(dim=1)
    return (squares / total.where(total > 0, total + 1)).to(weight)
