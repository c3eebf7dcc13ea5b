"""What a stage starts from: model folders, tokenizers, policies, classifiers, merging, presets."""
