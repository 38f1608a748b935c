"""What a person types: one file per command; options, messages, exit codes, nothing else."""
