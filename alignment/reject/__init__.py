"""Generate the rejected answers of preference pairs with a model, or rank its own samples.

The output depends only on the input, the model and the options, so a run that was killed continues
where it stopped and writes the same bytes. `plan` checks everything that needs no torch, `work`
answers the rows batch by batch, `parts` stores finished batches, and `output` writes the pairs.
"""
