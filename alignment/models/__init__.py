"""What a stage starts from: model folders, tokenizers, policies, merging, presets."""
