"""`python -m benchmarks`: all of them."""

from benchmarks import checkpoint, combination, commands, components, import_hf, qwen3_vl, train_step

for benchmark in (commands, train_step, qwen3_vl, components, combination, import_hf, checkpoint):
    benchmark.main()
