"""The models that a stage starts from, by role, identified by their content."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.errors import ConfigError
from alignment.models.folders import adapter_base, check_model
from alignment.registry import ROLES, STAGES
from alignment.runs.record import Parent, identify
from alignment.settings.reward_spec import is_function_or_url


def identify_parents(
    stage: str, settings: Mapping[str, Any], *, skip: Sequence[str] = ()
) -> dict[str, Parent]:
    """The models that a stage starts from, by role; ``skip`` names roles known otherwise.

    Raises:
        ConfigError: one is missing, or is a folder that holds no model.
    """
    parents = {}
    for role in (role for role in STAGES[stage].roles if role not in skip):
        key = ROLES[role]
        given = settings[key] if isinstance(settings[key], list) else [settings[key]]
        if given in ([None], []):
            raise ConfigError(
                f"{key}: no {role.replace('_', ' ')} is named", f"give --{key} FOLDER"
            )
        for position, model in enumerate(given):
            if is_function_or_url(model):
                continue
            check_model(model, role=key)
            if role == "model":
                check_critic(settings)
            name = role if position == 0 else f"{role}_{position + 1}"
            parents[name] = identify(model, settings["model_revision"])
    return parents


def check_critic(settings: Mapping[str, Any]) -> None:
    """See that a critic that is an adapter has a policy that is one.

    Raises:
        ConfigError: the policy is a whole model, trained whole.
    """
    policy = str(settings["model_name_or_path"])
    if settings.get("critic") == "lora" and not settings["use_peft"] and not adapter_base(policy):
        raise ConfigError(
            f"critic: lora shares the frozen base of a LoRA policy, and {policy} is a whole model",
            "set use_peft: true, or critic: head or model",
        )
