"""What a stage starts from, by role, each identified by its content."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignment.disk import digest_file
from alignment.errors import ConfigError
from alignment.models.folders import adapter_base, check_causal_model, check_model
from alignment.registry import ROLES, STAGES
from alignment.runs import Parent, identify
from alignment.settings.reward_spec import (
    RewardKind,
    RewardSpec,
    find_source,
    load_function,
    parse_reward,
)


def identify_parents(
    stage: str, settings: Mapping[str, Any], *, skip: Sequence[str] = ()
) -> dict[str, Parent]:
    """Identify the models and rewards of a stage; ``skip`` names roles that are known already.

    Raises:
        ConfigError: One is missing or cannot be used.
    """
    parents: dict[str, Parent] = {}
    for role in STAGES[stage].roles:
        if role not in skip:
            parents |= _identify_role(stage, role, settings)
    return parents


def _identify_role(
    stage: str, role: str, settings: Mapping[str, Any]
) -> Iterator[tuple[str, Parent]]:
    key = ROLES[role]
    names = settings[key] if isinstance(settings[key], list) else [settings[key]]
    if names in ([None], []):
        raise ConfigError(f"{key}: no {role.replace('_', ' ')} is named", f"give --{key} FOLDER")
    for number, name in enumerate(names, 1):
        if role == "reward_model":
            parent = identify_reward(parse_reward(name))
        else:
            check = check_model if STAGES[stage].classifier else check_causal_model
            check(name, role=key)
            check_critic(settings)
            parent = identify(name, settings["model_revision"])
        yield (role if number == 1 else f"{role}_{number}"), parent


def identify_reward(reward: RewardSpec) -> Parent:
    """Identify a reward, so that a change of it is noticed.

    A model by its run or its files, a function by the file that defines it (what that file imports
    is not seen), a scorer behind HTTP by its URL.

    Raises:
        ConfigError: It is not there, or is a folder without a model.
    """
    match reward.kind:
        case RewardKind.URL:
            return Parent(reward.shown, reward.shown, None)
        case RewardKind.FUNCTION:
            file = find_source(reward)
            digest = "builtin" if file is None else digest_file(file)[:16]
            return Parent(reward.text, f"{digest}:{reward.function}", None)
        case RewardKind.FOLDER | RewardKind.HUB:
            check_model(reward.text, role="reward_model")
            return identify(reward.text)


def import_functions(rewards: Sequence[str]) -> None:
    """Import the functions among rewards, so that a missing one is reported before a model loads.

    This runs the user's code, so it belongs to a process that will call the functions anyway.

    Raises:
        ConfigError: A module, file or function is not there, or is not valid Python.
    """
    for reward in map(parse_reward, rewards):
        if reward.kind is RewardKind.FUNCTION:
            load_function(reward)


def check_critic(settings: Mapping[str, Any]) -> None:
    """Check that a critic that is an adapter has a policy that is one.

    Raises:
        ConfigError: The policy is a whole model, trained whole.
    """
    policy = str(settings["model_name_or_path"])
    if settings.get("critic") == "lora" and not settings["use_peft"] and not adapter_base(policy):
        raise ConfigError(
            f"critic: lora shares the frozen base of a LoRA policy, and {policy} is a whole model",
            "set use_peft: true, or critic: head or model",
        )
