"""`python -m benchmarks`: all of them."""

from benchmarks import checkpoint, combination, commands, components, data, import_hf, qwen3_vl, train_step

for benchmark in (commands, train_step, qwen3_vl, components, combination, import_hf, checkpoint, data):
    benchmark.main()
