"""What users get wrong, one row a mistake: the exact first line, exit code 2, nothing heavy loaded.

All run in one fresh process, in which torch must not have been imported at the end of any of them.
"""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, make_tokenizer, write_jsonl

from alignment.registry import STAGES

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
SFT = {"prompt": "a", "completion": "b"}
#: Files beside the row of a mistake: text as it is, bytes as they are.
FILES: dict[str, str | bytes] = {
    "pairs.jsonl": json.dumps(PAIR) + "\n",
    "sft.jsonl": json.dumps(SFT) + "\n",
    "labelled.jsonl": json.dumps({**SFT, "label": True}) + "\n",
    "prompts.jsonl": '{"prompt": "a"}\n',
    "text.jsonl": '{"text": "a b c"}\n',
    "empty.jsonl": "",
    "page.jsonl": "<html>log in</html>\n",
    "lfs.jsonl": "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
    "nul.jsonl": '{"prompt": "a\0", "completion": "b"}\n',
    "bare.jsonl": '"x"\n',
    "list.jsonl": "[1]\n",
    "cut.jsonl": json.dumps(SFT) + '\n{"prompt": "a", "comp',
    "nan.jsonl": '{"prompt": "a", "completion": NaN}\n',
    "number.jsonl": '{"prompt": 1, "completion": "b"}\n',
    "null.jsonl": '{"prompt": null, "completion": "b"}\n',
    "blank.jsonl": '{"prompt": "a", "completion": ""}\n',
    "twice.jsonl": '{"prompt": "a", "prompt": "b", "completion": "c"}\n',
    "unknown.jsonl": '{"foo": 1}\n',
    "words.jsonl": '{"messages": "hi"}\n',
    "role.jsonl": '{"messages": [{"role": "asistant", "content": "x"}]}\n',
    "no-role.jsonl": '{"messages": [{"content": "x"}]}\n',
    "no-content.jsonl": '{"messages": [{"role": "user", "content": null}]}\n',
    "integer.jsonl": '{"messages": [{"role": "user", "content": 5}]}\n',
    "no-turns.jsonl": '{"messages": []}\n',
    "no-answer.jsonl": '{"messages": [{"role": "user", "content": "x"}]}\n',
    "no-rejected.jsonl": '{"prompt": "a", "chosen": "b"}\n',
    "null-chosen.jsonl": '{"prompt": "a", "chosen": null, "rejected": "c"}\n',
    "late.jsonl": (json.dumps(PAIR) + "\n") * 99 + '{"prompt": "a", "chosen": 1, "rejected": "c"}',
    "latin.jsonl": b'{"prompt": "\xff", "completion": "b"}\n',
    "tabs.yaml": "seed:\n\t- 1\n",
    "list.yaml": "- seed\n",
    "twice.yaml": "seed: 1\nseed: 2\n",
    "empty.yaml": "",
    "colon.yaml": "seed: a: b\n",
    "unknown.yaml": "output_dir: o\nlearnin_rate: 1\n",
    "factory.yaml": "lora_rank: 8\ncutoff_len: 512\nlearnin_rate: 1\n",
    "pipeline.yaml": "output_dir: o\nstages:\n  sft: {config: sft.yaml}\n",
    "word.yaml": "learning_rate: fast\n",
    "clock.yaml": "max_steps: 12:30\n",
    "grouped.yaml": "max_steps: 1_000\n",
    "half.yaml": "seed: 1.5\n",
    "maybe.yaml": "use_peft: maybe\n",
    "object.yaml": "seed: !!python/object/apply:os.system [ls]\n",
    "batch.yaml": "# a page\nper_device_train_batch_size: 0\n",
    "broken.json": "{zero",
    "nul-name.yaml": 'run_name: "a\\0b"\n',
    "bell.yaml": 'run_group: "a\\ab"\n',
    "rule.py": "def other(completions, **_):\n    return [0.0 for _ in completions]\n",
    "torn.py": "def other(:\n",
}

#: A stage, its words, and the first line that is told. Words that are not given are good ones.
MISTAKES: list[tuple[str, str, str]] = [
    # recipes
    ("sft", "none.yaml", "none.yaml: no such file"),
    ("sft", "tabs.yaml",
     "tabs.yaml:2: not YAML: found character '\\t' that cannot start any token"),
    ("sft", "list.yaml", "list.yaml:1: not a mapping"),
    ("sft", "twice.yaml", "twice.yaml:2: 'seed' is given twice"),
    ("sft", "empty.yaml", "empty.yaml: empty"),
    ("sft", "colon.yaml", "colon.yaml:1: not YAML: mapping values are not allowed here"),
    ("sft", "unknown.yaml", "unknown.yaml:2: unknown key 'learnin_rate'"),
    ("sft", "word.yaml", "word.yaml:1: learning_rate: expected a number, got 'fast'"),
    ("sft", "clock.yaml", "clock.yaml:1: max_steps: expected an integer, got '12:30'"),
    ("sft", "grouped.yaml", "grouped.yaml:1: max_steps: expected an integer, got '1_000'"),
    ("sft", "half.yaml", "half.yaml:1: seed: expected an integer, got '1.5'"),
    ("sft", "maybe.yaml", "maybe.yaml:1: use_peft: expected true or false, got 'maybe'"),
    ("sft", "object.yaml", "object.yaml:1: seed: expected an integer, got '[\"ls\"]'"),
    ("sft", "batch.yaml",
     "batch.yaml:2: per_device_train_batch_size: 0 must be 1 or more"),
    ("sft", "factory.yaml",
     "3 unknown keys: 'lora_rank' (factory.yaml:1), 'cutoff_len' (factory.yaml:2), 'learnin_rate' "
     "(factory.yaml:3)"),
    ("sft", "factory.yaml --lr 1 --qq 1",
     "5 unknown keys: 'lora_rank' (factory.yaml:1), 'cutoff_len' (factory.yaml:2), 'learnin_rate' "
     "(factory.yaml:3), 'lr', 'qq'"),
    ("sft", "pipeline.yaml", "pipeline.yaml: is a pipeline, not a recipe of sft"),
    ("sft", "--seed 1 -lr 3", "-lr: no such short flag"),
    # values
    ("sft", "--bet 1", "--bet: unknown key 'bet'"),
    ("sft", "--learning_rate -1", "learning_rate: -1.0 must be 0 or more"),
    ("sft", "--learning_rate nan", "--learning_rate: expected a number, got 'nan'"),
    ("sft", "--seed", "--seed: a value is missing"),
    ("sft", "--max_steps 0", "max_steps: 0 trains nothing"),
    ("sft", "--num_train_epochs 0", "num_train_epochs: 0.0 trains nothing"),
    ("sft", "--per_device_eval_batch_size 0", "per_device_eval_batch_size: 0 must be 1 or more"),
    ("sft", "--gradient_accumulation_steps 0", "gradient_accumulation_steps: 0 must be 1 or more"),
    ("sft", "--lora_r 0", "lora_r: 0 must be 1 or more"),
    ("sft", "--lora_dropout 1", "lora_dropout: 1.0 must be at least 0 and under 1"),
    ("sft", "--max_length 0", "max_length: 0 must be 1 or more"),
    ("sft", "--max_rows 0", "max_rows: 0 must be 1 or more"),
    ("sft", "--weight_decay -0.1", "weight_decay: -0.1 must be 0 or more"),
    ("sft", "--adam_beta2 1.5", "adam_beta2: 1.5 must be at least 0 and under 1"),
    ("sft", "--save_steps 0", "save_steps: 0.0 must be over 0"),
    ("sft", "--logging_steps 0", "logging_steps: 0.0 must be over 0"),
    ("sft", "--save_total_limit 0", "save_total_limit: 0 must be 1 or more"),
    ("sft", "--eval_fraction 1", "eval_fraction: 1.0 must be at least 0 and under 1"),
    ("sft", "--max_loss_spike 0.5", "max_loss_spike: 0.5 must be over 1"),
    ("sft", "--dtype int3", "--dtype: 'int3' is none of auto, bfloat16, float16, float32"),
    ("sft", "--on_bad_row maybe", "--on_bad_row: 'maybe' is none of raise, drop"),
    ("dpo", "--beta -0.1", "beta: -0.1 must be 0 or more"),
    ("dpo", "--loss_type sigmoyd", "loss_type: no loss 'sigmoyd'"),
    ("dpo", "--label_smoothing 2", "label_smoothing: 2.0 must be at least 0 and under 0.5"),
    ("kto", "--loss_type kta", "--loss_type: 'kta' is none of kto, apo_zero_unpaired"),
    ("kto", "--desirable_weight -1", "desirable_weight: -1.0 must be 0 or more"),
    ("kto", "--per_device_train_batch_size 1",
     "per_device_train_batch_size: 1 leaves no other row in the batch to estimate the KL with"),
    ("kto", "--eval_fraction 0.5 --per_device_eval_batch_size 1",
     "per_device_eval_batch_size: 1 leaves no other row in the batch to estimate the KL with"),
    ("kto", "--train_sampling_strategy random",
     "train_sampling_strategy: random is not possible: KTOTrainer reads the rows in their order"),
    ("kto", "--auto_find_batch_size",
     "auto_find_batch_size: could end at one row, which leaves no other answer to estimate the KL "
     "with"),
    ("kto", "--precompute_ref_log_probs --precompute_ref_batch_size 64",
     "precompute_ref_batch_size: 64 would estimate the KL of the reference with the answers of "
     "other batches"),
    ("ppo", "--gamma 1.5", "gamma: 1.5 must be within 0 and 1"),
    ("ppo", "--temperature 0", "temperature: 0.0 must be over 0"),
    ("ppo", "--max_completion_length 0", "max_completion_length: 0 must be 1 or more"),
    # combinations
    ("sft", "--resume --overwrite", "resume: cannot continue a run that overwrite deletes"),
    ("sft", "--resume_anyway", "resume_anyway: does nothing without resume"),
    ("sft", "--resume_from_checkpoint x",
     "resume_from_checkpoint: is not supported: align chooses the newest complete checkpoint"),
    ("sft", "--resume --save_only_model",
     "save_only_model: saves no optimizer, so a run cannot resume"),
    ("sft", "--resume --ignore_data_skip",
     "ignore_data_skip: would train on the first rows again"),
    ("dpo", "--resume --sync_ref_model",
     "sync_ref_model: cannot resume: checkpoints do not hold the moved reference"),
    ("kto", "--sync_ref_model --use_peft",
     "sync_ref_model: needs a reference model of its own, and an adapter has none"),
    ("dpo", "--sync_ref_model --precompute_ref_log_probs",
     "sync_ref_model: changes the reference, whose log-probabilities are computed only once"),
    ("sft", "--eval_data sft.jsonl --eval_fraction 0.1",
     "eval_fraction: is not used when eval_data is given"),
    ("sft", "--eval_strategy steps", "eval_strategy: steps, but no rows are held out"),
    ("sft", "--load_best_model_at_end --save_strategy no",
     "load_best_model_at_end: needs checkpoints, but save_strategy is no"),
    ("sft", "--load_best_model_at_end",
     "load_best_model_at_end: needs evaluations, but eval_strategy is no"),
    ("sft", "--load_best_model_at_end --eval_strategy epoch --eval_fraction 0.5",
     "load_best_model_at_end: needs eval_strategy and save_strategy to be the same"),
    ("sft", "--save_strategy best",
     "save_strategy: best needs evaluations, but eval_strategy is no"),
    ("sft", "--bf16 --fp16", "bf16: cannot be on together with fp16"),
    ("sft", "--fp16 --use_cpu", "fp16: needs a GPU, and use_cpu is set"),
    ("sft", "--load_in_4bit --load_in_8bit",
     "load_in_4bit: cannot be on together with load_in_8bit"),
    ("sft", "--load_in_4bit", "load_in_4bit: trains nothing without an adapter"),
    ("ppo", "--critic lora",
     "critic: lora shares the frozen base of a LoRA policy, and model is a whole model"),
    ("ppo", "--max_loss_spike 3",
     "max_loss_spike: PPO's loss is around 0 and has no median to compare with"),
    ("ppo", "--reward_weights 1 2 --reward_model model",
     "reward_weights: [1.0, 2.0] is not one number for each reward_model"),
    ("ppo", "--use_vllm", "use_vllm: vllm is not installed"),
    ("sft", "--report_to wandbb", "report_to: no tracker 'wandbb'"),
    ("sft", "--report_to dvclive", "report_to: dvclive is not installed"),
    ("sft", "--deepspeed zero.json", "deepspeed: deepspeed is not installed"),
    ("sft", "--fsdp_config none.json", "fsdp_config: none.json: no such file"),
    ("sft", "--chat_template_path none.jinja", "chat_template_path: none.jinja: no such file"),
    ("sft", "--accelerator_config none.json", "accelerator_config: none.json: no such file"),
    ("sft", "--model_init_kwargs foo", "--model_init_kwargs: expected a mapping, got 'foo'"),
    ("ppo", "--generation_kwargs foo", "--generation_kwargs: expected a mapping, got 'foo'"),
    ("sft", "--dataloader_multiprocessing_context fork",
     "dataloader_multiprocessing_context: needs dataloader_num_workers over 0"),
    ("ppo", "--num_generations_eval 0", "num_generations_eval: 0 must be 1 or more"),
    ("ppo", "--generation_batch_size 0", "generation_batch_size: 0 must be 1 or more"),
    ("dpo", "--beta 0",
     "beta: 0 makes the loss the same for every policy: nothing would be learned"),
    ("rm", "--center_rewards_coefficient -1", "center_rewards_coefficient: -1.0 must be 0 or more"),
    ("ppo", "--missing_eos_penalty -1", "missing_eos_penalty: -1.0 must be 0 or more"),
    ("ppo", "--epsilon_high 0", "epsilon_high: 0.0 must be over 0"),
    ("ppo", "--chat_template_kwargs {\"enable_thinkin\":false}",
     "chat_template_kwargs: the chat template does not read enable_thinkin"),
    ("sft", "--optim sgd --optim_args foo=1", "optim_args: sgd has no 'foo'"),
    ("sft", "--optim sgd --optim_args momentum=x", "optim_args: momentum: 'x' is no number"),
    ("sft", "--lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs {\"min_lr\":\"x\"}",
     "lr_scheduler_kwargs: min_lr: 'x' is no number"),
    ("sft", "--lr_scheduler_type reduce_lr_on_plateau --eval_strategy epoch --eval_fraction 0.5 "
     "--lr_scheduler_kwargs {\"foo\":1}", "lr_scheduler_kwargs: reduce_lr_on_plateau has no 'foo'"),
    # keys that would change nothing: tests/contracts/test_ignored.py has them all
    ("sft", "--lora_r 64", "lora_r: acts only with use_peft"),
    # names that would leave their place
    ("sft", "--run_name ../up", "run_name: '../up' would leave its folder"),
    ("sft", "--run_name a/../../up", "run_name: 'a/../../up' would leave its folder"),
    ("sft", "--run_name /tmp/far", "run_name: '/tmp/far' would leave its folder"),
    ("sft", "--run_name ~/far", "run_name: '~/far' would leave its folder"),
    ("sft", "--run_name C:\\far", r"run_name: 'C:\\far' would leave its folder"),
    ("sft", "--run_name ..\\up", r"run_name: '..\\up' would leave its folder"),
    ("sft", "nul-name.yaml", "nul-name.yaml:1: run_name: contains a NUL byte"),
    ("sft", "--output_dir a\0b", "output_dir: contains a NUL byte"),
    ("sft", "--train_data a\0b", "train_data: contains a NUL byte"),
    ("sft", "bell.yaml", r"bell.yaml:1: run_group: 'a\x07b' contains a control character"),
    ("dpo", "--run_group ../up", "run_group: '../up' would leave its folder"),
    ("dpo", "--run_group /tmp/far", "run_group: '/tmp/far' would leave its folder"),
    ("dpo", "--project ../up", "project: '../up' would leave its folder"),
    ("rm", "--hub_model_id ../up", "hub_model_id: '../up' would leave its folder"),
    ("rm", "--hub_model_id /tmp/far", "hub_model_id: '/tmp/far' would leave its folder"),
    ("rm", "--hub_model_id a/b/c", "hub_model_id: 'a/b/c' is not a hub name"),
    ("rm", "--trackio_space_id ../up", "trackio_space_id: '../up' would leave its folder"),
    ("ppo", "--model_revision ../up", "model_revision: '../up' would leave its folder"),
    ("ppo", "--hub_revision /tmp/far", "hub_revision: '/tmp/far' would leave its folder"),
    ("dpo", "--model_adapter_name ../up", "--model_adapter_name: unknown key 'model_adapter_name'"),
    # models and folders
    ("sft", "--model_name_or_path null", "model_name_or_path: no model is named"),
    ("sft", "--model_name_or_path ./none",
     "model_name_or_path: ./none: no such folder, and no hub model that can be reached"),
    ("sft", "--model_name_or_path bare",
     "model_name_or_path: bare: no model here: no config.json, no adapter_config.json"),
    ("sft", "--model_name_or_path hollow",
     "model_name_or_path: hollow: a config but no weights"),
    ("sft", "--model_name_or_path orphan",
     "model_name_or_path: base of the adapter orphan: ./gone: no such folder, and no hub model "
     "that can be reached"),
    ("ppo", "--reward_model none:reward", "reward_model: none:reward: no module 'none'"),
    ("ppo", "--reward_model rule:reward",
     "reward_model: rule:reward: no function 'reward' in HERE/rule.py"),
    ("ppo", "--reward_model rule.py:reward",
     "reward_model: rule.py:reward: no function 'reward' in rule.py"),
    ("ppo", "--reward_model none.py:reward", "reward_model: none.py:reward: no file none.py"),
    ("ppo", "--reward_model torn:other", "reward_model: HERE/torn.py:1: invalid syntax"),
    ("ppo", "--reward_model bad.yaml:x:y",
     "reward_model: 'bad.yaml:x:y' is not a reward"),
    ("ppo", "--reward_model owner/name:v1", "reward_model: 'owner/name:v1' is not a reward"),
    ("ppo", "--reward_model ftp://host/score", "reward_model: 'ftp://host/score' is not a reward"),
    ("ppo", "--reward_model http:///score",
     "reward_model: http:///score: a URL without a host"),
    ("ppo", "--reward_model bare",
     "reward_model: bare: no model here: no config.json, no adapter_config.json"),
    ("sft", "--output_dir page.jsonl", "output_dir: page.jsonl: is a file"),
    ("sft", "--output_dir full", "output_dir: full: not empty, and not a run of align"),
    ("sft", "--output_dir .", "output_dir: HERE: to overwrite it would delete your files"),
    ("sft", "--output_dir model", "output_dir: HERE/model contains model_name_or_path model"),
    # what TRL, PEFT, transformers and torch reject only once a model is loaded
    ("sft", "--seed 4294967296", "seed: 4294967296 must be from 0 to 4294967295"),
    ("sft", "--pad_to_multiple_of 0", "pad_to_multiple_of: 0 must be 1 or more"),
    ("sft", "--eval_accumulation_steps 0", "eval_accumulation_steps: 0 must be 1 or more"),
    ("sft", "--torch_empty_cache_steps 0", "torch_empty_cache_steps: 0 must be 1 or more"),
    ("sft", "--neftune_noise_alpha -1", "neftune_noise_alpha: -1.0 must be 0 or more"),
    ("sft", "--label_smoothing_factor 1.5", "label_smoothing_factor: 1.5 must be within 0 and 1"),
    ("sft", "--logging_steps 1.5",
     "logging_steps: 1.5 must be a whole number, or a share of the steps under 1"),
    ("sft", "--load_best_model_at_end --eval_strategy steps --eval_steps 3 --save_steps 4 "
     "--eval_fraction 0.5",
     "load_best_model_at_end: needs an evaluation at each save, but save_steps is no multiple of "
     "eval_steps"),
    ("sft", "--eval_on_start", "eval_on_start: is set, but no rows are held out"),
    ("sft", "--lora_task_type FOO", "lora_task_type: 'FOO' is not a task of a stage"),
    ("sft", "--use_peft --lora_target_modules lm_head",
     "lora_target_modules: an adapter on lm_head is not trained, since losses read its weight"),
    ("sft", "--padding_free", "padding_free: does not cut rows at max_length without packing"),
    ("sft", "--packing --max_length null",
     "packing: needs blocks of a length, but max_length is null"),
    ("sft", "--activation_checkpointing_kwargs {\"foo\":1}",
     "activation_checkpointing_kwargs: {'foo': 1} has a key that torch does not know"),
    ("sft", "--activation_checkpointing false --activation_checkpointing_kwargs "
     "{\"selective\":true}",
     "activation_checkpointing_kwargs: selective needs activation_checkpointing"),
    ("sft", "--activation_checkpointing --activation_checkpointing_kwargs "
     "{\"selective\":true,\"use_reentrant\":true}",
     "activation_checkpointing_kwargs: selective cannot be on together with use_reentrant"),
    ("sft", "--optim_args foo", "optim_args: 'foo' is not key=value, key=value"),
    ("sft", "--optim galore_adamw", "optim_target_modules: is needed by this optim"),
    ("sft", "--optim lomo", "optim: lomo: lomo_optim is not installed"),
    ("sft", "--lr_scheduler_type greedy",
     "lr_scheduler_type: greedy needs evaluations, but eval_strategy is no"),
    ("sft", "--lr_scheduler_type cosine_with_min_lr",
     "lr_scheduler_type: cosine_with_min_lr needs the rate that it ends with"),
    ("sft", "--lr_scheduler_type warmup_stable_decay",
     "lr_scheduler_type: warmup_stable_decay needs the number of its last steps"),
    ("sft", "--lr_scheduler_type polynomial --lr_scheduler_kwargs {\"lr_end\":1}",
     "lr_scheduler_kwargs: lr_end must be under the learning_rate"),
    ("sft", "--lr_scheduler_type cosine --lr_scheduler_kwargs {\"foo\":1}",
     "lr_scheduler_kwargs: cosine has no 'foo'"),
    ("sft", "--dataloader_persistent_workers",
     "dataloader_persistent_workers: needs dataloader_num_workers over 0"),
    ("sft", "--dataloader_prefetch_factor 2",
     "dataloader_prefetch_factor: needs dataloader_num_workers over 0"),
    ("sft", "--attn_implementation foo",
     "attn_implementation: 'foo' is none of eager, sdpa, flash_attention_2, flash_attention_3, "
     "flash_attention_4, flex_attention"),
    ("sft", "--attn_implementation flash_attention_3",
     "attn_implementation: flash_attention_3: flash_attn_interface is not installed"),
    ("sft", "--torch_compile_mode foo",
     "torch_compile_mode: 'foo' is none of default, lite, reduce-overhead, max-autotune, "
     "max-autotune-no-cudagraphs"),
    ("sft", "--bnb_4bit_quant_storage foo",
     "bnb_4bit_quant_storage: 'foo' is none of uint8, int8, float16, bfloat16, float32, float64"),
    ("sft", "--pad_token <foo>", "pad_token: '<foo>' is no token of model"),
    ("sft", "--eos_token <foo>", "eos_token: '<foo>' is no token of model"),
    ("dpo", "--loss_type exo_pair", "label_smoothing: 0.0 leaves exo_pair undefined"),
    ("dpo", "--loss_type robust --label_smoothing 0.5",
     "label_smoothing: 0.5 must be at least 0 and under 0.5"),
    ("dpo", "--loss_type sppo_hard --f_divergence_type js_divergence",
     "f_divergence_type: js_divergence is possible only with the losses discopop, exo_pair, hinge, "
     "ipo, robust, sft, sigmoid, sigmoid_norm"),
    ("dpo", "--f_divergence_type foo",
     "f_divergence_type: 'foo' is none of reverse_kl, forward_kl, js_divergence, alpha_divergence"),
    ("dpo", "--loss_type aot --use_weighting", "use_weighting: cannot weight pairs that aot sorts"),
    ("dpo", "--loss_type sigmoid sft --loss_weights 1",
     "loss_weights: [1.0] is not one number for each loss_type"),
    ("dpo", "--sync_ref_model --ref_model_sync_steps 0",
     "ref_model_sync_steps: 0 must be 1 or more"),
    ("dpo", "--discopop_tau 0", "discopop_tau: 0.0 must be over 0"),
    ("kto", "--desirable_weight 0 --undesirable_weight 0",
     "undesirable_weight: 0.0, and desirable_weight too: nothing would be learned"),
    ("ppo", "--top_k -1", "top_k: -1 must be 0 or more"),
    ("ppo", "--top_p 1.5", "top_p: 1.5 must be within 0 and 1"),
    ("ppo", "--min_p 2", "min_p: 2.0 must be within 0 and 1"),
    ("ppo", "--repetition_penalty 0", "repetition_penalty: 0.0 must be over 0"),
    ("ppo", "--cache_implementation foo",
     "cache_implementation: 'foo' is none of static, offloaded_static, sliding_window, hybrid, "
     "hybrid_chunked, offloaded_hybrid, offloaded_hybrid_chunked, dynamic, offloaded, quantized"),
    ("ppo", "--sync_ref_model --beta 0",
     "sync_ref_model: moves a reference that beta 0 leaves out"),
    ("sft", "--model_name_or_path scorer",
     "model_name_or_path: scorer: LlamaForSequenceClassification scores answers and cannot "
     "generate any"),
    ("sft", "--model_name_or_path torn",
     "torn/config.json: not a model's config (Expecting value: line 1 column 16 (char 15))"),
    # data
    ("sft", "--train_data none.jsonl", "none.jsonl: no such file"),
    ("sft", "--train_data hollow-folder", "hollow-folder: no data file in this folder"),
    ("sft", "--train_data empty.jsonl", "empty.jsonl:1: the file is empty"),
    ("sft", "--train_data page.jsonl", "page.jsonl:1: this is a web page, not data"),
    ("sft", "--train_data lfs.jsonl", "lfs.jsonl:1: this is a git-lfs pointer, not data"),
    ("sft", "--train_data latin.jsonl",
     "latin.jsonl:1:13: not UTF-8: byte 0xff (byte 13 of the line)"),
    ("sft", "--train_data nul.jsonl",
     "nul.jsonl:1:14: not JSON: unexpected control character in string, found '\\x00\", "
     "\"complet'"),
    ("sft", "--train_data bare.jsonl",
     "bare.jsonl:1: this row is a string, wanted an object with named fields"),
    ("sft", "--train_data list.jsonl",
     "list.jsonl:1: this row is a number, wanted an object with named fields"),
    ("sft", "--train_data cut.jsonl", "cut.jsonl:2:22: not JSON: the line breaks off"),
    ("sft", "--train_data nan.jsonl",
     "nan.jsonl:1:31: not JSON: unexpected character, expected a JSON value, found 'NaN}'"),
    ("sft", "--train_data number.jsonl",
     "number.jsonl:1: 'prompt' is number, wanted text or turns; the row has 'prompt', "
     "'completion'"),
    ("sft", "--train_data null.jsonl",
     "null.jsonl:1: 'prompt' is null, wanted text or turns; the row has 'prompt', 'completion'"),
    ("sft", "--train_data blank.jsonl", "blank.jsonl:1: 'completion' is empty"),
    ("sft", "--train_data twice.jsonl", "twice.jsonl:1: the key 'prompt' appears twice"),
    ("sft", "--train_data unknown.jsonl", "unknown.jsonl:1: no known format: the row has 'foo'"),
    ("sft", "--train_data words.jsonl",
     "words.jsonl:1: 'messages' is text, wanted turns; the row has 'messages'"),
    ("sft", "--train_data role.jsonl", "role.jsonl:1: messages[0] has the role 'asistant'"),
    ("sft", "--train_data no-role.jsonl",
     "no-role.jsonl:1: messages[0] has no role; the row has 'messages'"),
    ("sft", "--train_data no-content.jsonl",
     "no-content.jsonl:1: messages[0] holds null, wanted text"),
    ("sft", "--train_data integer.jsonl",
     "integer.jsonl:1: messages[0] holds the number 5, wanted text"),
    ("sft", "--train_data no-turns.jsonl", "no-turns.jsonl:1: 'messages' is an empty list"),
    ("sft", "--train_data no-answer.jsonl",
     "no-answer.jsonl:1: no turn of the assistant: nothing to learn"),
    ("dpo", "--train_data sft.jsonl",
     "sft.jsonl:1: this looks like SFT data, format 'prompt-completion', wanted preference pairs "
     "('prompt', 'chosen', 'rejected')"),
    ("rm", "--train_data prompts.jsonl",
     "prompts.jsonl:1: this looks like prompts without answers, format 'prompt', wanted preference "
     "pairs ('prompt', 'chosen', 'rejected')"),
    ("kto", "--train_data sft.jsonl",
     "sft.jsonl:1: this looks like SFT data, format 'prompt-completion', wanted answers with "
     "labels ('prompt', 'completion', 'label')"),
    ("dpo", "--train_data no-rejected.jsonl",
     "no-rejected.jsonl:1: no 'rejected'; the row has 'prompt', 'chosen'"),
    ("dpo", "--train_data null-chosen.jsonl",
     "null-chosen.jsonl:1: 'chosen' is null, wanted object or text or turns; the row has "
     "'prompt', 'chosen', 'rejected'"),
    ("dpo", "--train_data late.jsonl",
     "late.jsonl:100: 'chosen' is number, wanted object or text or turns; the row has "
     "'prompt', 'chosen', 'rejected'"),
]  # fmt: skip

#: A file of each kind of row.
GOOD = {"text": "text.jsonl", "sft": "sft.jsonl", "preference": "pairs.jsonl",
        "unpaired": "labelled.jsonl", "prompt": "prompts.jsonl"}  # fmt: skip

PROGRAM = """\
import contextlib, io, json, sys
from alignment.training.run import main
for line in sys.stdin:
    stage, words = json.loads(line)
    told, out = io.StringIO(), io.StringIO()
    code = "went on"
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(out):
        try:
            main(stage, words)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    heavy = sorted({"torch", "transformers", "trl", "datasets"} & set(sys.modules))
    print(json.dumps([code, told.getvalue(), heavy]), flush=True)
"""


def arguments(stage: str, words: list[str]) -> list[str]:
    """The words of a mistake, with good ones for what it does not name."""
    data = GOOD[STAGES[stage].kind]
    good = {"--model_name_or_path": "model", "--train_data": data, "--output_dir": "out"}
    good |= {"--report_to": "none"}
    good |= {"--reward_model": "model"} if "reward_model" in STAGES[stage].roles else {}
    rest = [word for key, value in good.items() if key not in words for word in (key, value)]
    return [*words, *rest]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """What every mistake is told, all from one process."""
    from alignment.settings.schema import schema_of

    here = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in ("model", "hollow", "bare", "orphan", "full", "hollow-folder", "scorer", "torn"):
        (here / name).mkdir()
    scorer = '{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}'
    for name, config in (("scorer", scorer), ("torn", '{"model_type": ')):
        (here / name / "config.json").write_text(config)
        (here / name / "model.safetensors").write_bytes(b"0")
    for name in ("model", "hollow"):
        (here / name / "config.json").write_text('{"model_type": "llama"}')
    (here / "model" / "model.safetensors").write_bytes(b"0")
    make_tokenizer().save_pretrained(here / "model")
    write_jsonl(here / "orphan" / "adapter_config.json", [{"base_model_name_or_path": "./gone"}])
    (here / "orphan" / "adapter_model.safetensors").write_bytes(b"0")
    (here / "full" / "thesis.txt").touch()
    for stage in STAGES:
        schema_of(stage)  # read once for each set of versions, which does need torch
    lines = [json.dumps([stage, arguments(stage, words.split())]) for stage, words, _ in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input="\n".join(lines), cwd=here,
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    return here, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda n: " ".join(MISTAKES[n][:2]))
def test_a_mistake_is_reported_before_anything_heavy(
    number: int, answers: tuple[Path, list[Any]]
) -> None:
    here, found = answers
    code, told, heavy = found[number]
    first = told.splitlines()[0].replace(str(here), "HERE") if told else ""
    assert (first, code) == (f"error: {MISTAKES[number][2]}", 2)
    assert len(told.splitlines()) <= 2
    assert heavy == []
    assert not (here / "out").exists()


def test_the_table_is_long_and_repeats_nothing() -> None:
    assert len({(stage, words) for stage, words, _ in MISTAKES}) == len(MISTAKES) >= 100
    assert len({message for _, _, message in MISTAKES}) == len(MISTAKES)


def test_the_losses_are_those_of_trl() -> None:
    import trl.trainer.dpo_trainer as module

    known = re.findall(r'loss_type == "(\w+)"', inspect.getsource(module.DPOTrainer))
    assert set(STAGES["dpo"].losses) == set(known)
