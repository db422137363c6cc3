from benchmark.registry import measure


@measure(order=0)
def whc(weight, live):
    """norm2(w) sum_j norm2(w_j) (1 - abs(cos(w, w_j))), over the other filters j of the layer.

    Order 0. Source: Chen, Sun & Huang, 2023 (weighted hybrid criterion). The cosine of a filter
    without weights is 0. Unlike `fpgm` it compares directions: filters along one line do not count
    for each other.
    """
    w = (weight * live[:, None]).double()
    norms = w.square().sum(dim=1).sqrt()
    directions = w / norms.where(norms > 0, norms + 1)[:, None]
    apart = (1 - (directions @ directions.T).abs()).clamp(min=0).fill_diagonal_(0)
    return (norms * (apart @ norms)).to(weight)
