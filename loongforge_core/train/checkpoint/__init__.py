"""Checkpoints: model, optimizer and scheduler by Megatron's dist_checkpointing, complete or invisible (I4).

    <output_dir>/checkpoints/step_00000800/    loongforge.json      what it is of, and what each file is: see record.py
                                               everything else      Megatron's and torch's

Its tensors are stored by their global names, whatever the layout: see stored.py.
"""
