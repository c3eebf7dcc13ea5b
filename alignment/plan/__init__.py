"""`align plan`: the memory and time of a stage, told from its recipe before anything is loaded."""
