"""Train on one or two processes and write what came out; started by test_processes.

Imports are in the function that needs them, so that they can be made without collections.
"""

import json
import sys
from pathlib import Path
from typing import Any

from alignment.models.imports import import_heavy


def main(model_dir: str, folder: str, world: int, case: str) -> None:
    import_heavy("alignment.ppo.trainer")
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from ppo_cases import PROMPTS, share_of_e, tiny_args
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alignment.ppo.trainer import PPOTrainer

    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model.generation_config.eos_token_id = list(range(100, 320))  # several lengths
    torch.manual_seed(4)
    keys: dict[str, Any] = {
        "per_device_train_batch_size": 4 // world,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "num_ppo_epochs": 2,
        # Greedy: sampling draws other numbers in other processes.
        "generation_kwargs": {"do_sample": False, "temperature": None, "top_k": None},
        "adam_epsilon": 1e-3,
        "critic": case.removeprefix("resume-").split("-")[0],
        "whiten_rewards": True,
        "kl_control": "adaptive",
        "target_kl": 0.01,
        "kl_horizon": 100,
        "critic_warmup_steps": 1,
        "ddp_backend": "gloo" if world > 1 else None,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_only_model": False,
        "per_device_eval_batch_size": 2,
    }
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if case.endswith("lora") else None
    trainer = PPOTrainer(
        model=model,
        args=tiny_args(Path(folder) / "run", **keys),
        reward_funcs=share_of_e,
        train_dataset=Dataset.from_list([{"prompt": p} for p in PROMPTS]),
        eval_dataset=Dataset.from_list(
            [{"prompt": f"{p} " * n} for n, p in enumerate(PROMPTS[:5], 1)]
        ),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        peft_config=lora,
    )
    torch.manual_seed(9)
    with torch.no_grad():
        for name, parameter in sorted(trainer.model.named_parameters()):
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    checkpoint = None
    if case.startswith("resume"):
        checkpoint = str(Path(folder) / "run" / "checkpoint-3")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.generation_config.do_sample = True
    found = trainer.evaluate()
    ours = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    for name, x in ours.items():
        every = trainer.accelerator.gather(x.reshape(1, -1))
        assert (every == every[0]).all(), f"{name} differs between processes"
    if trainer.is_world_process_zero():
        torch.save(ours, folder + "/w.pt")
        history = [row for row in trainer.state.log_history if "loss" in row]
        if case == "head":  # the others have their own weights, and so their own lengths
            assert history[0]["completions/min_length"] < history[0]["completions/max_length"]
        Path(folder, "log.json").write_text(json.dumps(history))
        Path(folder, "held_out.json").write_text(json.dumps(found))
        Path(folder, "beta.txt").write_text(str(trainer.ppo_state.beta))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
