"""What front ends share, without any framework.

[families][lnrnn.frontends.families]: which variant an argument means.
[arguments][lnrnn.frontends.arguments]: arguments of constructors, checked.
[noise][lnrnn.frontends.noise]: the random masks of a recurrence.
[initial][lnrnn.frontends.initial]: how a weight starts.
[keras_weights][lnrnn.frontends.keras_weights]: how a Keras layer and its files hold weights.
[advice][lnrnn.frontends.advice]: what a layer says once of its sizes and weights.
[carry][lnrnn.frontends.carry]: where the weights of a plain layer go, and the report on it.
[block_gru][lnrnn.frontends.block_gru]: arguments of Dreamer's block GRU.
[errors][lnrnn.frontends.errors]: errors that several `except` clauses catch.
[warn][lnrnn.frontends.warn]: warnings that point at the user's line.
"""
