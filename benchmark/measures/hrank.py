from benchmark.registry import measure


@measure(order="activation")
def hrank(activation):
    """mean over images of the rank of a filter's map.

    Of activations: no gradient. Source: Lin et al., CVPR 2020 (high rank of feature maps). Ranks
    are those of float64. Many filters share a score where maps are small: a map of 2 x 2 has at
    most rank 2. Unlike `activation_mean` the size of a does not matter.
    """
    from torch import linalg

    finite = activation.isfinite().all()
    if not finite:
        return activation.mean(dim=(0, 2, 3)) * float("nan")
    ranks = linalg.matrix_rank(activation.double())
    return ranks.to(activation.dtype).mean(dim=0)
