"""The classifier head by scipy, an independent truth."""

import numpy as np
from scipy.optimize import minimize

from distill.metrics.classifier import PENALTY


def scipy_probabilities(features, labels, num_classes, queries, penalty=PENALTY):
    """Penalised multinomial logistic regression on standardised features, minimised by scipy."""
    mean, std = features.mean(axis=0), features.std(axis=0)
    x, q = (features - mean) / std, (queries - mean) / std
    one_hot = np.eye(num_classes)[labels]

    def softmax(logits):
        logits = np.exp(logits - logits.max(axis=1, keepdims=True))
        return logits / logits.sum(axis=1, keepdims=True)

    def objective(flat):
        weight, bias = flat[:-num_classes].reshape(num_classes, -1), flat[-num_classes:]
        p = softmax(x @ weight.T + bias)
        loss = -np.log(p[np.arange(len(labels)), labels]).mean() + penalty / 2 * (weight**2).sum()
        residual = (p - one_hot) / len(labels)
        return loss, np.concatenate([(residual.T @ x + penalty * weight).ravel(), residual.sum(axis=0)])

    start = np.zeros(num_classes * (x.shape[1] + 1))
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    flat = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return softmax(q @ flat[:-num_classes].reshape(num_classes, -1).T + flat[-num_classes:])
