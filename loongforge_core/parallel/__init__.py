"""What runs a model across processes, and Megatron-Core where there is no accelerator."""
