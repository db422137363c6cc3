from benchmark.registry import measure


@measure(order="control")
def none(weight):
    """0 for every filter: the dense control, whose runs make no cut.

    Source: the unpruned baseline of every pruning study. Unlike `random` it removes nothing.
    """
    return weight.new_zeros(len(weight))
