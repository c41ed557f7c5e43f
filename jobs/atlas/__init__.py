"""The activation atlas of one survey or several: which things a network finds alike.

Carter et al. 2019, "Exploring neural networks with activation atlases".
"""
