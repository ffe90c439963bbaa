"""Softmax and what most losses take from it, with one backward pass for all of them.

Left to autograd, the probabilities, the true class's log-probability and each loss would go back through the
(N, K, H, W) volume one by one; together they need about half the time.

Shapes: N batch, K classes, H rows, W columns, P pixels of an image.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Statistics = tuple[Tensor, Tensor, Tensor, Tensor]


def softmax_statistics(logits_NKHW: Tensor, truth_NKHW: Tensor) -> Statistics:
    """Surprise, confidence, probabilities and soft confusion matrix of a batch.

    Parameters
    ----------
    logits_NKHW : float32 or float64, contiguous
    truth_NKHW : the same dtype, contiguous
        1 at the true class, 0 elsewhere; all 0 where a pixel is ignored.

    Returns
    -------
    surprise_NHW
        ``-log p`` of the true class, finite however saturated the logits are; 0 where ignored.
    confidence_NHW
        ``p`` of the true class; 1 where ignored.
    prob_NKHW
        Softmax over the classes.
    confusion_KK
        Row t, column k: probability of k summed over the pixels whose truth is t.
    """
    return cast(Statistics, _SoftmaxStatistics.apply(logits_NKHW, truth_NKHW))


class _SoftmaxStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NKHW: Tensor, truth_NKHW: Tensor) -> Statistics:
        ctx.set_materialize_grads(False)
        prob_NKHW = logits_NKHW - logits_NKHW.amax(1, keepdim=True)
        true_score_NHW = (prob_NKHW * truth_NKHW).sum(1)
        prob_NKHW.exp_()
        total_N1HW = prob_NKHW.sum(1, keepdim=True)
        prob_NKHW /= total_N1HW
        surprise_NHW = (total_N1HW.squeeze(1).log() - true_score_NHW) * truth_NKHW.sum(1)
        confidence_NHW = (-surprise_NHW).exp()
        confusion_NKK = truth_NKHW.flatten(2) @ prob_NKHW.flatten(2).transpose(1, 2)
        ctx.save_for_backward(prob_NKHW, truth_NKHW, confidence_NHW)
        return surprise_NHW, confidence_NHW, prob_NKHW, confusion_NKK.sum(0)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        surprise_NHW: Tensor | None,
        confidence_NHW: Tensor | None,
        prob_NKHW: Tensor | None,
        confusion_KK: Tensor | None,
    ) -> tuple[Tensor, None]:
        """Gradient at the logits from the gradients at the four results, named as these."""
        p_NKHW, truth_NKHW, p_true_NHW = ctx.saved_tensors
        # d(-log p_t)/dz_k = p_k - [k = t]; d p_t/dz_k = -p_t (p_k - [k = t]).
        pull_NHW: Tensor | None = surprise_NHW
        if confidence_NHW is not None:
            pull_NHW = -confidence_NHW * p_true_NHW if pull_NHW is None else pull_NHW - confidence_NHW * p_true_NHW
        # dp_j/dz_k = p_j ([j = k] - p_k), with the gradient at p_j from both results that are made of p.
        at_prob_NKHW = prob_NKHW
        if confusion_KK is not None:
            with torch.autocast(p_NKHW.device.type, enabled=False):
                of_truth_NKHW = (confusion_KK.T @ truth_NKHW.flatten(2)).view_as(p_NKHW)
            at_prob_NKHW = of_truth_NKHW if at_prob_NKHW is None else at_prob_NKHW + of_truth_NKHW
        if at_prob_NKHW is None:
            gradient_NKHW = torch.zeros_like(p_NKHW)
        else:
            gradient_NKHW = at_prob_NKHW * p_NKHW
            gradient_NKHW.addcmul_(p_NKHW, gradient_NKHW.sum(1, keepdim=True), value=-1.0)
        if pull_NHW is not None:
            pull_N1HW = (pull_NHW * truth_NKHW.sum(1)).unsqueeze(1)
            gradient_NKHW.addcmul_(p_NKHW, pull_N1HW).addcmul_(truth_NKHW, pull_N1HW, value=-1.0)
        return gradient_NKHW, None
