from benchmark.registry import measure


@measure(order=0)
def fpgm(weight, live):
    """sum_j norm2(w - w_j), over the live filters j of the layer.

    Order 0. Source: He et al., CVPR 2019 (filter pruning via the geometric median). A filter that
    is dead has the score 0. Unlike `whc` it is 0 for no filter unless all are equal: it measures
    distances, which grow with the size of the filters.
    """
    from torch import cdist

    w = (weight * live[:, None]).double()
    distances = cdist(w, w, compute_mode="donot_use_mm_for_euclid_dist")
    return ((distances * live).sum(dim=1) * live).to(weight)
