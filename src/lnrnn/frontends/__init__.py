"""What front ends share, without any framework.

[families][lnrnn.frontends.families]: which variant an argument means.
[initial][lnrnn.frontends.initial]: how a weight starts.
[carry][lnrnn.frontends.carry]: where the weights of a plain layer go, and the report on it.
[errors][lnrnn.frontends.errors]: errors that several `except` clauses catch.
[warn][lnrnn.frontends.warn]: warnings that point at the user's line.
"""
