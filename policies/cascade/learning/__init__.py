"""What a cascade learns from pairs of answers: which small answers to distrust, and how far that may be trusted.

Pure: no clock, no I/O, no randomness of its own. What is measured is the judge's loss, on exchangeable traffic.

| module | what it knows |
|---|---|
| `features` | a prompt and a small answer as numbers |
| `score` | P(escalating benefits) of such numbers, fitted to pairs |
| `clustering` | texts divided by what they are about |
| `apart` | all of these fitted in a process of their own |
| `certificate` | which threshold of that score is proven to lose at most ε, and when that stopped being true |
"""
