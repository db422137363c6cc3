from benchmark.registry import measure


@measure(order=1)
def grad_accumulation(accumulated_gradient):
    """sum over the steps of training of |g_b|_2, g_b the gradient of a step's batch.

    Source: Sundaram et al., 2026 (component-aware pruning), by its abstract alone, which names the
    accumulation of gradients over training and gives no equation. Unlike `loss` it looks at the
    whole training so far, in a dense phase of its own, and not at the weights. A net that was not
    trained so, or not at all, has one step, whose batch are the images.
    """
    return accumulated_gradient
