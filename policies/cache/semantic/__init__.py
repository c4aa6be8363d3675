"""The semantic tier: an earlier answer to a question that means the same, as often as it may be wrong.

    semantic: {max_error: 2%}

What lives here, from the inside out: `facts.py` what a text says besides its vector, `static.py` vectors without a
network, `sentence.py` those of a small one, `vectors.py` which of them a policy compares by, `partition.py` the
entries among which one looks, `lens.py` what tells their answers apart, `room.py` where they are kept, `equality.py`
which answers are the same, `features.py` what the nearest entries say about a question, `score.py` how likely their
answer is right, `bound.py` from which score on it is given, `learner.py` what a tenant's traffic has taught,
`shared.py` the line to other workers, `knowledge.py` all that a worker knows, `rated.py` what clients say of answers,
`turn.py` what of a request is compared, `asking.py` what is asked of upstreams besides, `tier.py` the part that meets
requests, and `explaining.py` the same without asking anybody.
"""

import os as _os

# What is multiplied here is small: more threads would only get into each other's way, and into the loop's.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    _os.environ.setdefault(_name, "1")
_os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
