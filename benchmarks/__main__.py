"""`python -m benchmarks`: all of them."""

from benchmarks import commands, train_step

commands.main()
train_step.main()
