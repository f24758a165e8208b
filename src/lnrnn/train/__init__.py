"""The program behind `lnrnn train`: a character language model on a text."""
