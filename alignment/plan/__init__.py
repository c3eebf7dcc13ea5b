"""`align plan`: the memory and time of a stage, estimated before anything is loaded."""
