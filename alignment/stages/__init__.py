"""The stages, one module each.

To add a stage, add its module here: `STAGE`, an `alignment.registry.Stage` that answers every
question the rest of the program has, and `run(job)`, which builds a trainer on
`alignment.training.arguments.trainer_arguments(job)` and hands it to `job.train`. Import torch,
TRL and the trainer within `run`: help, pipelines and plans read `STAGE` without them.

The stage then has its command, its place in pipelines, plans and reports, and its row in the tests
of all stages. It also needs a script (`recipes/<stage>.py`), a recipe, and lines in the READMEs;
a new kind of row also needs a format in `data_tools.shapes` and its columns in
`alignment.data.columns`.
"""
