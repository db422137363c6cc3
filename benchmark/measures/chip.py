from benchmark.registry import measure

START, END, STEP = -32.0, 24.0, 0.25
"""The integral over t = e^u is a sum over u, which with these nodes is exact to 1e-10."""


@measure(order="activation")
def chip(activation):
    """mean over images of |A|_* - |A without its row|_*, A = a as [F, H W].

    |A|_* is the nuclear norm, the sum of the singular values. Of activations: no gradient. Source:
    Sui et al., NeurIPS 2021 (channel independence). Unlike `hrank` it compares the maps of a layer:
    a map that is a combination of the others counts little.

    One decomposition A = U S V' gives all F differences. With the eigenvalues s_i^2 of A'A, taking
    row f away multiplies det(A'A + t^2) by

        q_f(t) = 1 - sum_i U_fi^2 s_i^2 / (s_i^2 + t^2),

    and the difference is -1/pi times the integral of log q_f(t) over t from 0 to infinity. The CPU
    decomposes, because a GPU takes one matrix after another.
    """
    import math

    import torch

    maps = activation.flatten(2).double()
    if not maps.isfinite().all():
        return activation.mean(dim=(0, 2, 3)) * math.nan
    found = torch.linalg.svd(maps.cpu(), full_matrices=False)
    left, singular = found.U.to(maps), found.S.to(maps)
    largest = singular[:, :1]
    ratios = (singular / largest.where(largest > 0, largest + 1)).square()
    t = torch.arange(START, END + STEP, STEP, device=maps.device, dtype=maps.dtype).exp()
    shares = left.square()  # [N, F, min(F, H W)]
    rest = (1 - shares.sum(dim=2, keepdim=True)).clamp(min=0)
    total = ratios[:, :, None] + t.square()  # [N, min(F, H W), nodes]
    gone = shares @ (ratios[:, :, None] / total)
    left_over = rest + shares @ (t.square() / total)
    tiny = torch.finfo(maps.dtype).tiny
    logs = torch.where(gone < 0.5, (-gone).log1p(), left_over.clamp(min=tiny).log())
    lost = -(logs * t).sum(dim=2) * STEP / math.pi * largest
    return (lost * maps.any(dim=2)).mean(dim=0).clamp(min=0).to(activation)
