"""The words of the page that a reader may not know; `term` in `macros.html` shows them."""

GLOSSARY = {
    "measure": "A score for each filter. The filters with the lowest scores are removed first.",
    "cut": "The removal of filters from a net, at one epoch.",
    "round": "One of several cuts, an epoch apart, that together remove the wanted share.",
    "setting": "When and how runs are cut: every field of a run but the net, the data, the measure "
    "and the seed that differs between the runs here.",
    "cell": "All seeds of one measure in one setting.",
    "seed": "The number that fixes all randomness of a run. Runs of two measures are compared seed "
    "by seed.",
    "budget": "What the wanted share is a share of: filters, parameters or MACs.",
    "MACs": "Multiply-accumulates of a forward pass of one image.",
    "dense control": "The same training without a cut (measure none).",
    "collapsed": "A run whose cut removed a whole layer, or cut off all convs from the gradient. "
    "Its accuracy counts as 0 in the leaderboard.",
    "diverged": "A run whose loss or scores became NaN or infinite.",
    "speed-up": "How many times faster the pruned net takes a batch of images than the dense net, "
    "on the machine of the run. Median over runs.",
    "θ·g": "Sum over all parameters of parameter times gradient: the first-order term. "
    "d|θ|²/dt = -2 θ·g in gradient flow.",
    "θ·Hg": "Sum over all parameters of parameter times Hessian-gradient product: the second-order "
    "term.",
    "interval": "The 95 % confidence interval, Student's t over seeds.",
    "power": "The chance that a study with this spread and so many seeds detects an effect: that "
    "its interval leaves 0 out. For the measured effect it follows from the p-value and says no "
    "more than that.",
    "smallest detectable effect": "The effect that a study with this spread and so many seeds "
    "detects with a power of 80 %.",
    "Holm": "A correction of p-values for the number of claims that are tested together.",
}
"""{word: its meaning}"""
