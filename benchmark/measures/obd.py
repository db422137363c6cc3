from benchmark.registry import measure


@measure(order=2)
def obd(weight, hessian_diagonal):
    """sum w^2 H_ii / 2, H_ii the diagonal of the Hessian of the loss.

    Of second order in the weights: the change of the loss at a minimum when they are removed one
    by one. Source: LeCun et al., NeurIPS 1989 (optimal brain damage), summed per filter. H_ii is
    exact for nets with rectifiers and up to 100 classes (`benchmark.measures._maps`). Unlike
    `fisher` it needs no labels, and it depends on no batches.
    """
    return (weight.square() * hessian_diagonal).sum(dim=1) / 2
