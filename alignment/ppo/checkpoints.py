"""What a checkpoint of PPO holds in addition to the policy: critic, rollout, counters, alarms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import RLOOTrainer

from alignment.ppo.adapters import kept_gradients, unsaved_adapters
from alignment.ppo.critic import load_critic, load_critic_adapter, save_critic
from alignment.ppo.state import PPOState

if TYPE_CHECKING:
    from alignment.ppo.alarms import AlarmBell
    from alignment.ppo.buffer import RolloutBuffer


class CheckpointedPPO(RLOOTrainer):  # type: ignore[misc]
    """Saves and restores a PPO run at any micro-step, so that it goes on to the same bits."""

    alarms: AlarmBell
    buffer: RolloutBuffer
    ppo_state: PPOState

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy as `from_pretrained` reads it, and the critic in files of its own."""
        policy = self.accelerator.unwrap_model(self.model)
        with unsaved_adapters(policy):
            super().save_model(output_dir, _internal_call=_internal_call)
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            save_critic(policy, folder)
        # the model at the end of a run is to be used, not resumed: it needs no rollout
        if not _internal_call:
            return
        if self.args.should_save:
            self.ppo_state.save(folder)
        self.buffer.save(folder, step=self.ppo_state.micro_steps)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder, policy = Path(resume_from_checkpoint), self.accelerator.unwrap_model(self.model)
        # loading an adapter makes PEFT freeze the others
        with kept_gradients(policy):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_critic(policy, folder)
        self.ppo_state = PPOState.load(folder)
        self.alarms.memory = self.ppo_state.alarms
        self.buffer.load(
            folder,
            step=self.ppo_state.micro_steps,
            number=self.ppo_state.rollouts,
            device=self.accelerator.device,
        )

    def _load_best_model(self) -> None:
        """Go back to the best checkpoint whole: policy, critic and KL coefficient."""
        folder = Path(str(self.state.best_model_checkpoint))
        policy = self.accelerator.unwrap_model(self.model)
        with kept_gradients(policy):
            super()._load_best_model()
            load_critic_adapter(policy, folder)
        load_critic(policy, folder)
        self.ppo_state.beta = PPOState.load(folder).beta
