"""`lnrnn bench`: how fast and how large the layers are on this machine, beside their peers."""
