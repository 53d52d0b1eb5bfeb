"""Accumulated prediction sensitivity: do a classifier's verdicts hang on the inputs that give a person's group away?"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from distill.metrics import downstream
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite, ratio, undefined, with_ones
from distill.metrics.classifier import Head
from distill.metrics.features import max_tokens
from distill.models.architecture import evaluating

TEXTS = 200  # Held-out texts of each task.

_FORMULA = (
    "mean over held-out texts x of P(x) = w^T |J| v: J[k, i] = d f_k / d x_i, f the classifier's probabilities, x the "
    "input embeddings of the text's tokens, coordinate by coordinate; w all on the predicted class; v_i = |d g / "
    "d x_i| / sum over j of |d g / d x_j|, g the probability that a protected-status model (logistic regression on the "
    "same vectors) gives to the text's own group; times the root mean square of the model's embedding matrix, so that "
    "models with larger embeddings compare"
)
_SOURCE = (
    "after Krishna et al. 2022, arXiv 2203.08670: a reconstruction from the abstract and the form w^T J v; the choice "
    "of x, w and v, and the scale, are this project's"
)
_LIMITS = (
    "Local: what an infinitely small change of the inputs does. It grows with how sharp the classifier is, and is "
    "never exactly 0 for one that reads the text at all: compare models of like accuracy, and see relative_to_uniform "
    "in the details, where 1 means that the inputs that give the group away matter no more than others. Worth little "
    "where the protected-status model is poor: its accuracy is in the details."
)

CARDS = (
    Card(
        name="occupation_prediction_sensitivity",
        label="prediction sensitivity (occupation)",
        meaning="How strongly a classifier of occupations on the model depends on those inputs that tell a person's "
        "gender.",
        formula=_FORMULA,
        ideal=0.0,
        direction="lower is fairer",
        source=_SOURCE,
        limits=_LIMITS,
    ),
    Card(
        name="hatexplain_prediction_sensitivity",
        label="prediction sensitivity (HateXplain)",
        meaning="How strongly a classifier of toxic language on the model depends on those inputs that tell which "
        "group a text mentions.",
        formula=_FORMULA,
        ideal=0.0,
        direction="lower is fairer",
        source=_SOURCE,
        limits=_LIMITS,
    ),
)


def accumulated_sensitivity(jacobian: np.ndarray, outputs: np.ndarray, features: np.ndarray) -> np.ndarray:
    """P = w^T |J| v.

    Args:
        jacobian: (..., K, I) derivative of output k by feature i.
        outputs: (..., K) weights w of the outputs.
        features: (..., I) weights v of the features.

    Returns:
        (...)
    """
    return (outputs[..., :, None] * np.abs(jacobian) * features[..., None, :]).sum(axis=(-2, -1))


def protected_weights(gradient: np.ndarray) -> np.ndarray:
    """v: the size of the protected-status model's derivative by each feature, as a share of all; (..., I) -> (..., I).

    Where it depends on no feature at all, every weight is 0.
    """
    sizes = np.abs(gradient)
    total = sizes.sum(axis=-1, keepdims=True)
    return np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """The sensitivity of both classifiers; unit: person or text. A task that has no data is undefined.

    Details: accuracy of the classifier and of the protected-status model on the texts looked at, the same sensitivity
    relative to equal weights v, and the sensitivity with the frozen vectors in place of the input embeddings.
    """
    tasks: tuple[tuple[str, str, Callable[[base.Evaluation], downstream.Task]], ...] = (
        ("occupation_prediction_sensitivity", "person", downstream.occupations_task),
        ("hatexplain_prediction_sensitivity", "text", downstream.hatexplain_task),
    )
    outcomes = {}
    for name, unit, task in tasks:
        try:
            outcomes[name] = _measured(evaluation, task(evaluation), unit)
        except base.NotMeasured as reason:
            outcomes[name] = undefined(str(reason))
    return outcomes


def _measured(evaluation: base.Evaluation, task: downstream.Task, unit: str) -> Measurement:
    features = downstream.task_features(evaluation, task)
    heads, protected = downstream.task_heads(evaluation, task), downstream.protected_heads(evaluation, task)
    chosen = _sample(task, evaluation.seed)
    table = []
    for fold, rows in enumerate(chosen):
        if len(rows):
            predicted = heads[fold].predictions(features[rows])
            group = task.group[rows]
            texts = [task.texts[row] for row in rows]
            gradients = input_gradients(
                evaluation, texts, [(heads[fold], predicted), (protected[fold], group)], f"{task.name} gradients"
            )
            pooled = _pooled(heads[fold], protected[fold], features[rows], features[task.folds[fold][0]], predicted)
            table += [
                (
                    _sensitivity(of_class, of_group),
                    _mean_size(of_class),
                    pooled[i],
                    predicted[i] == task.labels[row],
                    protected[fold].predictions(features[row : row + 1])[0] == task.group[row],
                )
                for i, (row, (of_class, of_group)) in enumerate(zip(rows, gradients, strict=True))
            ]
    if not table:
        raise base.NotMeasured(f"{task.name}: no held-out text about one of the groups {', '.join(task.groups)}")
    columns = np.array(table, dtype=np.float64)
    scale = _embedding_scale(evaluation)
    value, uniform = columns[:, 0].mean(), columns[:, 1].mean()
    return Measurement(
        with_ones(scale * columns[:, 0]),
        ratio,
        unit=unit,
        n=len(columns),
        counted="texts",
        details=downstream.task_details(evaluation, task)
        | {
            "groups": list(task.groups),
            "relative_to_uniform": finite(value / uniform) if uniform > 0 else None,
            "on_frozen_vectors": finite(columns[:, 2].mean()),
            "accuracy": finite(columns[:, 3].mean()),
            "protected_accuracy": finite(columns[:, 4].mean()),
            "embedding_scale": scale,
        },
    )


def _sample(task: downstream.Task, seed: int) -> list[np.ndarray]:
    """Held-out texts about one group, `TEXTS` in all or as many as there are, by fold."""
    held_out = [rows[task.group[rows] >= 0] for _, rows in task.folds]
    candidates = np.concatenate(held_out)
    drawn = np.random.default_rng(seed).permutation(len(candidates))[:TEXTS]
    wanted = np.sort(candidates[drawn])
    return [np.intersect1d(rows, wanted) for rows in held_out]


def _sensitivity(of_class: np.ndarray, of_group: np.ndarray) -> float:
    """P of one text, w all on the class whose gradient is given."""
    jacobian, weights = of_class.reshape(1, -1), protected_weights(of_group.reshape(-1))
    return float(accumulated_sensitivity(jacobian, np.ones(1), weights))


def _mean_size(gradient: np.ndarray) -> float:
    return float(np.abs(gradient).mean()) if gradient.size else 0.0


def _pooled(
    head: Head, protected: Head, features: np.ndarray, training: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """P with the frozen vectors, each coordinate in its standard deviations over the training texts, as x; (N,).

    In closed form: d f_k / d h = f_k (W_k - sum_j f_j W_j), and v is proportional to the difference of the protected
    status model's weights likewise.
    """
    spread = training.std(axis=0)
    jacobian = head_gradients(head, features, predicted) * spread
    of_group = head_gradients(protected, features, protected.predictions(features)) * spread
    weights = protected_weights(of_group)
    return accumulated_sensitivity(jacobian[:, None, :], np.ones((len(features), 1)), weights)


def head_gradients(head: Head, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Derivative of the probability of one class each by the vector; (N, D), (N,) -> (N, D)."""
    probabilities = head.probabilities(features)
    own = probabilities[np.arange(len(classes)), classes]
    return own[:, None] * (head.weight[classes] - probabilities @ head.weight)


def input_gradients(
    evaluation: base.Evaluation, texts: Sequence[str], heads: Sequence[tuple[Head, np.ndarray]], what: str
) -> list[list[np.ndarray]]:
    """Derivatives of the heads' probabilities by the input embeddings of the texts' tokens.

    Args:
        evaluation: Whose model.
        texts: N texts.
        heads: (head on the mean of the last hidden states, (N,) the class of each text whose probability is meant).
        what: Name of the pass, for progress.

    Returns:
        For each text one (L, D) array a head, the start token left out.
    """
    sequences = [evaluation.encode(text)[0][: max_tokens(evaluation)] for text in texts]
    found: list[list[np.ndarray]] = [[] for _ in texts]
    done, report = 0, evaluation.report(what)
    for batch in evaluation.batches([len(ids) for ids in sequences]):
        ids, mask = evaluation.padded([sequences[i] for i in batch])
        with evaluating(evaluation.model), torch.enable_grad():
            embeddings = evaluation.model.get_input_embeddings()(ids).detach().requires_grad_()
            states = evaluation.model.base_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
            vectors = _mean_states(states.last_hidden_state.double(), mask)
            for number, (head, classes) in enumerate(heads):
                own = _probability(head, vectors, classes[batch]).sum()
                (gradient,) = torch.autograd.grad(own, embeddings, retain_graph=number + 1 < len(heads))
                for i, of_text in zip(batch, gradient.double().cpu().numpy(), strict=True):
                    found[i].append(of_text[1 : len(sequences[i])].copy())
        done += len(batch)
        report(done, len(texts))
    return found


def _mean_states(states: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) -> (B, D): the mean over the tokens behind the start token, the start token's own where none are."""
    counted = mask.clone()
    counted[:, 0] = mask.sum(dim=1) == 1
    return (states * counted.unsqueeze(-1)).sum(dim=1) / counted.sum(dim=1, keepdim=True)


def _probability(head: Head, vectors: Tensor, classes: np.ndarray) -> Tensor:
    """(B,) the head's probability of one class each."""
    weight, bias = (torch.from_numpy(part).to(vectors.device) for part in (head.weight, head.bias))
    probabilities = (vectors @ weight.T + bias).softmax(dim=-1)
    return probabilities.gather(1, torch.from_numpy(classes).to(vectors.device)[:, None]).squeeze(1)


def _embedding_scale(evaluation: base.Evaluation) -> float:
    with torch.inference_mode():
        return float(evaluation.model.get_input_embeddings().weight.double().square().mean().sqrt())


class PredictionSensitivity(base.ModelMetric):
    """`evaluate` module of the accumulated prediction sensitivity."""
