"""Tokens before the upstream has counted them: estimated, bounded, learnt, and counted where that is possible.

classes.py    bytes by class        families.py  models' weights     texts.py   what of a body is read
learned.py    corrections           bound.py     proven maxima       estimator.py  the four answers
exact.py      what tiktoken is given             ranks.py    its files
process.py    the process that counts            remote.py   asking it
"""

from proxy.tokens.estimator import Counter, Estimator

__all__ = ["Counter", "Estimator"]
