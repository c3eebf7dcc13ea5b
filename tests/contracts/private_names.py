"""Every private name of a library that our code uses, why, and what must be true of it.

`test_private_names` finds the uses in the syntax tree: a name that is not here, or is here and no
longer used, fails. If ``holds`` fails after an upgrade, read the change upstream first.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import GenerationMixin, PreTrainedModel, Trainer, modeling_layers
from trl import DPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer, SFTTrainer


@dataclass(frozen=True)
class PrivateName:
    """A private name, by whose library, in which of our modules.

    Attributes:
        why: Why no public name serves.
        holds: Raises AssertionError if the library changed what we rely on.
    """

    name: str
    library: str
    modules: tuple[str, ...]
    why: str
    holds: Callable[[], None]


def parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def text(function: object) -> str:
    return inspect.getsource(function)  # type: ignore[arg-type]


# transformers


def get_logits_processor() -> None:
    source = text(GenerationMixin._get_logits_processor)
    own, warped = source.index("logits_processor)\n"), source.index("TemperatureLogitsWarper(")
    assert own < warped  # a processor of `generate` comes before the temperature
    assert "_get_logits_processor(\n            generation_config=" in text(
        GenerationMixin.generate
    )


def train_batch_size() -> None:
    assert "self._train_batch_size = args.train_batch_size" in text(Trainer.__init__)
    assert "batch_size=self._train_batch_size" in text(Trainer.get_train_dataloader)
    source = text(RLOOTrainer.get_train_dataloader)
    assert "batch_size=self._train_batch_size * self.args.steps_per_generation" in source


def load_from_checkpoint() -> None:
    assert parameters(Trainer._load_from_checkpoint) == ["self", "resume_from_checkpoint", "model"]
    assert "self._load_from_checkpoint(resume_from_checkpoint)" in text(Trainer.train)


def load_best_model() -> None:
    assert parameters(Trainer._load_best_model) == ["self"]
    assert "self._load_best_model()" in text(Trainer._finalize_training)


def save_checkpoint() -> None:
    assert parameters(Trainer._save_checkpoint) == ["self", "model", "trial"]
    source = text(Trainer._maybe_log_save_evaluate)
    assert "self._save_checkpoint(model, trial)\n" in source
    assert "self.callback_handler.on_save(self.args, self.state, self.control)" in source


def evaluate() -> None:
    """What follows an evaluation in training, which a resumed run makes up for."""
    source = text(Trainer._maybe_log_save_evaluate)
    metrics = "metrics = self._evaluate(trial, ignore_keys_for_eval)"
    best = "is_new_best_metric = self._determine_best_metric(metrics=metrics, trial=trial)"
    assert source.index(metrics) < source.index(best)
    assert "self.callback_handler.on_evaluate(" in text(Trainer.evaluate)
    assert "self.callback_handler.on_prediction_step(" in text(Trainer.evaluation_loop)


def load_rng_state() -> None:
    assert parameters(Trainer._load_rng_state) == ["self", "checkpoint"]
    assert "self._load_rng_state(resume_from_checkpoint)" in text(Trainer._run_epoch)


def internal_call() -> None:
    assert parameters(Trainer.save_model) == ["self", "output_dir", "_internal_call"]
    assert "self.save_model(output_dir, _internal_call=True)" in text(Trainer._save_checkpoint)


def keys_to_ignore_on_save() -> None:
    source = text(PreTrainedModel.save_pretrained)
    assert "for ignore_key in self._keys_to_ignore_on_save:" in source
    assert "set(self._keys_to_ignore_on_save or [])" in text(PreTrainedModel.post_init)


def gradient_checkpointing_func() -> None:
    source = text(modeling_layers)
    assert "self._gradient_checkpointing_func(partial(" in source
    assert "if self.gradient_checkpointing and self.training" in source


# TRL


def metrics() -> None:
    made = 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}'
    for trainer in (SFTTrainer, RewardTrainer, DPOTrainer, KTOTrainer, RLOOTrainer):
        assert made in text(trainer.__init__)
    assert "for key, val in self._metrics[mode].items():" in text(RLOOTrainer.log)


def total_loss() -> None:
    assert "self._total_loss_scalar += self._tr_loss.item()" in text(Trainer._finalize_training)
    source = text(Trainer._inner_training_loop)
    assert source.index("self._total_loss_scalar = 0.0") < source.index("on_train_begin(")


def total_train_tokens() -> None:
    for trainer in (SFTTrainer, RewardTrainer, DPOTrainer, KTOTrainer):
        source = text(trainer)
        assert "self._total_train_tokens += " in source
        assert '["num_tokens"] = [self._total_train_tokens]' in source
    # RLOO counts in the state that Trainer saves.
    assert '["num_tokens"] = [self.state.num_input_tokens_seen]' in text(RLOOTrainer._generate)


def prepare_dataset() -> None:
    first = ["self", "dataset", "processing_class", "args"]
    packs = parameters(SFTTrainer._prepare_dataset)
    assert packs == [*first, "packing", "formatting_func", "dataset_name"]
    for trainer in (RewardTrainer, DPOTrainer, KTOTrainer):
        assert parameters(trainer._prepare_dataset) == [*first, "dataset_name"]


def precompute_ref_logps() -> None:
    for trainer in (DPOTrainer, KTOTrainer):
        assert parameters(trainer._precompute_ref_logps) == [
            "self",
            "dataset",
            "name",
            "batch_size",
        ]
        source = text(trainer.__init__)
        made = source.index("super().__init__(")  # it sets the collator
        assert made < source.index("self._precompute_ref_logps(")


def fingerprint() -> None:
    source = text(DPOTrainer._precompute_ref_logps)
    assert "Hasher.hash((dataset._fingerprint, model_hash))" in source
    assert "_fingerprint" in vars(Dataset.from_dict({"a": [1]}))


def card() -> None:
    assert (RLOOTrainer._name, RLOOTrainer._tag_names) == ("RLOO", ["trl", "rloo"])
    assert set(RLOOTrainer._paper) == {"title", "id", "citation"}
    source = text(RLOOTrainer.create_model_card)
    for used in ("trainer_name=self._name", 'self._paper.get("citation")', "self._tag_names"):
        assert used in source


def prepare_inputs() -> None:
    assert parameters(RLOOTrainer._prepare_inputs) == ["self", "generation_batch"]
    assert "inputs = self._prepare_inputs(inputs)" in text(Trainer.training_step)
    assert "inputs = self._prepare_inputs(inputs)" in text(RLOOTrainer.prediction_step)


def get_train_sampler() -> None:
    assert parameters(RLOOTrainer._get_train_sampler) == ["self", "dataset"]
    assert "sampler_fn=self._get_train_sampler" in text(RLOOTrainer.get_train_dataloader)


def generate() -> None:
    assert parameters(RLOOTrainer._generate) == ["self", "prompts"]
    source = text(RLOOTrainer._generate)
    assert source.rstrip().endswith("return prompt_ids, completion_ids, completions")


def tokenize_prompts() -> None:
    assert parameters(RLOOTrainer._tokenize_prompts) == ["self", "prompts"]
    call = "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)"
    assert call in text(RLOOTrainer._generate)


def calculate_rewards() -> None:
    names = ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert parameters(RLOOTrainer._calculate_rewards) == names
    source = text(RLOOTrainer._calculate_rewards)
    assert "rewards_per_func = gather(rewards_per_func)" in source


# torch


def fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(1 << 20, 1 << 20)
        assert (x @ x).untyped_storage().nbytes() == 4 << 40


def dispatch_mode() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    names = ["self", "func", "types", "args", "kwargs"]
    assert parameters(TorchDispatchMode.__torch_dispatch__) == names


NAMES = (
    PrivateName(
        "_train_batch_size",
        "transformers",
        ("alignment.memory.preflight",),
        "The loader reads it, not args, so a smaller batch that fits has to be set there too.",
        train_batch_size,
    ),
    PrivateName(
        "_load_from_checkpoint",
        "transformers",
        ("alignment.ppo.checkpoints",),
        "Callbacks run after the optimizer was made, from the requires_grad that PEFT's load sets.",
        load_from_checkpoint,
    ),
    PrivateName(
        "_load_best_model",
        "transformers",
        ("alignment.ppo.checkpoints", "alignment.training.job"),
        "No event says that the best model was loaded; the critic must go back with the policy.",
        load_best_model,
    ),
    PrivateName(
        "_save_checkpoint",
        "transformers",
        ("alignment.training.guard",),
        "An evaluation that is left by an exception reaches no place at which Trainer saves.",
        save_checkpoint,
    ),
    PrivateName(
        "_evaluate",
        "transformers",
        ("alignment.training.pending_evaluation",),
        "evaluate does not step a scheduler that follows the metrics, as training does.",
        evaluate,
    ),
    PrivateName(
        "_determine_best_metric",
        "transformers",
        ("alignment.training.pending_evaluation",),
        "Chooses the best model after an evaluation; evaluate does not.",
        evaluate,
    ),
    PrivateName(
        "_load_rng_state",
        "transformers",
        ("alignment.training.pending_evaluation",),
        "Trainer loads the random states only at the first step, after the evaluation.",
        load_rng_state,
    ),
    PrivateName(
        "_internal_call",
        "transformers",
        ("alignment.ppo.checkpoints",),
        "The only sign of save_model that the folder is a checkpoint, which also gets the rollout.",
        internal_call,
    ),
    PrivateName(
        "_keys_to_ignore_on_save",
        "transformers",
        ("alignment.ppo.critic",),
        "save_pretrained has no argument for it, and a filtered state_dict would not reach it "
        "under FSDP and DeepSpeed.",
        keys_to_ignore_on_save,
    ),
    PrivateName(
        "_gradient_checkpointing_func",
        "transformers",
        ("alignment.ppo.adapters",),
        "activation_checkpointing_enable sets it, but registers a hook on the embeddings at each "
        "call and cannot give back what was set; the critic needs its own function per forward.",
        gradient_checkpointing_func,
    ),
    PrivateName(
        "_get_logits_processor",
        "transformers",
        ("alignment.ppo.held_out",),
        "Processors that generate takes come before temperature and top_k; ours must be the last.",
        get_logits_processor,
    ),
    PrivateName(
        "_metrics",
        "trl",
        ("alignment.memory.restore", "alignment.ppo.evaluation", "alignment.ppo.trainer"),
        "TRL averages what is in it at each log and offers no method to add to it or to keep it.",
        metrics,
    ),
    PrivateName(
        "_total_train_tokens",
        "trl",
        ("alignment.training.guard",),
        "TRL counts tokens in it and saves it nowhere, so a resumed run would count from 0.",
        total_train_tokens,
    ),
    PrivateName(
        "_total_loss_scalar",
        "transformers",
        ("alignment.training.guard",),
        "Trainer sums losses in it and saves it nowhere, so train_loss would be that of the end.",
        total_loss,
    ),
    PrivateName(
        "_tr_loss",
        "transformers",
        ("alignment.training.guard",),
        "The part of that sum since the last log.",
        total_loss,
    ),
    PrivateName(
        "_prepare_dataset",
        "trl",
        ("alignment.training.trainers",),
        "Rows arrive tokenised and masked; skip_prepare_dataset would leave out packing too, and "
        "only SFT has it.",
        prepare_dataset,
    ),
    PrivateName(
        "_precompute_ref_logps",
        "trl",
        ("alignment.training.trainers",),
        "TRL computes the reference in its constructor, before a caller can set the collator.",
        precompute_ref_logps,
    ),
    PrivateName(
        "_fingerprint",
        "datasets",
        ("alignment.training.trainers",),
        "TRL keeps the reference by it, and only rows and model are in it.",
        fingerprint,
    ),
    PrivateName("_name", "trl", ("alignment.ppo.trainer",), "Of the model card.", card),
    PrivateName("_tag_names", "trl", ("alignment.ppo.trainer",), "Of the model card.", card),
    PrivateName("_paper", "trl", ("alignment.ppo.trainer",), "Of the model card.", card),
    PrivateName(
        "_prepare_inputs",
        "trl",
        ("alignment.ppo.trainer",),
        "Where a batch of prompts becomes a micro-batch of a rollout, within Trainer's step.",
        prepare_inputs,
    ),
    PrivateName(
        "_get_train_sampler",
        "trl",
        ("alignment.ppo.responses",),
        "get_train_dataloader takes no sampler, and TRL's own cannot resume after an epoch.",
        get_train_sampler,
    ),
    PrivateName(
        "_generate",
        "trl",
        ("alignment.ppo.responses",),
        "Generation by transformers, continuous batching or vLLM has no public method.",
        generate,
    ),
    PrivateName(
        "_tokenize_prompts",
        "trl",
        ("alignment.ppo.responses",),
        "_generate calls it; prompts are rendered and tokenised before, in one place.",
        tokenize_prompts,
    ),
    PrivateName(
        "_calculate_rewards",
        "trl",
        ("alignment.ppo.responses",),
        "Calls reward functions, also async ones, and gathers; RLOO has no public method for it.",
        calculate_rewards,
    ),
    PrivateName(
        "_subclasses",
        "torch",
        ("alignment.plan.steps",),
        "FakeTensorMode has no public place; meta tensors know no device and no storage.",
        fake_tensors,
    ),
    PrivateName(
        "_python_dispatch",
        "torch",
        ("alignment.plan.ledger",),
        "TorchDispatchMode has no public place; it sees every tensor that a step allocates.",
        dispatch_mode,
    ),
)

#: Where an attribute of an object from a library is replaced or set by a computed name, and why.
REPLACED = {
    "alignment.memory.restore": "setattr puts back buffers of modules, whose names only they know",
    "alignment.plan.head": "a model's forward, as TRL's add_fused_lm_head replaces it",
    "alignment.ppo.forward": (
        "a model's forward: DDP, FSDP and DeepSpeed call that of the module that they wrap, so a "
        "pass with other arguments has to go through it; TRL's add_fused_lm_head does likewise"
    ),
}
