"""The stages of a fine-tuning: first the head on the frozen encoder, then both (Weimann and Conrad, 2025)."""

from __future__ import annotations

from dataclasses import replace

from skecg.finetuning.course import Course
from skecg.finetuning.groups import layered_groups
from skecg.finetuning.heads import LinearHead
from skecg.finetuning.lessons import TokenInputs, WindowInputs
from skecg.finetuning.linear_stage import fit_linear_head, standardize_linear_head
from skecg.finetuning.loop import train_network
from skecg.finetuning.network import Network

__all__ = ["run_stages"]

# What is published for a head that is trained on a frozen encoder.
_HEAD_EPOCHS, _HEAD_RATE, _HEAD_DECAY = 30, 1e-3, 0.1


def run_stages(network: Network, course: Course) -> None:
    """Train a network in place; what happened is in the course's history.

    Parameters
    ----------
    network : Network
        On the device of the course, in evaluation mode.
    course : Course
    """
    head, history = network.head, course.history
    linear = head if isinstance(head, LinearHead) else None
    if course.stages == "all":
        if linear is not None:
            standardize_linear_head(network, linear, course)
    elif linear is not None:
        history.C = fit_linear_head(network, linear, course, course.C, to_all=course.stages == "head")
    else:
        _train_head(network, course)
    if course.stages != "head":
        _train_all(network, course)
        if history.best_epoch == 0 and history.C is not None and linear is not None:
            # The encoder is the one that training started from, so that nothing has to be chosen any more.
            fit_linear_head(network, linear, course, history.C, to_all=True)


def _train_head(network: Network, course: Course) -> None:
    """Train a head that has no closed optimum, on tokens that are computed once."""
    plan = course.plan
    plan = replace(plan, learning_rate=_HEAD_RATE, weight_decay=_HEAD_DECAY, epochs=_HEAD_EPOCHS, warmup_epochs=0)
    network.encoder.requires_grad_(False)
    groups = layered_groups(network, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay)
    inputs = TokenInputs(course.windows, network.encoder, course.device, plan.n_jobs)
    train_network(
        network,
        course.lessons(inputs),
        plan,
        groups,
        course.validation(network, inputs),
        history=course.history if course.stages == "head" else None,
        title="training the head",
        verbose=course.verbose,
    )
    network.encoder.requires_grad_(True)


def _train_all(network: Network, course: Course) -> None:
    """Train encoder and head together, each block a little slower than the one above."""
    plan, inputs = course.plan, WindowInputs(course.windows, course.device)
    groups = layered_groups(
        network, learning_rate=plan.learning_rate, layer_decay=plan.layer_decay, weight_decay=plan.weight_decay
    )
    train_network(
        network,
        course.lessons(inputs),
        plan,
        groups,
        course.validation(network, inputs),
        history=course.history,
        verbose=course.verbose,
    )
