"""`python -m benchmarks`: all of them."""

from benchmarks import checkpoint, combination, commands, import_hf, train_step

for benchmark in (commands, train_step, combination, import_hf, checkpoint):
    benchmark.main()
