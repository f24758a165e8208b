"""What front ends share, without any framework.

[families][lnrnn.frontends.families]: which variant an argument means.
[initial][lnrnn.frontends.initial]: how a weight starts.
[advice][lnrnn.frontends.advice]: what a layer says once of its sizes and weights.
[carry][lnrnn.frontends.carry]: where the weights of a plain layer go, and the report on it.
[warn][lnrnn.frontends.warn]: warnings that point at the user's line.
"""
