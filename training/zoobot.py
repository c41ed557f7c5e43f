"""Networks as Zoobot saves them: a timm encoder with a head, and the names of their weights.

Walmsley et al. 2023, "Zoobot: Adaptable Deep Learning Models for Galaxy Morphology".
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class EncoderAndHead(nn.Module):
    """A timm encoder and a head on its features.

    Parameters
    ----------
    encoder
        Maps (N, bands, H, W) to features (N, F); its weights are called ``encoder.*``.
    head
        Maps them to logits (N, classes).
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.head(self.encoder(x_NCHW))
        return logits


def linear_head(features: int, classes: int, dropout: float = 0.5) -> nn.Sequential:
    """Make the head of a fine-tuned classifier: its weights are ``head.linear.*``.

    Parameters
    ----------
    features
        Inputs.
    classes
        Outputs.
    dropout
        Probability of a dropped feature before the linear layer.
    """
    _check_dropout(dropout)
    return nn.Sequential(
        OrderedDict(dropout=nn.Dropout(dropout), linear=nn.Linear(features, classes))
    )


def dirichlet_head(
    features: int, classes: int, dropout: float = 0.2, answers: int | None = None, first: int = 0
) -> nn.Sequential:
    """Make the head of a tree of questions: its weights are ``head.1.0.*``.

    Zoobot's head gives each answer a concentration 1 + 100 sigmoid(z) of a Dirichlet distribution
    per question. Here its logarithm is the logit of an answer, so that the softmax over the answers
    to one question is the expected fraction of the votes, concentration / sum of concentrations.

    Parameters
    ----------
    features
        Inputs.
    classes
        Answers to the question that is explained.
    dropout
        Probability of a dropped feature before the linear layer. It is off but where Monte-Carlo
        dropout samples it; Zoobot may leave it on.
    answers
        Answers to all questions of the tree, by default the classes alone.
    first
        Which of them, from 0, is the first class; the others follow it.
    """
    _check_dropout(dropout)
    answers = classes if answers is None else answers
    if not 0 <= first <= answers - classes:
        raise ValueError(
            f"network: first = {first} with {classes} classes is invalid; "
            f"the tree has answers 0 to {answers - 1}"
        )
    concentrations = nn.Sequential(nn.Linear(features, answers), _LogConcentration())
    return nn.Sequential(nn.Dropout(dropout), concentrations, _Question(first, classes))


class _LogConcentration(nn.Module):
    """From what the linear layer puts out to log concentrations."""

    def forward(self, z_NA: Tensor) -> Tensor:
        return torch.log1p(100 * torch.sigmoid(z_NA))


class _Question(nn.Module):
    """Choose the answers to one question."""

    def __init__(self, first: int, answers: int) -> None:
        super().__init__()
        self._question = slice(first, first + answers)

    def forward(self, all_NA: Tensor) -> Tensor:
        return all_NA[:, self._question]


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"network: dropout = {dropout} is invalid; use a probability below 1")
