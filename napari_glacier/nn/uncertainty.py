"""How sure a prediction is, and how far the members of an ensemble agree.

Both measures are divided by log K, the entropy of knowing nothing among K classes, and so lie in [0, 1].
"""

import math

import torch


def entropy(probabilities: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Shannon entropy, -sum p log p / log K, over the classes in dimension `dim`.

    Parameters
    ----------
    probabilities : tensor
        Sums to 1 over `dim`; a probability of 0 adds 0.

    Returns
    -------
    tensor without dimension `dim`, in [0, 1]
    """
    num_classes = probabilities.shape[dim]
    total: torch.Tensor = torch.special.xlogy(probabilities, probabilities).sum(dim)
    return -total / math.log(num_classes)


def mutual_information(members: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """What the members disagree about: entropy of their mean minus the mean of their entropies.

    The uncertainty that more or better training could remove (Gal 2016; Lakshminarayanan et al. 2017);
    what remains lies in the pixels.

    Parameters
    ----------
    members : tensor, shape (M, K, …)
        Class probabilities of each member.
    weights : tensor, shape (M,), optional
        Weights of the members, summing to 1; equal by default.

    Returns
    -------
    tensor, shape (…), in [0, 1]; exactly 0 for one member
    """
    num_members = members.shape[0]
    if num_members == 1:
        return torch.zeros_like(members[0, 0])
    if weights is None:
        weights = members.new_full((num_members,), 1 / num_members)
    weights = weights.to(members).reshape(-1, *(1,) * (members.ndim - 1))
    mean = (members * weights).sum(0)
    within = (entropy(members, dim=1) * weights[:, 0]).sum(0)
    return (entropy(mean) - within).clamp_min(0)
