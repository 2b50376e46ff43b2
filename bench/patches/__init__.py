"""The benchmark of patches: a corpus of real updates, and our patches beside those of other tools.

`released` and `finetunes` make the corpus, `peers` speak to the other tools, `measuring` runs one of them in a process
of its own, `report` renders, and ``python -m bench.patches`` (or ``make bench-patches``) does it all.
"""
