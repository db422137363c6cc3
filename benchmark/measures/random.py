from benchmark.registry import measure


@measure(order="control")
def random(uniform):
    """uniform(0, 1) per filter.

    A control: chance decides which filters go, and how many of each layer. With
    `allocation=magnitude` chance decides only which filters of a layer go, and each layer keeps as
    many as by `magnitude`. Source: the controls of Frankle et al., ICLR 2021. Unlike the measures
    it looks at neither weights nor data.
    """
    return uniform
