"""The objects of a survey that each filter of a network responds to most strongly.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", figure 2.
"""
