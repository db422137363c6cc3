from benchmark.registry import measure

QUANTILE = 0.75


@measure(order=0)
def gibbs(weight, live):
    """mean(w^2) - Q, Q the 0.75-quantile of mean(w_j^2) over the live filters j of the layer.

    Order 0, signed. Source: Labach & Valaee, 2021 (a framework for neural network pruning using
    Gibbs distributions): the energy of a filter, without sampling and annealing. A filter that is
    dead has the score 0. Unlike `magnitude` it compares a filter with those of its layer.
    """
    energies = (weight * live[:, None]).double().square().mean(dim=1)
    if not live.any():
        return energies.to(weight)
    return ((energies - energies[live].quantile(QUANTILE)) * live).to(weight)
