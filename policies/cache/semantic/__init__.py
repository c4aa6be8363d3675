"""The semantic tier: an earlier answer to a question that means the same, as often as it may be wrong.

    semantic: {max_error: 2%}

What lives here, from the inside out: `facts.py` what a text says besides its vector, `static.py` vectors without a
network, `partition.py` the entries among which one looks, `features.py` what the nearest of them say about a question,
`score.py` how likely their answer is right, `bound.py` from which score on it is given, `learner.py` what a tenant's
traffic has taught, and `tier.py` the part that meets requests.
"""

import os as _os

# What is multiplied here is small: more threads would only get into each other's way, and into the loop's.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    _os.environ.setdefault(_name, "1")
_os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
