"""What is done to a crop before the network restores it: elastic warp, then one of four changes (METHOD.md section 4).

Each change has two functions: one draws its parameters from a generator (NumPy, so that a key gives the same draw on
every device), one applies them to a crop (torch, on the crop's device). Crops are (z, y, x) in [0, 1]; no function
writes into its argument. Sizes follow from the crop's shape by the published formulas.
"""
